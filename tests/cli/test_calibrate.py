"""`reflective calibrate` and `report --policies` on records of scripted trajectories, and effort auto's refusals."""

import json

import pytest

from reflective import Problem, Reflective, ScriptedEngine
from reflective.cli import main
from reflective.errors import InputError
from reflective.evaluate.policies import policies, problems_of
from reflective.evaluate.run import Plan, run_benchmark
from reflective.judge.schedule import Limit, Schedule
from reflective.options import plan
from reflective.search import AutoEffort, BestOfN, Settings
from scripted_traces import varied


def sampled(folder, numbers):
    """A run of so many problems × 6 without a head that anybody knows."""
    problems = [Problem(f"What is {i} + 1?", answer="4", id=f"sum/{i}") for i in numbers]
    plan = Plan(6, BestOfN("all"), Settings(max_tokens=90), {"name": "sums"})
    run_benchmark(ScriptedEngine(varied(5), name="nowhere"), problems, plan, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return sampled(tmp_path_factory.mktemp("run"), range(12))


def test_policies_of_a_run_are_reported(run, capsys):
    assert main(["report", str(run), "--policies", "--json"]) == 0
    out = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out.out)["policies"]}
    assert rows["best of n, 4"]["tokens"]["value"] < 1.0
    assert rows["majority, 1"]["started"] == 1.0
    assert "DeepConf is left out" in out.err and "schedule is left out" in out.err


def test_too_few_problems_are_refused(run, capsys):
    assert main(["calibrate", str(run), "--model", "nano", "--output", str(run / "judged")]) == 2
    assert "a fit needs 30" in capsys.readouterr().err


def test_what_is_learnt_from_other_runs_is_tested_on_all_problems(run, tmp_path, capsys):
    tested, learnt = sampled(tmp_path / "tested", range(100, 140)), sampled(tmp_path / "learnt", range(200, 260))
    command = ["calibrate", str(tested), "--learn", str(learnt), "--model", "nano", "--output", str(tmp_path / "head")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == 40
    assert main(["calibrate", str(tested), "--learn", str(run), "--model", "nano", "--output", str(tmp_path)]) == 2
    assert "12 graded problems with 6 trajectories are too few to learn from" in capsys.readouterr().err


@pytest.mark.parametrize("between", [[], ["--learn"]])
def test_a_run_that_is_named_twice_is_refused(run, capsys, between):
    assert main(["calibrate", str(run), *between, str(run), "--model", "nano"]) == 2
    assert "12 problems are in several of the runs" in capsys.readouterr().err


def test_a_head_of_the_package_needs_a_folder_before_anything_is_fitted(run, capsys):
    assert main(["calibrate", str(run), "--model", "nano"]) == 2
    assert "comes with the package" in capsys.readouterr().err


def test_only_what_can_be_played_is_played(run):
    _, problems = problems_of(run)
    names = {policy.family for policy in policies(len(problems[0]), scored=False, confident=False)}
    assert names == {"majority", "adaptive consistency", "ESC", "auto by agreement"}


def test_a_schedule_of_another_k_is_left_out():
    limit = Limit(0.05, 0.1, 0.0, 0.0, 0.3)
    fitted = Schedule(32, 4, 1.0, 16, "score", (0.0,) * 10, (limit,), 0.95, 600)
    assert not any(policy.family == "auto" for policy in policies(16, scored=True, confident=False, schedule=fitted))
    assert any(policy.family == "auto" for policy in policies(32, scored=True, confident=False, schedule=fitted))


def test_effort_auto_without_a_head_goes_by_agreement():
    model = Reflective(ScriptedEngine(varied(5)))
    k, strategy, _ = model.plan(effort="auto")
    assert k == 32 and isinstance(strategy, AutoEffort) and strategy.schedule is None
    with pytest.raises(InputError, match="no schedule is fitted"):
        model.plan(effort="auto", risk=0.02)


@pytest.mark.parametrize("risk", [0.0, 1.0, 1.5])
def test_a_risk_that_means_nothing_is_refused_before_a_model_is_loaded(risk):
    with pytest.raises(InputError, match="between 0 and 1"):
        plan({"effort": "auto", "risk": risk})


def test_what_does_not_go_with_effort_auto_is_refused():
    with pytest.raises(InputError, match="brings its own strategy"):
        plan({"effort": "auto", "strategy": "majority"})
    with pytest.raises(InputError, match="effort 'auto' only"):
        plan({"effort": 8, "risk": 0.02})
