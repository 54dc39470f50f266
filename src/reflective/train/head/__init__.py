"""Head-only training: a score head for a model that does not change. `train_head` in `run.py` is the entry point."""
