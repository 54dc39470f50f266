"""Checkpoints: a plain Hugging Face folder, plus `sprm/config.json` and `sprm/head.safetensors` in a sub-folder.

Any runtime can load the folder as the language model that it is; the head lies in the sub-folder, where runtimes
that load every top-level safetensors file don't trip over it. The reference's `score_module.pt` beside the weights is
read, too. Loading never runs code from a checkpoint, saving never leaves half a one, and whatever does not fit is
refused in a line that says what to do.
"""

from reflective.judge.config import FORMAT_VERSION, SPRMConfig
from reflective.judge.fresh import init_head
from reflective.models.describe import describe
from reflective.models.load import Checkpoint, load_checkpoint
from reflective.models.reference import import_reference
from reflective.models.save import save_checkpoint, save_head
from reflective.models.source import NANO, resolve_device, resolve_dtype, resolve_source

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
