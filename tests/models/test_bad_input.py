"""Folders that are no models, models that lack something, and configs that can't be saved: each one line, or mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import GenerationConfig, PreTrainedTokenizerFast

from reflective.errors import CheckpointError
from reflective.judge.judge import init_judge
from reflective.models import load_checkpoint, read_metadata, resolve_source, save_checkpoint
from reflective.models.generation import make_valid
from tiny import CHAT_TEMPLATE, tiny_checkpoint, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))


def refusal(source: str | Path, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, device="cpu", **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- adapters


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_an_adapter_is_told_with_its_model_and_how_to_merge_them(tmp_path: Path) -> None:
    message = refusal(adapter(tmp_path / "lora"))
    assert "is an adapter (LoRA) of 'owner/base', not a model" in message and "merge_and_unload" in message


def test_an_adapter_beside_a_config_is_still_one(tmp_path: Path, folder: Path) -> None:
    place = adapter(tmp_path / "lora")
    shutil.copy(folder / "config.json", place)
    assert "is an adapter" in refusal(place)


def test_an_adapter_of_the_hub_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = adapter(tmp_path / "lora")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(place))
    assert "'owner/lora' is an adapter" in refusal("owner/lora")


def test_an_adapter_config_beside_a_models_weights_must_go(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "takes such a folder for an adapter. Move adapter_config.json away" in refusal(folder)


# ---- downloads that were not finished


def sharded(folder: Path) -> dict[str, str]:
    """The folder's weights in two files with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names["lm_head" in key or "layers.2" in key] for key in state}
    for name in names:
        save_file({k: state[k] for k in state if places[k] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_a_shard_that_the_index_names_and_nobody_has(folder: Path) -> None:
    sharded(folder)
    assert load_checkpoint(folder, device="cpu").head is not None
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 weight files are missing (model-00002-of-00002.safetensors)" in refusal(folder)
    assert resolve_source(folder, weights=False) == folder  # the small files are whole


@pytest.mark.parametrize("places", [5, [], "a"])
def test_an_index_that_maps_nothing(folder: Path, places: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "model.safetensors.index.json' must map weights to files" in refusal(folder)


@pytest.mark.parametrize("place", ["model.safetensors.incomplete", ".cache/huggingface/download/x.incomplete"])
def test_a_file_that_is_still_on_its_way(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_bytes(b"half")
    assert load_checkpoint(folder, device="cpu").head is not None  # left over from an earlier try
    (folder / "model.safetensors").unlink()
    assert "was not finished" in refusal(folder)


def test_a_pointer_of_git_lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a pointer of git-lfs" in refusal(folder) and "git lfs pull" in refusal(folder)


# ---- generation configs


SETTINGS = [
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.6, "do_sample": False},
    {"top_p": 0.9, "do_sample": False, "num_beams": 1},
    {"num_beams": 1, "early_stopping": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_generation_config_that_transformers_refuses_to_save_is_saved(
    tmp_path: Path, folder: Path, settings: dict[str, object]
) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 260], **settings}))
    loaded = load_checkpoint(folder, device="cpu", dtype="float32")
    loaded.model.save_pretrained(tmp_path / "by transformers")  # as trainers do
    again = load_checkpoint(save_checkpoint(tmp_path / "again", loaded), device="cpu", dtype="float32")
    assert again.model.generation_config.eos_token_id == [258, 260]
    if "temperature" in settings:
        assert again.model.generation_config.temperature == settings["temperature"]
        assert again.model.generation_config.do_sample is True


def test_a_config_that_became_invalid_in_memory_is_saved_too(tmp_path: Path) -> None:
    made = tiny_checkpoint("qwen2")
    made.model.generation_config = GenerationConfig(temperature=0.3, eos_token_id=260)
    save_checkpoint(tmp_path / "model", made)
    told = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert (told["temperature"], told["do_sample"], told["eos_token_id"]) == (0.3, True, 260)


def test_a_valid_config_is_left_as_it_is() -> None:
    model = tiny_model("qwen2")
    config = model.generation_config = GenerationConfig(eos_token_id=260)
    make_valid(model)
    assert model.generation_config is config and config.do_sample is not True


# ---- tokenizers


def test_the_largest_id_counts_not_the_number_of_entries() -> None:
    """A vocabulary with a gap: fewer entries than its largest id, which ends a step."""
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"][".ĊĊ"] = 290
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    gapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE)
    assert len(gapped.get_vocab()) < 290 and gapped.encode(".\n\n") == [290]
    judge = init_judge(tiny_model("qwen2"), gapped)
    assert judge.format.step_ids == {290}


def test_a_base_model_without_a_chat_template_says_so_and_answers_plain_text(folder: Path) -> None:
    made = tiny_checkpoint("qwen2")
    made.tokenizer.chat_template = None
    plain = save_checkpoint(folder.parent / "base", replace(made, judge=made.judge.without_head()))
    loaded = load_checkpoint(plain, device="cpu", require_head=False)
    assert "no chat template" in loaded.remark and "given to it as plain text" in loaded.remark
    from reflective.engines.torch import TorchEngine

    engine = TorchEngine.from_checkpoint(loaded)
    assert loaded.remark in engine.remark
    assert engine.decode(engine.encode_prompt("2 + 2?")).startswith("2 + 2?\n")


def test_marks_that_a_tokenizer_has_beyond_the_models_rows_are_refused(folder: Path) -> None:
    made = tiny_checkpoint("qwen2")
    made.tokenizer.add_tokens([AddedToken(f"<extra {i}>") for i in range(60)])
    place = save_checkpoint(folder.parent / "long", made)
    config = json.loads((place / "sprm" / "config.json").read_text())
    config["format"]["step_token_ids"] = [310]
    (place / "sprm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="outside the model's vocabulary of 300"):
        read_metadata(place)


def test_a_head_of_another_width_names_both(folder: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    shutil.copytree(folder / "sprm", head)
    config = json.loads((head / "config.json").read_text())
    (head / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    assert "width 32, this model's are 64 wide" in refusal(folder, head=head)


def test_weights_are_not_lost_where_a_config_was_invalid(tmp_path: Path) -> None:
    made = tiny_checkpoint("qwen2")
    made.model.generation_config = GenerationConfig(temperature=0.3)
    saved = save_checkpoint(tmp_path / "model", made)
    again = load_checkpoint(saved, device="cpu", dtype="float32")
    assert torch.equal(again.model.lm_head.weight, made.model.lm_head.weight)
