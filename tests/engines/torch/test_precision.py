"""What `--dtype auto` means for large weights: measured once, kept, and never a precision that changes too much."""

from __future__ import annotations

import json
import math

import pytest
import torch

from reflective.cli import main
from reflective.engines.torch import TorchEngine, precision
from reflective.engines.torch.precision import Figures, choice, divergence
from reflective.evaluate.run import precision_of
from reflective.models import load, load_checkpoint
from tiny import tiny_folder, tiny_model, tiny_tokenizer

EXACT = Figures((1.0, 2.0, 4.0), 0.0)


def bfloat16_folder(path, **config):
    tiny_model("qwen3", **config).bfloat16().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Tiny models count as large ones, and nothing was measured before."""
    monkeypatch.setattr(load, "SMALL_WEIGHTS", 1)
    monkeypatch.setenv("REFLECTIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "precision"


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the measurement: the figures it gives, and the models that it was asked about."""
    figures = {"bfloat16": EXACT, "int8": Figures((0.5, 1.0, 2.0), 0.002), "int4": Figures((0.4, 0.9, 2.0), 0.07)}
    asked: list[str] = []

    def measure(checkpoint):
        asked.append(checkpoint.name)
        return figures

    monkeypatch.setattr(precision, "measure", measure)
    return figures, asked


def engine_of(folder, **options):
    return TorchEngine.from_checkpoint(
        load_checkpoint(folder, device="cpu", require_head=False, packed=True, **options)
    )


@pytest.mark.parametrize(
    ("int8", "int4", "taken"),
    [
        (((0.5, 1, 2), 0.002), ((0.2, 0.4, 0.8), 0.07), "int8"),  # int4 changes too much, however fast
        (((0.5, 1, 2), 0.002), ((0.2, 0.4, 0.8), 0.009), "int4"),
        (((0.5, 1, 2), 0.002), ((0.48, 0.96, 1.92), 0.009), "int8"),  # hardly faster: the finer one
        (((0.95, 1.9, 3.8), 0.002), ((2, 2, 8), 0.002), "bfloat16"),
        (((0.5, 1, 2), math.nan), ((0.2, 0.4, 0.8), math.inf), "bfloat16"),
        (((0.5, 1, 2), 0.02), ((0.5, 1, 2), 0.001), "int4"),
    ],
)
def test_the_fastest_of_those_that_stay_close_is_taken(int8, int4, taken):
    assert choice({"bfloat16": EXACT, "int8": Figures(*int8), "int4": Figures(*int4)}) == taken


def test_the_divergence_is_the_mean_of_p_log_p_over_q():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert divergence(p.log() + 3.0, q.log()) == pytest.approx(expected, abs=1e-6)
    assert math.isnan(divergence(p.log(), torch.full((2, 2), torch.nan)))


def test_it_is_measured_once_for_a_model(large, measured, tmp_path, monkeypatch):
    figures, asked = measured
    folder = bfloat16_folder(tmp_path / "m")
    first = engine_of(folder)
    assert first.dtype.startswith("int8") and "0.50 of the time" in first.remark and "--dtype bfloat16" in first.remark
    assert engine_of(folder).dtype == first.dtype and len(asked) == 1
    engine_of(bfloat16_folder(tmp_path / "other", intermediate_size=48))
    assert len(asked) == 2 and len(list(large.iterdir())) == 2
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: 3)  # behind some tests set_num_threads has no effect
        engine_of(folder)
    assert len(asked) == 3, "the number of threads decides, too"
    for path in large.iterdir():
        path.write_text('{"int8": {}}')  # damaged
    assert engine_of(folder).dtype == first.dtype and len(asked) == 4
    figures["int8"] = Figures((0.5, 1.0, 2.0), 0.5)
    for path in large.iterdir():
        path.unlink()
    assert (engine_of(folder).dtype, engine_of(folder).remark.count("measurement")) == ("bfloat16", 0)


def test_a_precision_that_is_named_is_taken_unmeasured(large, measured, tmp_path):
    folder = bfloat16_folder(tmp_path / "m")
    assert [engine_of(folder, dtype=kind).dtype for kind in ("bfloat16", "int4")] == ["bfloat16", "int4"]
    assert not measured[1] and not large.exists()


def test_a_cache_that_can_not_be_written_costs_another_measurement(large, measured, tmp_path):
    large.parent.write_text("a file where a folder should be")
    folder = bfloat16_folder(tmp_path / "m")
    assert engine_of(folder).dtype == engine_of(folder).dtype != "bfloat16"
    assert len(measured[1]) == 2


def test_small_models_are_never_measured(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("REFLECTIVE_CACHE", str(tmp_path / "cache"))
    assert engine_of(bfloat16_folder(tmp_path / "m")).dtype == "torch.float32"
    assert engine_of("nano").dtype == "torch.float32"
    assert not measured[1] and not (tmp_path / "cache").exists()


def test_what_does_not_fit_as_it_is_stored_becomes_int8(large, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "available_memory", lambda device: 1000)
    engine = engine_of(bfloat16_folder(tmp_path / "m"))
    assert engine.dtype.startswith("int8") and "don't fit" in engine.remark and not measured[1]


def test_the_measurement_tells_precisions_apart(large, tmp_path):
    checkpoint = load_checkpoint(bfloat16_folder(tmp_path / "m"), device="cpu", require_head=False, packed=True)
    found = precision.measure(checkpoint)
    assert list(found) == ["bfloat16", "int8", "int4"]
    assert found["bfloat16"].divergence == 0 < found["int8"].divergence < found["int4"].divergence < 1
    assert all(second > 0 for figures in found.values() for second in figures.seconds)


def test_a_run_goes_on_in_the_precision_that_it_began_with(large, measured, tmp_path):
    figures, _ = measured
    model, out = tiny_folder(tmp_path / "m", "qwen3"), tmp_path / "run"
    load_checkpoint(model).model.bfloat16().save_pretrained(model)
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(json.dumps({"problem": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(2)))
    command = ["eval", str(problems), "--model", str(model), "--output", str(out), "--effort", "1", "--quiet"]
    command += ["--max-tokens", "4", "--answer-tokens", "4"]
    assert precision_of(out) is None
    assert main(command) == 0
    assert precision_of(out) == "int8"
    for path in large.iterdir():
        path.unlink()
    figures["int8"] = Figures((3.0, 3.0, 3.0), 0.0)  # a bad moment
    assert main(command) == 0, "not a run with other settings"
    assert main([*command, "--dtype", "bfloat16"]) != 0
