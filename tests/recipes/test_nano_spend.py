"""nano's records for effort auto: other problems to learn from, and splits of a run that were judged."""

import json
import sys

import pytest

from recipes.test_nano_search import NANO, script
from reflective import Problem, ScriptedEngine
from reflective.errors import InputError
from reflective.evaluate.run import Plan, run_benchmark
from reflective.search import BestOfN, Settings
from reflective.tasks import mixture
from scripted_traces import varied


@pytest.fixture
def spend(monkeypatch):
    monkeypatch.syspath_prepend(str(NANO))
    monkeypatch.delitem(sys.modules, "evaluate", raising=False)
    yield script("spend")
    sys.modules.pop("evaluate", None)


def test_others_are_of_the_same_split_and_no_problem_is_in_both(spend, monkeypatch):
    monkeypatch.setattr(spend, "EACH", 6)
    monkeypatch.setattr(spend, "FEWER", {"lcm": 160})
    families = ["lcm", "gcd"]
    drawn, others = spend.problems_of("validation", families, 7), spend.others_of("validation", families, 7)
    assert len(drawn) == 166 and not {p.text for p in drawn} & {p.text for p in others}
    assert [sum(p.family == family for p in others) for family in families] == [6, 6]
    assert not {p.text for p in others} & {p.text for p in mixture("test", 60, (1, 2), families, 7)}


def test_random_halves_tell_how_often_a_stated_risk_is_exceeded(tmp_path, capsys, monkeypatch):
    splits = script("splits")
    problems = [Problem(f"What is {i} + 1?", answer="4", id=f"sum/{i}") for i in range(160)]
    plan = Plan(6, BestOfN("all"), Settings(max_tokens=90), {"name": "sums"})
    run_benchmark(ScriptedEngine(varied(5), name="nowhere"), problems[:100], plan, tmp_path / "run")
    run_benchmark(ScriptedEngine(varied(5), name="nowhere"), problems[100:], plan, tmp_path / "learn")
    for learn in ([], ["--learn", str(tmp_path / "learn")]):
        monkeypatch.setattr("sys.argv", ["splits.py", str(tmp_path / "run"), "--splits", "3", *learn])
        assert splits.main() == 0
        found = json.loads(capsys.readouterr().out)
        assert found["problems"] == 100 and found["learnt"] == (60 if learn else 0)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "records.jsonl").write_text("")
    monkeypatch.setattr("sys.argv", ["splits.py", str(tmp_path / "none")])
    with pytest.raises(InputError, match="no two problems"):
        splits.main()
