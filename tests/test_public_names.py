"""`__all__` is the API: this list changes on purpose or not at all."""

import ast
import importlib
from pathlib import Path

import pytest

import reflective

PUBLIC = {
    "CheckpointError",
    "ContextError",
    "DependencyError",
    "Engine",
    "EngineError",
    "InputError",
    "Problem",
    "Record",
    "RecordWriter",
    "Reflective",
    "ReflectiveError",
    "Sampling",
    "ScoredResponse",
    "Scripted",
    "ScriptedEngine",
    "Solution",
    "Step",
    "TrainingError",
    "Trajectory",
    "Verdict",
    "__version__",
    "read_records",
}

SEARCH = {
    "AUTO",
    "Beam",
    "DVTS",
    "ESC",
    "AdaptiveConsistency",
    "AutoEffort",
    "DeepConf",
    "Prune",
    "Forked",
    "MCTS",
    "Particles",
    "STRATEGIES",
    "Answering",
    "Answers",
    "BestOfN",
    "Choice",
    "Finished",
    "Interrupts",
    "Logprob",
    "Majority",
    "SearchEvent",
    "Settings",
    "Single",
    "Solved",
    "Started",
    "Steering",
    "StepScored",
    "Strategy",
    "Text",
    "Weighted",
    "get_strategy",
    "resolve_effort",
    "solve",
    "solve_many",
    "stream",
    "trajectory_seed",
}


@pytest.mark.parametrize(("module", "names"), [("reflective", PUBLIC), ("reflective.search", SEARCH)])
def test_the_public_names_are_these(module, names):
    home = importlib.import_module(module)
    assert set(home.__all__) == names
    for name in names:
        assert getattr(home, name) is not None


def test_lazy_names_are_the_typed_ones():
    tree = ast.parse(Path(reflective.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reflective.")
        for alias in node.names
    }
    assert typed == {name: f"reflective.{home}" for name, home in reflective._HOMES.items()}
    assert {*typed, "__version__"} == set(reflective.__all__)


def test_dir_lists_them_and_unknown_names_are_attribute_errors():
    assert set(reflective.__all__) <= set(dir(reflective))
    with pytest.raises(AttributeError, match="reflectiv"):
        _ = reflective.Reflectiv


def test_the_version_is_that_of_the_project():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{reflective.__version__}"' in project
