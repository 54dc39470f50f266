"""What joint training takes, against the published sizes and by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from reflective.errors import InputError
from reflective.models.shape import KNOWN, Shape, shape_of
from reflective.train.plan import OVERHEAD_BYTES, Work, advised, fits, memory, plan, step_seconds
from tiny import tiny_model


@pytest.mark.parametrize(
    ("name", "parameters", "head"),
    [("1.5b", 1_543_714_304, 5e6), ("7b", 7_615_616_512, 26e6), ("32b", 32_763_876_352, 53e6)],
)
def test_parameters_are_those_that_are_published(name: str, parameters: int, head: float) -> None:
    shape = KNOWN[name]
    assert shape.parameters == parameters
    assert shape.head_parameters == pytest.approx(head, rel=0.06)  # paper, section 3.2


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_parameters_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.config.save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)).parameters == model.num_parameters()


def test_memory_of_a_small_shape_by_hand() -> None:
    shape = Shape(hidden=4, layers=2, inner=8, heads=2, kv_heads=1, head_size=2, vocabulary=10, tied=True)
    # layer: q 4·4 + 4, k and v 2·(4·2 + 2), o 4·4, mlp 3·4·8, norms 8; model: 10·4 + 2·164 + 4; head: 2·16 + 16 + 1
    assert shape.layer_parameters == 20 + 20 + 16 + 96 + 8 == 160
    assert shape.parameters == 40 + 2 * 160 + 4 == 364
    assert shape.head_parameters == 49
    work = Work(gpus=2, tokens=100, micro_batch=3)
    ddp, fsdp = memory(shape, work, "ddp"), memory(shape, work, "fsdp2")
    assert ddp.state == 16 * (364 + 49) and fsdp.state == ddp.state // 2
    assert ddp.reference == 4 * 364 and fsdp.reference == 2 * 364
    assert (ddp.gathered, fsdp.gathered) == (0, 2 * 320)
    assert ddp.activations == 2 * 300 * 4 * 2 + 300 * 4 * 34
    assert ddp.logits == 2 * 4 * 256 * 10
    assert ddp.total == 6608 + 1456 + 4800 + 40800 + 20480 + OVERHEAD_BYTES
    assert memory(shape, replace(work, kl=False), "ddp").reference == 0
    assert memory(shape, replace(work, checkpointing=False), "ddp").activations == 2 * 300 * 4 * 34


def test_seconds_of_a_step_by_hand() -> None:
    shape = KNOWN["1.5b"]
    work = Work(gpus=4, peak=1e15, trajectories=10, tokens=1000)
    writing, learning = step_seconds(shape, work)
    assert writing == pytest.approx(2 * 1_543_714_304 * 10_000 / (4e15 * 0.05))
    assert learning == pytest.approx(12 * 1_543_714_304 * 10_000 / (4e15 * 0.4))


def test_the_advised_way_is_the_simplest_that_fits() -> None:
    small, large = KNOWN["1.5b"], KNOWN["32b"]
    assert advised(small, Work()) == "ddp"
    assert advised(KNOWN["7b"], Work()) == "fsdp2"
    assert advised(large, Work(gpus=16)) == "fsdp2" and fits(large, Work(gpus=16), "zero3")
    assert advised(large, Work(gpus=1)) is None
    planned = plan("32b", Work(gpus=16))
    assert planned["configuration"] == "recipes/accelerate/fsdp2-2x8.yaml"
    assert plan("7b", Work(gpus=24))["configuration"] is None  # none is shipped for three nodes
    assert planned["gpu_hours"] == pytest.approx(16 * planned["hours"], rel=0.02)


def test_the_page_shows_what_the_plan_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+B), (\d+) × 80 GiB \| (\d+) GiB \| (\d+) GiB \| (.+?) \|(.*)\|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["1.5B", "7B", "32B", "32B"]
    for name, gpus, ddp, pieces, take, hours in rows:
        work = Work(gpus=int(gpus))
        needed = [round(memory(KNOWN[name.lower()], work, way).total / 2**30) for way in ("ddp", "fsdp2", "zero3")]
        assert needed == [int(ddp), int(pieces), int(pieces)], name
        planned = plan(name.lower(), work)
        if planned["advised"] is None:
            assert take == "does not fit"
        else:
            assert f"recipes/accelerate/{take.strip('`')}" == planned["configuration"]
            assert int(hours.split()[0]) == planned["gpu_hours"]


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1\.5b, 7b, 32b"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(InputError, match="dense decoder"):
        shape_of(str(tmp_path))
