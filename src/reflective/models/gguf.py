"""GGUF files, as llama.cpp uses them, made plain model folders by transformers' own reader.

A file that is named as a model is converted once, into a folder in the cache (`$REFLECTIVE_CACHE`, or `reflective` in
the user's cache folder); `import_gguf` writes the same where the user says. The weights become bfloat16, one tensor at
a time: the file's quantisation is undone, not kept, and they take the memory that the model takes in bfloat16. Where an
engine packs the weights straight from the file (`models.gguf_weights`), a folder without weights describes the model.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

from reflective.errors import CheckpointError, DependencyError, first_line
from reflective.files import cache_folder, disk_errors, sampled_digest, whole_folder

MAGIC: Final = b"GGUF"
SUFFIX: Final = ".gguf"
VERSION: Final = 1  # of the conversion: another one does not take the folders of this one
TABLE: Final = "gguf.json"  # in a folder without weights: {tensor: [type, shape, first byte in the file]}
SAME_MATRIX: Final = 2e-3  # mean difference under which embedding and output are one matrix, quantised in two ways
COMPARED_ROWS: Final = 256  # of the two, where no more is read of them


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF file, by its name or its first bytes."""
    try:
        with path.open("rb") as file:
            return path.suffix.lower() == SUFFIX or file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def cached_folder(path: Path) -> Path:
    """Where the converted model lies, or would lie; another file of the same name has another folder."""
    return cache_folder() / "gguf" / f"{path.stem}-{sampled_digest(path, f'{VERSION} ')}"


def form_folder(path: Path) -> Path:
    """Where the folder lies, or would lie, that describes the model without its weights."""
    whole = cached_folder(path)
    return whole.with_name(f"{whole.name}-form")


def converted(path: Path) -> Path:
    """The folder of a GGUF file in the cache, made if it is not there."""
    folder = cached_folder(path)
    return folder if (folder / "config.json").is_file() else import_gguf(path, folder)


def form_of_file(path: Path) -> Path:
    """The folder in the cache that describes the model of a GGUF file without its weights, made if it is not there."""
    import transformers

    folder = form_folder(path)
    if (folder / TABLE).is_file():
        return folder
    _check(path, "gguf")
    place: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with disk_errors(folder), whole_folder(folder) as temporary, _quietly():
        try:
            config = transformers.AutoConfig.from_pretrained(path.parent, **place)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **place)
            tensors = {tensor.name: tensor for tensor in _reader(path).tensors}
        except Exception as error:  # readers of many architectures, each with errors of its own
            raise CheckpointError(_explained(path, error)) from None
        config.tie_word_embeddings = bool(config.tie_word_embeddings or _one_matrix(tensors))
        config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        table = {
            name: [int(t.tensor_type), [int(n) for n in reversed(t.shape)], int(t.data_offset)]
            for name, t in tensors.items()
        }
        (temporary / TABLE).write_text(json.dumps(table), encoding="utf-8")
    return folder


def model_type(folder: Path) -> str:
    """The architecture that a folder's config names."""
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))


def _reader(path: Path) -> Any:
    import gguf

    module: Any = gguf
    return module.GGUFReader(str(path))


