"""Checkpoints: a plain Hugging Face folder, plus `sprm/config.json` and `sprm/head.safetensors` in a sub-folder.

Any runtime can load the folder as the language model that it is; the head lies in the sub-folder, where runtimes
that load every top-level safetensors file don't trip over it. The reference's `score_module.pt` beside the weights is
read, too. Loading never runs code from a checkpoint, saving never leaves half a one, and whatever does not fit is
refused in a line that says what to do.
"""

from reflective.checkpoint.attach import init_head
from reflective.checkpoint.config import FORMAT_VERSION, SPRMConfig
from reflective.checkpoint.describe import describe
from reflective.checkpoint.load import Checkpoint, load_checkpoint
from reflective.checkpoint.reference import import_reference
from reflective.checkpoint.save import save_checkpoint, save_head
from reflective.checkpoint.source import NANO, resolve_device, resolve_dtype, resolve_source

__all__ = [
    "FORMAT_VERSION",
    "NANO",
    "Checkpoint",
    "SPRMConfig",
    "describe",
    "import_reference",
    "init_head",
    "load_checkpoint",
    "resolve_device",
    "resolve_dtype",
    "resolve_source",
    "save_checkpoint",
    "save_head",
]
