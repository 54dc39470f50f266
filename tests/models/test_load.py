"""Loading: what comes back, and each reason to refuse, told in a line or two that say what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reflective.errors import InputError, ReflectiveError
from reflective.models import load_checkpoint, resolve_device, resolve_dtype, resolve_source
from reflective.models import source as source_module
from tiny import FAMILIES, tiny_checkpoint, tiny_model, tiny_tokenizer

Folder = Callable[[], Path]


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> Path:
    """A checkpoint of one's own, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))


def refusal(source: object, **options: object) -> str:
    """The message with which loading is refused; one or two lines."""
    with pytest.raises(ReflectiveError) as caught:
        load_checkpoint(source, device="cpu", **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message.splitlines()) <= 2 and message.strip()
    return message


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_as_it_was_saved(family: str, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    made, path = tiny_checkpoint(family), tiny_checkpoint_folder(family)
    loaded = load_checkpoint(path, device="cpu", dtype="float32")
    ids = torch.tensor([loaded.tokenizer.encode("One.\n\nTwo<think>")])
    with torch.no_grad():
        ours, theirs = made.model(ids, output_hidden_states=True), loaded.model(ids, output_hidden_states=True)
    assert torch.equal(ours.logits, theirs.logits)
    assert made.head is not None and loaded.head is not None
    assert torch.equal(made.head(ours.hidden_states[-2]), loaded.head(theirs.hidden_states[-2]))
    assert loaded.config == made.config
    assert loaded.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    assert not loaded.model.training and not loaded.head.training
    assert loaded.name == str(path)


def test_the_head_stays_in_float32_beside_a_bfloat16_backbone(folder: Path) -> None:
    loaded = load_checkpoint(folder, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.head is not None and {p.dtype for p in loaded.head.parameters()} == {torch.float32}


def test_a_plain_model_loads_where_no_head_is_required(folder: Path) -> None:
    shutil.rmtree(folder / "sprm")
    loaded = load_checkpoint(folder, device="cpu", require_head=False)
    assert loaded.head is None and loaded.config is None


def test_no_head_says_how_to_train_one(folder: Path) -> None:
    shutil.rmtree(folder / "sprm")
    assert refusal(folder) == (
        f"no SPRM head in '{folder}' (looked for sprm/head.safetensors, score_module.pt).\n"
        f"Train one with: reflective train head --model {folder} --task <task>"
    )


def test_no_such_folder(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "none")
    assert "no such folder" in refusal("./none")
    assert "no such folder" in refusal("a/b/c")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)


def test_the_sprm_folder_instead_of_the_models(folder: Path) -> None:
    (folder / "sprm" / "config.json").rename(folder / "sprm" / "aside")
    assert f"Did you mean '{folder}'?" in refusal(folder / "sprm")


def test_a_file_is_no_model(folder: Path) -> None:
    assert "is a file" in refusal(folder / "model.safetensors")


@pytest.mark.parametrize("text", ["", "  "])
def test_no_name_at_all(text: str) -> None:
    assert "no model was named" in refusal(text)


def test_a_config_of_no_known_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "abacus"}')
    assert "not one of a model that transformers knows" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json" in refusal(folder)


def test_a_model_whose_code_lies_in_the_folder_does_not_run_it(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    refusal(folder)
    assert not trace.exists()


def test_missing_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in refusal(folder)
    shutil.rmtree(folder / "sprm")
    assert "has no tokenizer" in refusal(folder, require_head=False)


def test_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer of" in refusal(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "weights of" in refusal(folder)


def test_weights_without_a_layer_are_not_filled_with_random_ones(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = {key: tensor for key, tensor in load_file(path).items() if ".layers.1." not in key}
    save_file(state, path, metadata={"format": "pt"})
    message = refusal(folder)
    assert "not those of its config.json" in message and "model.layers.1" in message


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
    assert "weights of" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "head.safetensors"])
def test_half_a_head(folder: Path, name: str) -> None:
    (folder / "sprm" / name).unlink()
    assert f"it has no {name}" in refusal(folder)
    assert f"it has no {name}" in refusal(folder, require_head=False)


@pytest.mark.parametrize("keep", [0, 4, 40, 1000])
def test_truncated_head(folder: Path, keep: int) -> None:
    path = folder / "sprm" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is damaged" in refusal(folder)


