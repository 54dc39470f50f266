"""The recipe that compares searches over steps on nano: a row for each way to choose, and no work done twice."""

import importlib.util
import json
from pathlib import Path

import pytest

from reflective.errors import InputError

pytestmark = pytest.mark.slow

NANO = Path(__file__).resolve().parents[2] / "recipes" / "nano"
SEARCHES = ("beam", "DVTS", "particles", "particles, annealed", "MCTS")


def script(name):
    spec = importlib.util.spec_from_file_location(f"nano_{name}", NANO / f"{name}.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


@pytest.mark.parametrize("name", ["evaluate", "search"])
def test_no_problems_are_no_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--problems", "0", "--output", str(tmp_path)])
    with pytest.raises(InputError, match="problems is 0"):
        script(name).main()


@pytest.mark.parametrize(
    ("problems", "effort", "ways"),
    [(2, 2, ("particles, annealed", "MCTS")), pytest.param(6, 4, SEARCHES, marks=pytest.mark.long)],
)
def test_every_search_has_its_rows_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch, problems, effort, ways):
    recipe = script("search")
    assert set(SEARCHES) == recipe.WAYS.keys() - {recipe.BASELINE}
    sizes = ["--problems", str(problems), "--levels", "1", "--effort", str(effort)]
    monkeypatch.setattr("sys.argv", ["search.py", *sizes, "--output", str(tmp_path), "--only", *ways])
    assert recipe.main() == 0
    first = capsys.readouterr().out
    rows = json.loads(first.splitlines()[-1])["rows"]
    samples = {"best of n", "weighted vote", "majority vote", "single sample"}
    assert set(rows) == samples | {f"{way}, {choice}" for way in ways for choice in ("best", "weighted vote")}
    assert rows["best of n"]["difference"]["difference"] == 0.0
    assert all(0.0 <= row["accuracy"]["value"] <= 1.0 and row["tokens"]["value"] > 0 for row in rows.values())
    most = rows["best of n"]["tokens"]["value"]
    assert all(rows[f"{way}, best"]["tokens"]["value"] <= 1.5 * most for way in ways), "about as many tokens"
    written = {path: path.read_bytes() for path in tmp_path.rglob("records.jsonl")}
    assert len(written) == 1 + len(ways)
    assert recipe.main() == 0
    assert capsys.readouterr().out == first
    assert {path: path.read_bytes() for path in written} == written
