"""Checkpoints: a plain Hugging Face folder, plus `sprm/config.json` and `sprm/head.safetensors` in a sub-folder.

Any runtime can load the folder as the language model that it is; the head lies in the sub-folder, where runtimes
that load every top-level safetensors file don't trip over it. The reference's `score_module.pt` beside the weights is
read, too. Loading never runs code from a checkpoint, saving never leaves half a one, and whatever does not fit is
refused in a line that says what to do.
"""

from reflective.models.describe import describe
from reflective.models.load import Checkpoint, load_checkpoint
from reflective.models.metadata import Metadata, read_metadata
from reflective.models.reference import import_reference
from reflective.models.save import save_checkpoint, save_judge
from reflective.models.source import NANO, resolve_device, resolve_dtype, resolve_source

__all__ = [
    "NANO",
    "Checkpoint",
    "Metadata",
    "describe",
    "import_reference",
    "load_checkpoint",
    "read_metadata",
    "resolve_device",
    "resolve_dtype",
    "resolve_source",
    "save_checkpoint",
    "save_judge",
]
