"""`reflective train` hands its arguments to the trainers and says how they ended."""

import json
import math
from pathlib import Path

import pytest


@pytest.fixture
def sft(monkeypatch):
    """Calls of train_sft, which does nothing."""
    module = pytest.importorskip("reflective.train.sft.run")
    calls = []

    def train(config):
        calls.append(config)
        validation = {"all": 0.5}
        return module.SFTResult(Path(config.output), 3, 99, 1.5, math.nan, validation, interrupted=config.seed == 13)

    monkeypatch.setattr(module, "train_sft", train)
    return calls


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "sft.toml"
    path.write_text('output = "runs/a"\nmodel = "x"\nmax_minutes = 1.0\n[data]\nfiles = ["a.jsonl"]\n')
    return str(path)


def test_sft_reads_the_recipe_and_overrides_it(run, sft, recipe):
    code, out, _ = run("train", "sft", recipe, "--output", "runs/b", "--max-tokens", "5000", "--seed", "4")
    assert (code, out) == (0, "runs/b\n")
    assert (sft[0].output, sft[0].max_tokens, sft[0].seed, sft[0].max_minutes) == ("runs/b", 5000, 4, 1.0)
    code, out, _ = run("train", "sft", recipe, "--json")
    assert json.loads(out)["folder"] == "runs/a" and json.loads(out)["loss"] is None


def test_a_stopped_run_exits_130_and_says_how_to_go_on(run, sft, recipe):
    code, _, err = run("train", "sft", recipe, "--seed", "13")
    assert code == 130 and "the same command goes on" in err


def test_a_bad_recipe_is_one_line(run, tmp_path):
    code, out, err = run("train", "sft", str(tmp_path / "none.toml"))
    assert (code, out) == (2, "") and err.count("\n") == 1
    bad = tmp_path / "bad.toml"
    bad.write_text('outptu = "x"\n')
    code, out, err = run("train", "sft", str(bad))
    assert code == 2 and "Did you mean 'output'" in err and err.count("\n") == 1


def test_head_hands_over_only_what_is_given(run, monkeypatch):
    module = pytest.importorskip("reflective.train.head.run")
    calls = []

    def train(config):
        calls.append(config)
        return module.HeadResult(Path("runs/h"), 2, 0.8, None, {})

    monkeypatch.setattr(module, "train_head", train)
    argv = ["train", "head", "--model", "m", "--task", "gcd", "lcm", "--problems", "9", "--filter", "none"]
    code, out, _ = run(*argv, "--logprob-features", "--lr", "0.01", "--json")
    (config,) = calls
    assert code == 0 and json.loads(out)["within_problem_auc"] == 0.8
    assert (config.tasks, config.problems, config.filter, config.lr) == (("gcd", "lcm"), 9, "none", 0.01)
    assert config.logprob_features and config.trajectories == 8 and config.data is None


def test_head_needs_problems(run):
    code, out, err = run("train", "head", "--model", "m")
    assert (code, out) == (2, "") and "--data" in err and err.count("\n") == 1


@pytest.fixture
def joint(monkeypatch):
    """Calls of train_joint, which does nothing."""
    module = pytest.importorskip("reflective.train.joint.run")
    calls = []

    def train(config):
        calls.append(config)
        return module.JointResult(Path(config.output), 3, {"reward": math.nan}, interrupted=config.seed == 13)

    monkeypatch.setattr(module, "train_joint", train)
    return calls


def test_joint_reads_the_configuration_and_overrides_it(run, joint, tmp_path):
    path = tmp_path / "joint.toml"
    path.write_text('model = "nano"\noutput = "runs/a"\n[data]\nsource = "gcd"\n')
    code, out, _ = run("train", "joint", str(path), "--output", "runs/b", "--steps", "7", "--model", "m")
    assert (code, out) == (0, "runs/b\n")
    assert (joint[0].steps, joint[0].model, joint[0].seed) == (7, "m", 0)
    code, out, _ = run("train", "joint", str(path), "--json", "--seed", "13")
    assert code == 130 and json.loads(out) == {
        "folder": "runs/a",
        "steps": 3,
        "figures": {"reward": None},
        "interrupted": True,
    }


def test_a_bad_joint_configuration_is_one_line(run, tmp_path):
    path = tmp_path / "joint.toml"
    path.write_text('model = "nano"\noutput = "a"\n[data]\nsource = "gcd"\n[polcy]\nlr = 1.0\n')
    code, out, err = run("train", "joint", str(path))
    assert (code, out) == (2, "") and "Did you mean 'policy'" in err and err.count("\n") == 1


def test_a_plan_is_computed_without_loading_anything(run):
    code, out, _ = run("train", "plan", "7b", "--gpus", "8", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["parameters"] == 7_615_616_512 and plan["advised"] == "fsdp2"
    code, out, _ = run("train", "plan", "1.5b", "--gpus", "4")
    assert code == 0 and "none is shipped for 4 GPUs" in out and "none fits" not in out
    code, _, err = run("train", "plan", "7b", "--gpus", "0")
    assert code == 2 and "gpus is 0; it must be 1 or more" in err
    code, out, _ = run("train", "plan", "32b", "--gpus", "1")
    assert code == 0 and "none fits" in out
    code, _, err = run("train", "plan", "70b")
    assert code == 2 and "1.5b, 7b, 32b" in err
