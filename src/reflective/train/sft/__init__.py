"""Supervised training on solution traces. `train_sft` in `run.py` is the entry point."""
