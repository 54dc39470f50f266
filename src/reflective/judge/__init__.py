"""The self-supervised process reward model: where steps end, how the head scores them, how it learns.

Import from the submodules; `segment`, `aggregate`, `metrics` and `calibrate` need no torch.
"""