def _one_matrix(tensors: Mapping[str, Any]) -> bool:
    """Whether embedding and output are the same numbers, quantised in two ways, by some of their rows."""
    import numpy
    from gguf.quants import dequantize

    both = [tensors[name] for name in ("token_embd.weight", "output.weight") if name in tensors]
    if len(both) < 2 or tuple(both[0].shape) != tuple(both[1].shape):
        return False
    step = max(len(both[0].data) // COMPARED_ROWS, 1)
    embedding, output = (dequantize(numpy.ascontiguousarray(t.data[::step]), t.tensor_type) for t in both)
    return float(abs(embedding - output).mean()) < SAME_MATRIX


def import_gguf(path: Path, out: str | Path) -> Path:
    """Make a model folder of a GGUF file, and return it. Raises `CheckpointError` where it is not empty."""
    import torch

    from reflective.models.save import save_backbone

    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"'{out}' exists and is not empty. Name a new folder.")
    _check(path, "gguf", "accelerate")
    with disk_errors(target), whole_folder(target) as temporary, torch.inference_mode(), _quietly():
        save_backbone(temporary, *_read(path))
    return target


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a word of transformers, nor the progress bar that its switch for bars does not know; and parsed once:
    transformers parses a file anew for its config, tokenizer and weights, and each time takes many seconds."""
    import gguf

    from reflective.models.library_logging import quiet

    module: Any = gguf
    reader = module.GGUFReader
    module.GGUFReader = functools.cache(reader)
    try:
        with quiet(), redirect_stderr(StringIO()):
            yield
    finally:
        module.GGUFReader = reader


def check_file(path: Path) -> None:
    """Raises `CheckpointError` where a GGUF file is damaged, or cut off, before anything is made of it."""
    _check(path, "gguf")
    try:
        _reader(path)
    except Exception as error:  # the reader's own, of what it did not expect
        raise CheckpointError(_explained(path, error)) from None


def _check(path: Path, *packages: str) -> None:
    for name in packages:
        try:
            __import__(name)
        except ImportError:
            raise DependencyError(
                f"'{path}' is a GGUF file, and reading it needs the package {name}. Install both with: "
                "pip install gguf accelerate"
            ) from None
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"'{path}' is no GGUF file, or a damaged one. Copy or download it again.")


def _read(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer, the weights in bfloat16."""
    import torch
    import transformers

    place: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    dense = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions would keep the weights quantised, and compute in float32
        dense["quantization_config"] = transformers.GgufConfig(dequantize=True)
    auto: Any = transformers.AutoModelForCausalLM
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **place)
        model, report = auto.from_pretrained(
            path.parent, dtype=torch.bfloat16, output_loading_info=True, **dense, **place
        )
    except MemoryError:
        raise CheckpointError(f"'{path}' does not fit into memory in bfloat16. Use a smaller model.") from None
    except Exception as error:  # readers of many architectures, each with errors of its own
        raise CheckpointError(_explained(path, error)) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"'{path}' lacks weights: {', '.join(missing[:3])}. Get another file.")
    _tie(model)
    return model, tokenizer


def _explained(path: Path, error: Exception) -> str:
    architecture = _architecture(path)
    message = first_line(error)
    if architecture and ("not supported" in message or "architecture" in message or "Unrecognized" in message):
        return (
            f"'{path}' is a GGUF file of the architecture {architecture!r}, which transformers can't read from GGUF. "
            "Get the model as a Hugging Face folder instead."
        )
    return f"the GGUF file '{path}' can't be read: {message}. Copy or download it again."


def _architecture(path: Path) -> str:
    """What the file says of itself; "" where it can't be told. Its first entries are read, and no more."""
    with path.open("rb") as file:
        head = file.read(2**16)
    key = b"general.architecture"
    start = head.find(key)
    if start < 0:
        return ""
    start += len(key) + 4  # the type of the value: a string
    length = int.from_bytes(head[start : start + 8], "little")
    return head[start + 8 : start + 8 + min(length, 64)].decode("utf-8", "replace")


def _tie(model: Any) -> None:
    """Let embedding and output be one matrix again where they were, and keep the finer of the two, the output."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if embedding is output or embedding.shape != output.shape:
        return
    rows = range(0, embedding.shape[0], 2**14)
    apart = [(embedding[i : i + 2**14].float() - output[i : i + 2**14].float()).abs().mean().item() for i in rows]
    if sum(apart) / len(apart) < SAME_MATRIX:
        embedding.data = output.data
        model.config.get_text_config().tie_word_embeddings = True
        model.config.tie_word_embeddings = True
        model.tie_weights()
