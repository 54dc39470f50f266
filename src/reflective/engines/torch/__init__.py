"""The embedded engine (PyTorch)."""

from reflective.engines.torch.engine import TorchEngine, step_logprobs

__all__ = ["TorchEngine", "step_logprobs"]
