"""A decoding step as one call of compiled code, for CPUs: `decode.c` beside this file.

The model is the common decoder (`decoder.py`), in float32. With few rows the operators of a framework cost more to
start than to run; the compiled step starts its threads once. It is built when the package is installed, where there is
a C compiler; without one the engine decodes through `fused.py`, slower and with the same results.
"""

from reflective.engines.torch.backbones.native.backbone import NativeBackbone, obstacle
from reflective.engines.torch.backbones.native.binding import library

__all__ = ["NativeBackbone", "library", "obstacle"]
