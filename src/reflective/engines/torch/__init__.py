"""The embedded engine (PyTorch)."""

from reflective.engines.torch.engine import TorchEngine

__all__ = ["TorchEngine"]