def test_a_head_that_is_no_safetensors_file(folder: Path) -> None:
    torch.save({"hidden.weight": torch.zeros(1)}, folder / "sprm" / "head.safetensors")
    assert "is damaged" in refusal(folder)


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "sprm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def set_format(folder: Path, **changes: object) -> None:
    path = folder / "sprm" / "config.json"
    config = json.loads(path.read_text())
    set_config(folder, format={**config["format"], **changes})


def test_malformed_head_config(folder: Path) -> None:
    (folder / "sprm" / "config.json").write_text("{not json")
    assert "is not JSON" in refusal(folder)


def test_unknown_key_in_the_head_config(folder: Path) -> None:
    set_config(folder, layers=-2)
    assert "Did you mean 'layer'" in refusal(folder)


def test_a_head_of_another_width(folder: Path) -> None:
    set_config(folder, hidden_size=32)
    assert "width 32, this model's are 64 wide" in refusal(folder)


def test_head_weights_that_are_not_those_of_their_config(folder: Path) -> None:
    path = folder / "sprm" / "head.safetensors"
    state = load_file(path)
    save_file({**state, "hidden.weight": torch.zeros(64, 32)}, path)
    assert "hidden.weight should have shape (128, 64), got (64, 32)" in refusal(folder)
    save_file({**state, "extra": torch.zeros(1)}, path)
    assert "extra should have shape none" in refusal(folder)
    save_file({key: tensor for key, tensor in state.items() if key != "output.bias"}, path)
    assert "output.bias should have shape (1,), got none" in refusal(folder)


def test_a_head_with_nan_weights(folder: Path) -> None:
    path = folder / "sprm" / "head.safetensors"
    save_file({**load_file(path), "output.bias": torch.tensor([float("nan")])}, path)
    assert "NaN" in refusal(folder)


def test_a_head_that_reads_a_layer_the_model_has_not(folder: Path) -> None:
    set_config(folder, layer=-7)
    assert "hidden_states[-7]" in refusal(folder)


@pytest.mark.parametrize("key", ["step_token_ids", "opening", "closing"])
def test_step_tokens_outside_the_vocabulary(folder: Path, key: str) -> None:
    # 280 lies in the model's padded vocabulary, but the tokenizer never writes it
    set_format(folder, **{key: [257, 280] if key == "step_token_ids" else [[280]]})
    assert "outside the model's vocabulary of 263" in refusal(folder)


def test_nano_is_the_one_in_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setattr(source_module.resources, "files", lambda package: tmp_path / "package")
    assert "'nano' is not part of this installation" in refusal("nano")
    shutil.copytree(folder, tmp_path / "package" / "weights")
    assert load_checkpoint("nano", device="cpu").name == "nano"


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve_source("~/model") == folder


@pytest.mark.parametrize("text", ["cpu", "auto"])
def test_device_by_name(text: str) -> None:
    assert resolve_device(text).type in ("cpu", "cuda")


@pytest.mark.parametrize("text", ["abacus", "", "cpu:7", "cuda:99", "cuda:-1", "mps:3", "meta", "xpu", None])
def test_unknown_devices_and_types_are_refused(text: str | None) -> None:
    with pytest.raises(InputError, match="(?i)device .*give auto, cpu, cuda or cuda:1"):
        resolve_device(text)
    with pytest.raises(InputError, match="give auto, float32, bfloat16"):
        resolve_dtype("int3")


def test_bfloat16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert resolve_dtype("auto", "cpu") == torch.bfloat16
    assert resolve_dtype("auto", "cpu", stored_bytes=10**6) == torch.float32  # the compiled step is faster there
    assert resolve_dtype("auto", "cpu", stored_bytes=10**10) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert resolve_dtype("auto", "cpu") == torch.float32
    assert resolve_dtype("bfloat16", "cpu") == torch.bfloat16
    assert resolve_dtype(torch.float16, "cpu") == torch.float16


def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nand more lines")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    assert "does not fit into the memory of cpu" in refusal(folder)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_checkpoint(folder, device="cpu")
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_plain_transformers_loads_the_folder_as_the_model_that_it_is(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = torch.tensor([tiny_tokenizer().encode("abc")])
    assert torch.equal(plain(ids).logits, tiny_model("qwen2")(ids).logits)
