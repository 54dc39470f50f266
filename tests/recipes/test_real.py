"""The recipe for real models: sampled in turns, fitted, and its figures computed again from compact records alone."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compact
import figures
import fit
import numpy as np
import pytest
import sample
import ship
import spend
import torch

from reflective.cli import exit_code
from reflective.errors import InputError
from reflective.evaluate.paired import Comparison
from reflective.judge.config import read_config
from reflective.models import shipped
from reflective.records import Record
from reflective.train import rollouts
from reflective.train.rollouts import load_records
from reflective.types import Verdict
from tiny import tiny_folder

PAIR = ("records", "folds")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both scripts on a tiny model, whose answers are drawn: it is right where its first token says so."""
    folder = tmp_path_factory.mktemp("real")
    tiny_folder(folder / "model", step_token_ids=range(40, 100))
    for name, count in (("train", 24), ("test", 120)):
        rows = [{"question": f"What is {i}, {name}?", "answer": f"so\n#### {i}"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    graded = rollouts.record_of

    def drawn(*args: Any, **options: Any) -> Record:
        record = graded(*args, **options)
        answers = [t.token_ids[0] % 3 for t in record.trajectories]
        verdicts = [Verdict("right" if answer == 1 else "wrong", "drawn") for answer in answers]
        changed = [
            replace(t, verdict=v, answer=str(a), group=a)
            for t, v, a in zip(record.trajectories, verdicts, answers, strict=True)
        ]
        return replace(record, trajectories=tuple(changed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "record_of", drawn)
        plan = replace(sample.PLANS["gsm8k"], train=12, validation=4, test=8, max_tokens=8)
        patch.setattr(sample, "PLANS", {"gsm8k": plan})
        patch.setattr(sample, "TURNS", (0.5, 1.0))
        common = ["--model", str(folder / "model"), "--dtype", "float32"]
        files = ["--train", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl")]
        sample.main([*common, *files, "--output", str(folder / "runs")])
        scoring = [*common, "--samples", str(folder / "runs")]
        fit.main([*scoring, "--records", str(folder / "records")])
        fit.main([*scoring, "--records", str(folder / "taken"), "--heads", str(folder / "runs/heads")])
        fit.main([*scoring, "--records", str(folder / "folds"), "--folds", "4"])
        fewer = ["--only", "test", "--problems", "4", "--responses", "2", *files, "--output", str(folder / "fewer")]
        sample.main([*common, *fewer])
        one = ["--samples", str(folder / "fewer"), "--heads", str(folder / "runs/heads/plain")]
        fit.main([*common, *one, "--records", str(folder / "one")])
    return folder


def test_no_figure_is_of_a_problem_that_the_layers_were_developed_on(run: Path) -> None:
    numbers = {
        int(record.problem.text.split("What is ")[1].split(",")[0]) for record in load_records(run / "runs/test")
    }
    assert len(numbers) == 8 and not numbers & sample.PLANS["gsm8k"].developed_on


def test_compact_records_hold_no_texts_and_the_same_figures(run: Path) -> None:
    for kind in fit.KINDS:
        path = run / "records" / f"{kind}.jsonl.gz"
        text = gzip.decompress(path.read_bytes()).decode()
        assert "What is" not in text and '"token_ids":[]' in text
        assert str(run) not in text and '"model":"model"' in text
        full = {record.key: record for record in load_records(run / "runs/test")}
        for record in compact.read_compact(path):
            theirs = full[record.key]
            assert [t.verdict.kind for t in record.trajectories] == [t.verdict.kind for t in theirs.trajectories]
            assert [t.group for t in record.trajectories] == [t.group for t in theirs.trajectories]
            assert [t.closed for t in record.trajectories] == [t.closed for t in theirs.trajectories]
            assert any(t.step_logits for t in record.trajectories)
            best = max((t for t in record.trajectories if t.closed), key=lambda t: t.score or 0.0)
            assert record.selected is not None and record.trajectories[record.selected].score == best.score
            assert record.confidence is not None and 0.0 <= record.confidence <= 1.0
    again = run / "again.jsonl.gz"
    compact.write_compact(again, compact.read_compact(path))
    assert again.read_bytes() == path.read_bytes(), "the same records give the same bytes"


def test_the_heads_are_saved_with_what_they_were_fitted_on(run: Path) -> None:
    plain, logprobs = (read_config(run / "runs/heads" / kind / "config.json") for kind in fit.KINDS)
    assert not plain.logprob_features and logprobs.logprob_features
    assert plain.fingerprint is not None and plain.provenance["trained_with"]["data"] == "gsm8k"
    assert plain.provenance["trained_with"]["temperature"] == 0.8


def test_heads_that_are_taken_as_they_are_say_what_they_said(run: Path) -> None:
    for kind in fit.KINDS:
        ours, theirs = (figures.Judged.read(run / name / f"{kind}.jsonl.gz").table for name in ("records", "taken"))
        np.testing.assert_allclose(ours.scores["score"], theirs.scores["score"], rtol=1e-3)


def test_with_folds_every_problem_is_scored_once_by_a_head_that_has_not_seen_it(run: Path) -> None:
    records = load_records(run / "runs/test")
    keys = figures.Judged.read(run / "folds/plain.jsonl.gz").table.keys
    assert sorted(keys) == sorted(record.key for record in records)
    ours, theirs = (figures.Judged.read(run / name / "plain.jsonl.gz").table.scores["score"] for name in PAIR)
    assert not np.allclose(ours, theirs, equal_nan=True), "other heads than the one of the training problems"


def test_a_part_can_be_sampled_again_scored_by_one_head_and_set_beside_the_whole(run: Path) -> None:
    assert sorted(path.name for path in (run / "fewer").iterdir() if path.is_dir()) == ["test"]
    assert [path.name for path in (run / "one").iterdir()] == ["plain.jsonl.gz"]
    again, whole = (figures.Judged.read(run / name / "plain.jsonl.gz").table for name in ("one", "records"))
    assert (again.problems, again.budget) == (4, 2) and set(again.keys) < set(whole.keys)
    _, _, row = figures.beside(run / "one", run / "records").splitlines()
    assert row.startswith("| the paper's head | ") and row.endswith(" | 2 | 4 |")
    difference = 100 * (again.right.mean() - whole.take([whole.keys.index(key) for key in again.keys]).right.mean())
    assert row.split(" | ")[1].startswith(f"{difference:+.1f}")
    _, _, same = figures.beside(run / "records", run / "taken").splitlines()[:3]
    assert same.split(" | ")[1] == "+0.0"


def test_the_report_gives_every_figure_with_its_interval(run: Path, tmp_path: Path) -> None:
    text = figures.report(run / "records")
    assert text.startswith("8 test problems × 16 responses")
    judged = figures.Judged.read(run / "records/plain.jsonl.gz")
    assert f"| mean log-probability | {judged.table.right.mean():.3f} (" in text, "one of one is a single sample"
    assert text.count("(") > 40 and "nan" not in text
    figures.draw(run / "records", tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".csv"} and len(list(tmp_path.iterdir())) == 8


def right_where(run: Path, target: Path, choose: Callable[[Record, int], bool]) -> Path:
    """The records of the head with log-probabilities, with other verdicts."""

    def judged(record: Record) -> Record:
        verdicts = [Verdict("right" if choose(record, i) else "wrong") for i in range(len(record.trajectories))]
        return replace(
            record,
            trajectories=tuple(replace(t, verdict=v) for t, v in zip(record.trajectories, verdicts, strict=True)),
        )

    path = target / "records" / "logprobs.jsonl.gz"
    compact.write_compact(path, map(judged, compact.read_compact(run / "records/logprobs.jsonl.gz")))
    return path


def test_a_head_is_shipped_with_its_card_where_its_choice_is_ahead(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.json").write_text('{"heads": []}')
    records = right_where(run, tmp_path, lambda record, i: i == record.selected)
    common = ["--head", str(run / "runs/heads/logprobs"), "--hub-id", "Someone/Tiny-1", "--to", str(tmp_path)]
    for _ in range(2):  # again replaces it
        assert ship.main([*common, "--records", str(records)]) == 0
    monkeypatch.setattr(shipped.resources, "files", lambda _: tmp_path)
    (head,) = shipped.shipped_heads()
    assert head.name == "tiny-1" and head.hub_ids == ("Someone/Tiny-1",)
    ours, theirs = fit.read(tmp_path / "tiny-1"), fit.read(run / "runs/heads/logprobs")
    assert ours.head is not None and theirs.head is not None and ours.config == theirs.config
    for name, tensor in ours.head.state_dict().items():
        assert torch.equal(tensor, theirs.head.state_dict()[name]), "bfloat16 loses nothing: it is what was measured"
    card = (tmp_path / "tiny-1/MODEL_CARD.md").read_text()
    assert "8 test problems × 16 responses" in card and "temperature 0.8" in card and "{" not in card


def test_a_head_is_not_shipped_where_it_gains_nothing_or_a_vote_is_better(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--head", str(run / "runs/heads/logprobs"), "--hub-id", "a/b", "--to", str(tmp_path)]
    records = right_where(run, tmp_path, lambda record, i: i != record.selected)
    assert ship.main([*common, "--records", str(records)]) == 1
    assert "not ahead of a single sample beyond noise" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_head_behind_a_vote_is_not_shipped_though_chance_may_explain_it() -> None:
    gains = {"single": Comparison(0.08, 0.03, 0.13, 0.01, 150), "majority": Comparison(-0.05, -0.12, 0.01, 0.13, 150)}
    votes = {"majority": Comparison(-0.03, -0.1, 0.04, 0.4, 150)}
    judged = SimpleNamespace(
        values=gains, gain=lambda over, of="best_of_n": (votes if of == "weighted" else gains)[over]
    )
    assert ship.objection(judged).startswith("majority voting is ahead: ")
    votes["majority"] = Comparison(0.0, -0.06, 0.06, 1.0, 150)
    assert ship.objection(judged) == "", "one of both ways to use the scores is enough"


def test_where_nothing_can_vote_only_choices_are_told(run: Path, tmp_path: Path) -> None:
    records = list(compact.read_compact(run / "records/plain.jsonl.gz"))
    programs = [
        replace(r, trajectories=tuple(replace(t, group=None, answer=None) for t in r.trajectories)) for r in records
    ]
    compact.write_compact(tmp_path / "plain.jsonl.gz", programs)
    text = figures.report(tmp_path)
    assert "vote" not in text and "majority" not in text and "best of k − single sample" in text


@pytest.mark.parametrize("missing", ["nothing is there", "no head in common"])
def test_a_folder_without_records_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    (tmp_path / "a").mkdir()
    call = partial(figures.report, tmp_path / "a")
    if missing == "no head in common":
        compact.write_compact(tmp_path / "a/plain.jsonl.gz", [])
        call = partial(figures.beside, tmp_path / "a", tmp_path)
    assert exit_code(call) == 2  # type: ignore[arg-type]  # it returns nothing here
    told = capsys.readouterr().err
    assert "compact records" in told and told.count("\n") == 1


def test_no_problems_are_no_sample(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="problems is 0"):
        sample.main(["--model", "nano", "--output", str(tmp_path), "--problems", "0"])


def test_even_a_perfect_confidence_has_an_error_that_shrinks_with_more_problems() -> None:
    stated = np.random.default_rng(1).random(1000)
    few, many = figures.perfect_error(stated[:100]), figures.perfect_error(stated)
    assert 0.05 < few.value < 0.15 and many.value < 0.05
    # of a coin, one bin: E|binomial - mean| / n = sqrt(2 / pi) * 0.5 / sqrt(n)
    coin = figures.perfect_error(np.full(400, 0.5))
    assert coin.value == pytest.approx(0.3989 / 20, rel=0.06)


def test_what_effort_auto_saves_is_told_and_kept_with_the_head(run: Path, tmp_path: Path) -> None:
    """Records of many problems made of those that are there; the recipe itself asks for 30 of its own."""
    records = list(compact.read_compact(run / "records/validation/plain.jsonl.gz"))
    theirs = {record.key: record for record in load_records(run / "runs/validation")}
    assert [record.key for record in records] == list(theirs) and len(records) == 4
    for record in records:
        positions = [t.step_positions for t in theirs[record.key].trajectories]
        assert [t.step_positions for t in record.trajectories] == positions and any(positions)
    compact.write_compact(tmp_path / "records/validation/plain.jsonl.gz", records * 20)
    compact.write_compact(tmp_path / "records/plain.jsonl.gz", compact.read_compact(run / "records/plain.jsonl.gz"))
    shutil.copytree(run / "runs/heads/plain", tmp_path / "head")
    schedule = spend.fitted(tmp_path / "records", "score")  # nano reasons between marks
    text = spend.report(tmp_path / "records", "score")
    assert text.startswith("8 test problems × 16 responses; schedule tested on 80 validation problems")
    assert all(f"| auto, risk {limit.risk:g} |" in text for limit in schedule.limits) and "ESC, window 5" in text
    spend.main([str(tmp_path / "records"), "--keep", str(tmp_path / "head")])
    kept = fit.read(tmp_path / "head")
    assert kept.config.schedule == replace(schedule, head=kept.digest)
    assert kept.calibration is not None and "auto_effort" in kept.calibration.strategies


# ---- what is published

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = re.compile(r"<!-- figures: (\S+) -->\n(.*?)\n<!-- end -->", re.DOTALL)
SPENT = re.compile(r"<!-- spending: (\S+) -->\n(.*?)\n<!-- end -->", re.DOTALL)


def test_every_published_table_is_what_the_committed_records_give() -> None:
    text = (ROOT / "docs/real-models.md").read_text(encoding="utf-8")
    found = PUBLISHED.findall(text)
    records = ROOT / "recipes/real/records"
    assert sorted(name for name, _ in found) == sorted(path.name for path in records.iterdir())
    for name, table in found:
        assert table == figures.report(records / name)
    size = sum(path.stat().st_size for path in records.rglob("*") if path.is_file())
    assert size <= 10e6, "of all records together"


def test_what_is_published_of_spending_is_what_the_committed_records_give() -> None:
    ((name, table),) = SPENT.findall((ROOT / "docs/spending.md").read_text(encoding="utf-8"))
    assert table == spend.report(ROOT / "recipes/real/records" / name)


def test_the_head_of_the_package_carries_a_schedule_of_its_own() -> None:
    judge = fit.read(ROOT / "src/reflective/heads/qwen2.5-coder-0.5b-instruct")
    assert judge.config.schedule is not None and judge.config.schedule.head == judge.digest
