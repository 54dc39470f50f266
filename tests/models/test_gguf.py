"""GGUF files: named as a model or imported into a folder, and refused in one line where they can't be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reflective import files
from reflective.cli import main
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones.native import library, packing
from reflective.engines.torch.backbones.native.packing import unpacked
from reflective.errors import CheckpointError, DependencyError, ReflectiveError
from reflective.models import describe, load_checkpoint, resolve_source
from reflective.models import gguf as gguf_module
from reflective.models.gguf import cached_folder, form_folder, form_of_file, import_gguf, is_gguf
from reflective.models.gguf_weights import GGUFWeights, Rows
from tiny import tiny_model, tiny_tokenizer

write_gguf = pytest.importorskip("gguf_files").write_gguf  # needs gguf
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_loads_as_the_model_that_it_holds_and_is_converted_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    assert not cached_folder(path).exists()
    loaded = load_checkpoint(path, device="cpu", dtype="float32", require_head=False)
    ids = torch.tensor([loaded.tokenizer.encode("One.\n\nTwo")])
    assert ids.tolist() == [tiny_tokenizer().encode("One.\n\nTwo")]
    model = tiny_model("qwen2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # what conversion loses
        ours, theirs = loaded.model(ids).logits, model(ids).logits
    torch.testing.assert_close(ours, theirs)
    assert loaded.tokenizer.chat_template == tiny_tokenizer().chat_template
    assert (cached_folder(path) / "config.json").is_file() and cached_folder(path).parent == cache / "gguf"

    def again(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_module, "import_gguf", again)
    assert resolve_source(path) == cached_folder(path)


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    first = cached_folder(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert cached_folder(path) != first


def test_the_command_makes_a_folder_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "out"
    assert main(["import", str(path), str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n" and "Writing model shards" not in told.err
    assert describe(out)["dtype"] == "bfloat16"
    assert main(["import", str(path), str(out)]) == 1 and "not empty" in capsys.readouterr().err
    assert main(["import", str(path)]) == 2 and "name the folder to write to" in capsys.readouterr().err
    assert main(["import", str(path), "x", "--rule", "paper"]) == 2


def refusal(path: Path) -> str:
    with pytest.raises(ReflectiveError) as caught:
        import_gguf(path, path.parent / "out")
    assert not (path.parent / "out").exists()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(path) in message
    return message


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    message = refusal(write_gguf(tmp_path / "new.gguf", "rwkv9"))
    assert "of the architecture 'rwkv9', which transformers can't read from GGUF" in message


def test_a_damaged_file_and_one_that_is_none(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:5000])
    assert "can't be read" in refusal(path)
    (tmp_path / "none.gguf").write_bytes(b"not at all")
    assert "no GGUF file, or a damaged one" in refusal(tmp_path / "none.gguf")
    assert is_gguf(tmp_path / "none.gguf") and not is_gguf(tmp_path / "nothing")


def test_nothing_is_said_to_be_made_of_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    for name, data in (("none", b"not a model"), ("cut", whole[: len(whole) // 2]), ("head", whole[:40])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        for command in (["info", str(path)], ["solve", "2+2?", "--model", str(path), "--dtype", "int8"]):
            assert main(command) == 1
            told = capsys.readouterr().err
            assert f"{name}.gguf'" in told and "making a model folder" not in told


def test_missing_weights_are_told(tmp_path: Path) -> None:
    assert "lacks weights: model.layers." in refusal(write_gguf(tmp_path / "tiny.gguf", without="ffn_up"))


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DependencyError, match="pip install gguf accelerate"):
        load_checkpoint(path, require_head=False)


def test_embedding_and_output_that_were_one_matrix_are_one_again() -> None:
    model = tiny_model("qwen2", vocab_size=300)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.get_input_embeddings().weight + 1e-4)
    finer = model.lm_head.weight.clone()
    gguf_module._tie(model)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, finer)
    other = tiny_model("qwen2")
    gguf_module._tie(other)
    assert not other.config.tie_word_embeddings


def test_a_folder_of_gguf_files_says_which_to_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointError, match=f"Name one of them: --model {path}"):
        resolve_source(tmp_path)


# ---- packed straight from the file

needs_step = pytest.mark.skipif(library() is None, reason="no C compiler when the package was installed")


def packed(path: Path, kind: str) -> TorchEngine:
    return TorchEngine.from_checkpoint(load_checkpoint(path, dtype=kind, device="cpu", require_head=False, packed=True))


# the error of the file's own numbers, and that of packing them anew in as many bits
ERROR = {"F32": 1e-7, "F16": 1e-3, "Q8_0": 0.01, "Q4_0": 0.11}


@needs_step
@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(("numbers", "kind"), [("F32", "int8"), ("F16", "int8"), ("Q8_0", "int8"), ("Q4_0", "int4")])
def test_a_file_is_packed_as_it_is_without_its_weights_in_another_type(
    tmp_path: Path, family: str, numbers: str, kind: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", family, family=family, numbers=numbers)
    engine = packed(path, kind)
    assert engine.remark == engine.unscored and engine.dtype.startswith(kind)
    assert not cached_folder(path).exists() and not [*form_folder(path).glob("*.safetensors")]
    model: Any = tiny_model(family)
    decoder = engine._backbone.decoder  # type: ignore[union-attr]
    packing = {"int8": 0.0065, "int7": 0.013, "int4": 0.004 if numbers == "Q4_0" else 0.11}
    for module, layer in zip(model.get_decoder().layers, decoder.layers, strict=True):
        attention, mlp = module.self_attn, module.mlp
        pairs = [
            (layer.qkv, torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])),
            (layer.out, attention.o_proj.weight),
            (layer.down, mlp.down_proj.weight),
        ]
        for matrix, right in pairs:
            bound = ERROR[numbers] + packing[matrix.kind]  # int8 has 7 bits on a processor without VNNI
            assert (unpacked(matrix) - right).norm() < bound * right.norm()
        torch.testing.assert_close(layer.post_norm[:, 0], module.post_attention_layernorm.weight)


@needs_step
def test_large_matrices_are_packed_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", numbers="Q8_0")
    whole = packed(path, "int8")
    monkeypatch.setattr(packing, "CHUNK", 64 * 16)
    asked: list[int] = []
    rows = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda s, i: (asked.append(len(rows(s, i))), rows(s, i))[1])
    pieces = packed(path, "int8")
    assert asked.count(16) > 20
    for ours, theirs in zip(pieces._backbone.decoder.matrices(), whole._backbone.decoder.matrices(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(ours.data, theirs.data)


def test_a_file_that_is_cut_short_and_one_that_lacks_weights_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", numbers="Q8_0")
    form_of_file(path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(CheckpointError, match="can't be read"):
        packed(cut, "int8")
    form = form_folder(path)
    path.write_bytes(cut.read_bytes())
    config = load_checkpoint(write_gguf(tmp_path / "again.gguf"), device="cpu", require_head=False).model.config
    with pytest.raises(CheckpointError, match="is cut short"):
        GGUFWeights(path, form, config, "int8")
    with pytest.raises(CheckpointError, match="ffn_up|up_proj"):
        packed(write_gguf(tmp_path / "lacks.gguf", without="ffn_up"), "int8")


@needs_step
def test_embedding_and_output_that_are_one_matrix_are_held_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_module, "SAME_MATRIX", 10.0)
    decoder = packed(write_gguf(tmp_path / "tiny.gguf", numbers="Q8_0"), "int8")._backbone.decoder  # type: ignore[union-attr]
    right = tiny_model("qwen2").get_output_embeddings().weight
    assert decoder.embedding is decoder.lm_head
    assert (unpacked(decoder.lm_head) - right).norm() < 0.02 * right.norm()
