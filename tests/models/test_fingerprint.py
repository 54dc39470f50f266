"""A head knows its model again: re-saved, converted or quantised, and refuses another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from reflective import Reflective
from reflective.errors import CheckpointError
from reflective.judge.judge import Judge
from reflective.models import describe, load_checkpoint, save_checkpoint, save_judge
from reflective.models.fingerprint import LIMIT, NOTICE, fingerprint_of, measure
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer


@torch.no_grad()
def rounded(model: PreTrainedModel, bits: int) -> PreTrainedModel:
    """The model with its matrices rounded to so many bits, with a scale a row."""
    most = 2 ** (bits - 1) - 1
    for parameter in model.parameters():
        if parameter.dim() == 2:
            scale = parameter.abs().amax(-1, keepdim=True) / most
            parameter.copy_((parameter / scale).round() * scale)
    return model


def fingerprinted(folder: Path, seed: int = 0, *, of: int | None = None) -> Path:
    """A saved tiny checkpoint whose head has the fingerprint of the model with seed `of` (default: its own)."""
    made = tiny_checkpoint("qwen2", seed=seed)
    print_of = tiny_model("qwen2", seed=seed if of is None else of)
    fingerprint = fingerprint_of(print_of, made.tokenizer, made.judge.config.layer)
    judge = Judge(replace(made.judge.config, fingerprint=fingerprint), made.judge.head)
    return save_checkpoint(folder, replace(made, judge=judge))


def test_the_same_weights_deviate_by_nothing_and_other_ones_by_about_one() -> None:
    tokenizer = tiny_tokenizer()
    fingerprint = fingerprint_of(tiny_model("qwen2"), tokenizer, -2)
    assert measure(fingerprint, tiny_model("qwen2")) < 1e-3  # what rounding to float16 leaves
    assert measure(fingerprint, tiny_model("qwen2").bfloat16()) < NOTICE
    assert LIMIT < measure(fingerprint, tiny_model("qwen2", seed=1)) < 2**0.5


@pytest.mark.parametrize("layer", [-1, -2, 1, 2, 3])
def test_every_layer_that_a_head_may_read_has_a_fingerprint(layer: int) -> None:
    fingerprint = fingerprint_of(tiny_model("qwen2"), tiny_tokenizer(), layer)
    assert fingerprint["layer"] == (layer if layer >= 0 else 4 + layer)
    assert measure(fingerprint, tiny_model("qwen2")) < 1e-3
    assert json.loads(json.dumps(fingerprint)) == fingerprint and len(json.dumps(fingerprint)) < 4096


def test_the_deviation_grows_with_the_noise_and_does_not_see_the_scale() -> None:
    fingerprint = fingerprint_of(tiny_model("qwen2"), tiny_tokenizer(), -2)
    found = [measure(fingerprint, rounded(tiny_model("qwen2"), bits)) for bits in (8, 6, 4)]
    assert found == sorted(found) and found[0] < NOTICE
    doubled = tiny_model("qwen2")
    with torch.no_grad():
        doubled.get_input_embeddings().weight.mul_(1 + 1e-6)
    assert measure(fingerprint, doubled) < 1e-3


def test_a_resaved_copy_passes_without_a_word(tmp_path: Path) -> None:
    loaded = load_checkpoint(fingerprinted(tmp_path / "model"), device="cpu", dtype="float32")
    again = load_checkpoint(
        save_checkpoint(tmp_path / "again", loaded, dtype=torch.bfloat16), device="cpu", dtype="float32"
    )
    assert again.deviation is not None and again.deviation < NOTICE and again.remark == ""


def test_another_model_of_the_same_shape_is_refused_and_the_override_is_named(tmp_path: Path) -> None:
    folder = fingerprinted(tmp_path / "model", of=1)
    with pytest.raises(CheckpointError, match=r"trained for other weights .*--head-anyway \(check_fingerprint=False\)"):
        load_checkpoint(folder, device="cpu", dtype="float32")
    loaded = load_checkpoint(folder, device="cpu", dtype="float32", check_fingerprint=False)
    assert loaded.head is not None and loaded.deviation is None


def test_another_architecture_or_vocabulary_is_told_before_the_weights_are_read(tmp_path: Path) -> None:
    folder = fingerprinted(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    path = folder / "sprm" / "config.json"
    whole = json.loads(path.read_text())
    for key, value, told in (
        ("shapes", {**whole["fingerprint"]["shapes"], "num_attention_heads": 8}, "num_attention_heads 8, here 4"),
        ("vocabulary", "0" * 16, "another vocabulary"),
        ("version", 99, "version 99"),
    ):
        path.write_text(json.dumps({**whole, "fingerprint": {**whole["fingerprint"], key: value}}))
        with pytest.raises(CheckpointError, match=told) as caught:
            load_checkpoint(folder, device="cpu")
        assert "--head-anyway" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_damaged_features_are_told(tmp_path: Path) -> None:
    folder = fingerprinted(tmp_path / "model")
    path = folder / "sprm" / "config.json"
    whole = json.loads(path.read_text())
    whole["fingerprint"]["features"] = whole["fingerprint"]["features"][:100]
    path.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="fingerprint is damaged"):
        load_checkpoint(folder, device="cpu")


def test_the_vocabulary_may_be_padded_or_extended_but_not_another(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    fingerprint = fingerprint_of(tiny_model("qwen2"), tokenizer, -2)
    tokenizer.add_tokens(["<pad-1>", "<pad-2>"])
    assert fingerprint_of(tiny_model("qwen2"), tokenizer, -2)["vocabulary"] == fingerprint["vocabulary"]


def test_a_head_of_its_own_folder_serves_an_untouched_model(tmp_path: Path) -> None:
    whole = fingerprinted(tmp_path / "model")
    plain = Path(shutil.copytree(whole, tmp_path / "plain"))
    shutil.rmtree(plain / "sprm")
    before = sorted(path.name for path in plain.iterdir())
    loaded = load_checkpoint(whole, device="cpu", dtype="float32")
    head = save_judge(tmp_path / "head", loaded.judge)
    with Reflective.from_pretrained(str(whole), device="cpu", dtype="float32") as own:
        expected = own.score(prompt="a <think>", response="b.\n\nc.\n\n</think>").step_scores
    with Reflective.from_pretrained(str(plain), head=str(head), device="cpu", dtype="float32") as beside:
        assert beside.score(prompt="a <think>", response="b.\n\nc.\n\n</think>").step_scores == expected
    with Reflective.from_pretrained(str(whole), head="none", device="cpu", dtype="float32") as without:
        assert not without.engine.scored
    assert sorted(path.name for path in plain.iterdir()) == before
    other = save_checkpoint(tmp_path / "other", tiny_checkpoint("qwen2", seed=1))
    with pytest.raises(CheckpointError, match="does not belong to the model"):
        Reflective.from_pretrained(str(other), head=str(head), device="cpu", dtype="float32")


def test_weights_that_the_engine_packs_are_compared_by_the_engine(tmp_path: Path) -> None:
    right, wrong = fingerprinted(tmp_path / "right"), fingerprinted(tmp_path / "wrong", of=1)
    with Reflective.from_pretrained(str(right), device="cpu", dtype="int8") as model:
        assert model.engine.scored
    with pytest.raises(CheckpointError, match="trained for other weights"):
        Reflective.from_pretrained(str(wrong), device="cpu", dtype="int8")
    with Reflective.from_pretrained(str(wrong), device="cpu", dtype="int8", check_fingerprint=False) as model:
        assert model.engine.scored


def test_an_engine_makes_the_same_fingerprint_of_weights_that_it_packs(tmp_path: Path) -> None:
    folder = fingerprinted(tmp_path / "model")
    stored = load_checkpoint(folder, device="cpu").judge.config.fingerprint
    assert stored is not None
    with Reflective.from_pretrained(str(folder), device="cpu", dtype="int8") as model:
        packed = model.engine.fingerprint()  # type: ignore[attr-defined]
    assert {k: v for k, v in packed.items() if k != "features"} == {k: v for k, v in stored.items() if k != "features"}
    assert measure(packed, tiny_model("qwen2")) < NOTICE


def test_making_one_leaves_the_model_as_it_was() -> None:
    model = tiny_model("qwen2").train()
    fingerprint_of(model, tiny_tokenizer(), -2)
    assert model.training and all(module.training for module in model.modules())


def test_info_tells_the_deviation_where_the_weights_are(tmp_path: Path) -> None:
    folder = fingerprinted(tmp_path / "model")
    told = describe(folder, deviation=True)["head"]["fingerprint"]
    assert told["fits"] is True and told["deviation"] < NOTICE and told["limit"] == LIMIT
    assert describe(folder)["head"]["fingerprint"]["fits"] is None
    wrong = describe(fingerprinted(tmp_path / "wrong", of=1), deviation=True)["head"]["fingerprint"]
    assert wrong["fits"] is False and "trained for other weights" in wrong["reason"]


def test_an_older_head_has_no_fingerprint_and_loads_as_before(tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    loaded = load_checkpoint(tiny_checkpoint_folder("qwen2"), device="cpu")
    assert loaded.head is not None and loaded.deviation is None and not loaded.unchecked
