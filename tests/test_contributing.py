"""The recipes of CONTRIBUTING.md run as they stand."""

import re
from pathlib import Path

import pytest

from reflective.verify import GRADERS

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^### ", PAGE.split("## Recipes", 1)[1], flags=re.MULTILINE)[1:]
RECIPES = dict(section.split("\n", 1) for section in SECTIONS)


def test_a_recipe_is_there_for_what_is_added_most():
    added = {"A new strategy", "A new benchmark", "A new engine", "A new grader", "A new kind of head"}
    assert set(RECIPES) == added


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipe_runs(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GRADERS, "_graders", dict(GRADERS._graders))  # what a recipe registers is gone again
    blocks = re.findall(r"^```python\n(.*?)^```$", RECIPES[title], flags=re.MULTILINE | re.DOTALL)
    assert blocks and "assert" in blocks[-1], "a recipe shows that it works"
    names: dict[str, object] = {"__name__": "__recipe__"}
    for block in blocks:
        exec(compile(block, f"CONTRIBUTING.md, {title}", "exec"), names)


@pytest.mark.parametrize("title", RECIPES)
def test_the_files_that_a_recipe_names_are_there(title):
    source = Path(__file__).resolve().parents[1] / "src" / "reflective"
    for path in re.findall(r"`([\w/]+\.py)(?:::\w+)?`", RECIPES[title]):
        assert path == "__init__.py" or any((place / path).is_file() for place in (source, source.parents[1])), path
