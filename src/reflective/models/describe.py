"""What a checkpoint is, for `reflective info`: told from its small files, but for the deviation of its weights."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from reflective.errors import CheckpointError
from reflective.judge.config import BETWEEN, SPRM_FOLDER, WHOLE
from reflective.judge.judge import Judge
from reflective.judge.sidecar import REFERENCE_FILE, head_folder
from reflective.models.fingerprint import LIMIT, check_deviation, check_shapes, measure
from reflective.models.library_logging import quiet
from reflective.models.load import load_backbone, stored_bytes
from reflective.models.metadata import Metadata, read_metadata
from reflective.models.source import resolve_source

MAX_MEASURED = 8 * 2**30  # bytes of weights that are loaded to compare them with a fingerprint
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def describe(source: str | Path, *, deviation: bool = False, **metadata: Any) -> dict[str, Any]:
    """A JSON object about "nano", a folder, a GGUF file or a hub id. Of a hub model only small files are downloaded.

    With `deviation`, the weights are loaded where they are there and not too large, and compared with the fingerprint
    of the head. `metadata` are further arguments of `read_metadata`, such as `head`.
    """
    there = deviation and 0 < stored_bytes(resolve_source(source, weights=False)) <= MAX_MEASURED
    found = read_metadata(source, require_head=False, check_fingerprint=False, weights=there, **metadata)
    judge, model_config, folder = found.judge, found.model_config, found.folder
    with quiet():
        backbone = _count_parameters(model_config, source)
    text_config = model_config.get_text_config()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "name": str(source),
        "folder": str(folder),
        "architecture": (model_config.architectures or [model_config.model_type])[0],
        "parameters": {
            "backbone": backbone,
            "head": sum(p.numel() for p in judge.head.parameters()) if judge.head is not None else None,
        },
        "layers": text_config.num_hidden_layers,
        "hidden_size": text_config.hidden_size,
        "vocabulary": text_config.vocab_size,
        "context_length": getattr(text_config, "max_position_embeddings", None),
        "dtype": _stored_dtype(folder) or str(model_config.dtype or "float32").removeprefix("torch."),
        "size_bytes": sum(path.stat().st_size for path in files),
        "chat_template": bool(getattr(found.tokenizer, "chat_template", None)),
        "format": _describe_format(judge, found.tokenizer),
        "head": _describe_head(found, there) if judge.scores else None,
    }


def _describe_format(judge: Judge, tokenizer: Any) -> dict[str, Any]:
    """Where the reasoning lies and which tokens end a step."""
    format = judge.format

    def tokens(ids: Iterable[int]) -> list[dict[str, Any]]:
        return [{"id": i, "text": str(tokenizer.decode([i]))} for i in sorted(ids)]

    marks = (format.opening, format.closing)
    opening, closing = (str(tokenizer.decode([min(ids) for ids in mark])) if mark else None for mark in marks)
    return {
        "reasoning": WHOLE if format.is_whole else BETWEEN,
        "opening": opening,
        "closing": closing,
        "closes": format.closes,
        "step_tokens": tokens(format.step_ids),
        "blank_lines_of_newlines": bool(format.line_start_ids),
        "ends": tokens(format.end_ids),
        "template_kwargs": dict(judge.config.template_kwargs),
    }


def _describe_head(found: Metadata, measured: bool) -> dict[str, Any]:
    config, place = found.judge.config, found.head_folder or found.folder
    return {
        "folder": str(place),
        "shipped": found.shipped or None,
        "format": SPRM_FOLDER if head_folder(place) is not None else REFERENCE_FILE,
        "kind": config.kind,
        "layer": config.layer,
        "input_of_layer": config.layer_index(found.model_config.get_text_config().num_hidden_layers),
        "feature_position": config.feature_position,
        "aggregation": config.aggregation,
        "logprob_features": config.logprob_features,
        "probability_exponent": config.probability_exponent,
        "sampling": dict(config.sampling),
        "fingerprint": _describe_fingerprint(found, measured),
        "calibration": config.calibration.to_json() if config.calibration else None,
        "schedule": config.schedule.to_json() if config.schedule else None,
        "provenance": dict(config.provenance),
    }


def _describe_fingerprint(found: Metadata, measured: bool) -> dict[str, Any] | None:
    """Whether the model is that of the head: `fits` is None where the weights were not compared."""
    fingerprint = found.judge.config.fingerprint
    if fingerprint is None:
        return None
    told: dict[str, Any] = {"fits": None, "deviation": None, "limit": LIMIT, "reason": None}
    try:
        check_shapes(fingerprint, found.model_config, found.tokenizer, found.name)
        if measured:
            with quiet():
                model = load_backbone(found.folder, found.name, torch.bfloat16, torch.device("cpu"))
            told["deviation"] = measure(fingerprint, model)
            check_deviation(told["deviation"], found.name)
            told["fits"] = True
    except CheckpointError as error:
        told |= {"fits": False, "reason": str(error)}
    return told


def _count_parameters(model_config: Any, source: str | Path) -> int:
    """Parameters of the backbone, tied ones once, from a model without storage."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # from_config has no type hints
    try:
        with torch.device("meta"):
            model = auto.from_config(model_config, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"'{source}' is no causal language model that transformers knows.") from error
    return sum(p.numel() for p in model.parameters())


def _stored_dtype(folder: Path) -> str | None:
    """The number type of most stored weights, from the safetensors headers; None where there are none."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3"}
    sizes: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for tensor in _header(path).values():
            begin, end = tensor["data_offsets"]
            sizes[tensor["dtype"]] += end - begin
    if not sizes:
        return None
    most = sizes.most_common(1)[0][0]
    return names.get(most, most.lower())


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too long")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [tensor["data_offsets"][1] for tensor in header.values()]
            if path.stat().st_size != 8 + length + max(ends, default=0):
                raise ValueError("its length is not what its header says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). Copy it again.") from None
    return header
