"""What `make reproduce-quick` does, all eight studies from end to end: stopped and resumed, done once, told in full."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "recipes" / "reproduce" / "reproduce.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

pytestmark = pytest.mark.long


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--settings", "quick.toml", "--output", str(folder / "run")]
    command += ["--results", str(folder / "results.md"), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments)
    _, told = process.communicate(timeout=1200)
    assert process.returncode == 0, told[-3000:]
    return told


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def recorded(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("records.jsonl"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run, stopped once while it sampled; the lines that were there then."""
    folder = tmp_path_factory.mktemp("reproduced")
    process = start(folder)
    path = folder / "run" / "shared" / "train" / "records.jsonl"
    while process.poll() is None and not lines(path):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    before = lines(path)
    assert process.returncode == 130
    finish(folder)
    return folder, before


def test_what_was_sampled_before_ctrl_c_is_kept(made):
    folder, before = made
    after = lines(folder / "run" / "shared" / "train" / "records.jsonl")
    assert 0 < len(before) < len(after) == 60
    assert after[: len(before)] == before


def test_all_eight_studies_are_told_and_every_table_has_intervals(made):
    folder, _ = made
    found = json.loads((folder / "run" / "figures.json").read_text(encoding="utf-8"))
    assert [study["number"] for study in found["studies"]] == list(range(1, 9))
    page = (folder / "results.md").read_text(encoding="utf-8")
    for study in found["studies"]:
        findings = study["findings"]
        assert findings["sentences"] and findings["plots"], study["name"]
        for sheet in findings["sheets"]:
            cells = [cell for row in sheet["rows"] for cell in row if isinstance(cell, dict)]
            assert cells and all({"value", "low", "high", "unit"} <= set(cell) for cell in cells), sheet["title"]
            assert all(len(row) == len(sheet["head"]) for row in sheet["rows"]), sheet["title"]
            assert sheet["title"] in page
        assert f"## {study['number']}. {study['title']}" in page
        assert (REPOSITORY / "recipes" / "reproduce" / f"{study['name']}.py").is_file()


def test_every_picture_of_the_page_is_there(made):
    folder, _ = made
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (folder / "results.md").read_text(encoding="utf-8"))
    assert len(pictures) >= 8
    assert all((folder / picture).stat().st_size > 1000 for picture in pictures)


def test_a_second_call_samples_nothing_and_figures_come_from_records_alone(made):
    folder, _ = made
    root = folder / "run"
    records, figures, page = recorded(root), (root / "figures.json").read_bytes(), (folder / "results.md").read_bytes()
    assert len(records) > 30
    told = finish(folder)
    assert recorded(root) == records and "problems ×" not in told
    (root / "figures.json").unlink()
    (folder / "results.md").unlink()
    models = [*root.rglob("*.safetensors"), *root.rglob("*.pt")]
    assert models
    for path in models:  # no model, no hidden state: figures need none
        path.unlink()
    finish(folder, "--write")
    assert (root / "figures.json").read_bytes() == figures
    assert (folder / "results.md").read_bytes() == page


def test_only_makes_what_was_asked_for(tmp_path):
    told = finish(tmp_path, "--only", "1")
    assert "study 1" in told and "study 2" not in told
    assert [p.name for p in (tmp_path / "run" / "shared").iterdir()] == ["test"]  # the others are not needed for it
    found = json.loads((tmp_path / "run" / "figures.json").read_text(encoding="utf-8"))
    assert [study["number"] for study in found["studies"]] == [1] and len(found["run"]["missing"]) == 7


def test_what_cannot_be_meant_is_refused(tmp_path):
    for arguments, words in ((("--only", "9"), "1 to 8"), (("--write",), "no study is complete")):
        process = start(tmp_path, *arguments)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 2 and words in told
