"""One file per method: the paper, its equation, one config and one layer."""
