"""Adapters in files: Hugging Face's folder layout (`files.py`), and peft's names for each method (`peft_names.py`)."""
