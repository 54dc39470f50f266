"""The heads that the package ships: one folder per head, and `index.json`, which says whose they are.

A head's folder holds `config.json`, `head.safetensors` and `MODEL_CARD.md`. `reflective.models.shipped` reads them.
"""
