"""Parameter-efficient fine-tuning, one page per method."""
