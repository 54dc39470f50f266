"""What a run tells: each warning once, curves that survive a kill, and speeds by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

from reflective.train.joint.reporting import CURVES, Reporter, read_curves, write_picture
from reflective.train.progress import Stop


def told(folder: Path, *logs: dict[str, Any], leads: bool = True) -> list[str]:
    notes: list[str] = []
    reporter = Reporter(folder, notes.append, Stop(), leads, lambda wish: wish)
    for step, figures in enumerate(logs, 1):
        state = SimpleNamespace(global_step=step, max_steps=10, num_input_tokens_seen=0)
        reporter.on_log(None, state, None, logs=figures)
    return notes


def test_collapsed_entropy_and_trajectories_that_are_all_alike_are_told_once(tmp_path: Path) -> None:
    figures = {"loss": 0.1, "entropy": 0.001, "reward": 0.98, "frac_reward_zero_std": 1.0}
    notes = told(tmp_path, figures, figures)
    assert sum("entropy has collapsed" in note for note in notes) == 1
    assert sum("all right" in note and "harder" in note for note in notes) == 1
    mixed = told(tmp_path, {"loss": 0.1, "reward": 0.6, "frac_reward_zero_std": 1.0})
    assert any("all right or all wrong" in note and "harder" in note for note in mixed)
    healthy = {"loss": 0.1, "entropy": 0.7, "reward": 0.5, "frac_reward_zero_std": 0.2}
    assert len(told(tmp_path, healthy)) == 1


def test_what_cannot_be_graded_is_told_in_place_of_an_entropy_of_nothing(tmp_path: Path) -> None:
    notes = told(tmp_path, {"loss": 0.0, "entropy": 0.0, "spr/gradable": 0.0})
    assert any("0% of the trajectories could be graded" in note for note in notes)
    assert not any("entropy has collapsed" in note for note in notes)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    assert told(tmp_path, {"loss": 0.1}, leads=False) == [] and not list(tmp_path.iterdir())


def test_curves_of_a_killed_run_are_read(tmp_path: Path) -> None:
    lines = ['{"step": 1, "reward": 0.1}', '{"step": 2, "reward": 0.2}', '{"step": 2, "rew']
    (tmp_path / CURVES).write_text("\n".join(lines))
    reporter = Reporter(tmp_path, print, Stop(), True, lambda wish: wish)
    state = SimpleNamespace(global_step=2, max_steps=10, num_input_tokens_seen=0)
    reporter.on_train_begin(None, state, None)
    reporter.on_log(None, state, None, logs={"reward": 0.3})
    assert read_curves(tmp_path) == {"reward": ([1, 2], [0.1, 0.3])}  # what was run again counts
    assert read_curves(tmp_path / "nothing") == {}


def test_the_picture_needs_something_to_show(tmp_path: Path) -> None:
    assert write_picture(tmp_path, print) is None
    told(tmp_path, {"loss": 0.1, "reward": 0.4})
    picture = write_picture(tmp_path, print)
    assert picture is not None and picture.read_bytes().startswith(b"\x89PNG")
