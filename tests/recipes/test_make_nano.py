"""The recipe of nano, from the shipped nano instead of from nothing: all of its stages, in miniature."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reflective.models import load_checkpoint
from reflective.train.head.run import HeadResult

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano" / "make.py"
SFT = """
output = "{folder}/run"
model = "nano"
max_tokens = 600
step_tokens = 300
micro_tokens = 300
save_dtype = "float32"
tensorboard = false

[data]
examples = 12
validation_examples = 2
levels = [2]
max_tokens = 300
cache = "{folder}/cache"
families = {{ countdown = 1, drills = 1 }}

[optimizer]
muon_lr = 1e-5
adamw_lr = 1e-6
"""
JOINT = """
model = "nano"
output = "unset"
steps = 9

[data]
source = "countdown"
levels = [2]
problems = 8
held_out = 2

[rollouts]
problems = 2
group = 4
max_tokens = 64

[head]
filter = "none"

[log]
evaluate_every = 1
"""


@pytest.fixture(scope="module")
def make():
    specification = importlib.util.spec_from_file_location("make_nano", RECIPE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(make, monkeypatch, folder: Path, *arguments: str) -> int:
    joint = folder / "joint.toml"
    joint.write_text(JOINT, encoding="utf-8")
    sft = folder / "sft.toml"
    sft.write_text(SFT.format(folder=folder), encoding="utf-8")
    monkeypatch.setattr(make, "JOINT", joint)
    monkeypatch.setattr(make, "VALIDATION_PROBLEMS", 6)
    monkeypatch.setattr(sys, "argv", ["make.py", "--config", str(sft), "--joint-steps", "1", *arguments])
    return make.main()


def test_the_stages_follow_each_other_and_are_not_done_twice(make, monkeypatch, tmp_path, capsys):
    assert run(make, monkeypatch, tmp_path, "--problems", "12") == 0
    last = tmp_path / "run" / "joint" / "model"
    assert f"made: {last}" in capsys.readouterr().err
    first, trained = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "model", last))
    assert first.keys() == trained.keys()
    assert any(not torch.equal(first[name], trained[name]) for name in first), "joint training moved no weight"
    checkpoint = load_checkpoint(last)
    assert checkpoint.config.calibration is not None and checkpoint.config.logprob_features
    assert checkpoint.config.provenance["trained_with"]["problems"] == 12
    made = (last, tmp_path / "run" / "model")  # the first head is part of what joint training goes on with
    before = {path: path.stat().st_mtime_ns for folder in made for path in folder.rglob("*") if path.is_file()}
    assert tmp_path / "run" / "model" / "sprm" / "head.safetensors" in before
    assert run(make, monkeypatch, tmp_path, "--problems", "12") == 0
    after = {path: path.stat().st_mtime_ns for folder in made for path in folder.rglob("*") if path.is_file()}
    assert after == before
    curves = (tmp_path / "run" / "joint" / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(json.loads(line)["step"] for line in curves) == 1


def test_ctrl_c_while_a_head_is_sampled_for_is_no_success(make, monkeypatch, tmp_path, capsys):
    stopped = HeadResult(tmp_path, 0, None, None, {}, interrupted=True)
    monkeypatch.setattr(make, "train_head", lambda config: stopped)
    assert run(make, monkeypatch, tmp_path, "--problems", "12") == 130
    assert not list(tmp_path.rglob("fitted")) and not (tmp_path / "run" / "joint").exists()
    assert "made:" not in capsys.readouterr().err


def test_a_bad_configuration_is_told_in_one_line(make, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["make.py", "--config", str(tmp_path / "none.toml")])
    assert make.main() == 1
    error = capsys.readouterr().err
    assert "none.toml" in error and error.count("\n") == 1
