"""Loading a checkpoint: backbone, tokenizer, head, and every reason to refuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from reflective.errors import CheckpointError, InputError, first_line
from reflective.judge.config import JudgeConfig
from reflective.judge.judge import Judge
from reflective.judge.sidecar import no_head
from reflective.models.fingerprint import LIMIT, check_deviation, measure, notice
from reflective.models.generation import make_valid
from reflective.models.gguf import form_of_file, is_gguf, model_type
from reflective.models.gguf_weights import DECODERS, GGUFWeights
from reflective.models.library_logging import quiet
from reflective.models.metadata import NO_HEAD, read_metadata
from reflective.models.source import SMALL_WEIGHTS, resolve_device, resolve_dtype
from reflective.models.stored import QUANTIZED, PackedKind, StoredWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflective.judge.heads import StepHead


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with its tokenizer and its judge, which has no head where the model has none.

    `name` is what the user called it, `remark` what a user should know of it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    name: str = ""
    weights: StoredWeights | None = None  # where they are to be packed; the model then is a form without memory
    deviation: float | None = None  # from the fingerprint of the head's model, where there is one and it was measured
    unchecked: bool = False  # whether an engine that packs the weights has yet to measure it
    remark: str = ""
    undecided: bool = False  # whether the engine may hold the weights in fewer bits than they are stored in ("auto")

    def dense(self) -> Checkpoint:
        """The same with its weights in the model, in the number type that "auto" gives."""
        if self.weights is None:
            return self
        folder = self.weights.dense_folder()
        dtype = resolve_dtype("auto", "cpu", stored_bytes(folder))
        with quiet():
            model = load_backbone(folder, self.name, dtype, torch.device("cpu"))
        return replace(self, model=model, weights=None, undecided=False)

    @property
    def head(self) -> StepHead | None:
        """The judge's head."""
        return self.judge.head

    @property
    def config(self) -> JudgeConfig | None:
        """The config of a judge that has a head."""
        return self.judge.config if self.judge.scores else None


def load_checkpoint(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    require_head: bool = True,
    packed: bool = False,
    **metadata: Any,
) -> Checkpoint:
    """Load "nano", a folder, a GGUF file or a hub id, in eval mode.

    With `packed`, for an engine that packs weights itself: int8, int4 and a CPU's bfloat16 leave them in their files,
    and so does "auto" on a CPU with large weights that are stored in bfloat16; the engine then chooses.

    The head is read from `sprm/`, or else from the reference's `score_module.pt`; it stays in float32. Without
    `require_head`, a plain language model loads, too, and its judge has no head. `metadata` are further arguments of
    `read_metadata`, such as `head`. A head that has a fingerprint is refused with another model, unless
    `check_fingerprint` is false. Code from a checkpoint never runs.
    """
    device = resolve_device(device)
    # the head first: it is small, and what is wrong with it should not cost the loading of the backbone
    form = _form_of_file(source, dtype, device) if packed else None
    found = read_metadata(source, folder=form, require_head=require_head, weights=True, **metadata)
    weights: StoredWeights | None = None
    if form is not None:
        weights = GGUFWeights(Path(source).expanduser(), form, found.model_config, cast(PackedKind, dtype))
    elif packed:
        weights = _stored(found.folder, dtype, device)
    number_type = resolve_dtype(dtype if weights is None else "float32", device, stored_bytes(found.folder))
    with quiet():
        if weights is not None:
            model = _form(found.folder, found.model_config)
            weights.check(model, source)
        else:
            model = load_backbone(found.folder, source, number_type, device)
    judge, remark, fingerprint = found.judge, found.remark, found.judge.config.fingerprint
    wanted = fingerprint is not None and metadata.get("check_fingerprint", True)
    deviation = measure(fingerprint, model) if wanted and fingerprint and weights is None else None
    if deviation is not None and deviation > LIMIT and found.shipped:  # it only looked like the model of that head
        if require_head:
            raise CheckpointError(no_head(source))
        plain = read_metadata(source, require_head=False, **{**metadata, "head": NO_HEAD})
        judge, remark, deviation, wanted = plain.judge, plain.remark, None, False
    elif deviation is not None:
        check_deviation(deviation, str(source))
        remark = " ".join(filter(None, (remark, notice(deviation))))
    if judge.head is not None:
        judge = replace(judge, head=judge.head.to(device))
    unchecked = wanted and weights is not None
    undecided = weights is not None and dtype == "auto"
    return Checkpoint(model, found.tokenizer, judge, str(source), weights, deviation, unchecked, remark, undecided)


def _form_of_file(source: str | Path, dtype: str | torch.dtype, device: torch.device) -> Path | None:
    """The folder that describes a GGUF file which is to be packed as it is; None where `source` is no such file."""
    path = Path(source).expanduser()
    if dtype not in QUANTIZED or device.type != "cpu" or not path.is_file() or not is_gguf(path):
        return None
    folder = form_of_file(path)
    return folder if model_type(folder) in DECODERS else None


def _stored(folder: Path, dtype: str | torch.dtype, device: torch.device) -> StoredWeights | None:
    """The folder's weights for an engine that packs them itself; None where they go into the model.

    "auto" packs large weights that are stored in bfloat16, in half the memory of float32 and with nothing lost.
    """
    quantized = next((kind for kind in QUANTIZED if kind == dtype), None)
    if device.type != "cpu":
        if quantized:
            raise InputError(f"dtype {dtype!r} is for CPUs, and the device is {device}. Give auto, or --device cpu.")
        return None
    kind = "bfloat16" if dtype in ("auto", "bfloat16", torch.bfloat16) else quantized
    if kind is None or not any(folder.glob("*.safetensors")):
        return None
    weights = StoredWeights(folder, kind)
    if dtype == "auto" and not (stored_bytes(folder) >= SMALL_WEIGHTS and weights.holds(torch.bfloat16)):
        return None
    return weights


def _form(folder: Path, config: Any) -> PreTrainedModel:
    """The model's modules and shapes without memory for their weights."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    form: PreTrainedModel = model.eval()
    return form


def stored_bytes(folder: Path) -> int:
    """What the backbone's weights take on the disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load_backbone(folder: Path, source: str | Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model in a folder, in eval mode, which has all of its weights; `source` is what the user called it."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # its return type does not know of the loading report
    if not any(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)):
        raise CheckpointError(f"'{source}' has no weights (no *.safetensors or *.bin). Copy the whole folder.")
    try:
        model, report = auto.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError):
        raise CheckpointError(
            f"'{source}' does not fit into the memory of {device}. Give dtype bfloat16, another device "
            "or a smaller model."
        ) from None
    except Exception as error:  # readers of several formats, each with errors of its own
        raise CheckpointError(
            f"the weights of '{source}' can't be loaded: {first_line(error)}. Copy or download them again."
        ) from None
    wrong = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"the weights of '{source}' are not those of its config.json: {', '.join(wrong[:3])}{more} are missing or "
            "of another shape. Copy the whole folder."
        )
    make_valid(model)
    result: PreTrainedModel = model.eval()
    return result
