"""Runs of others read, and ours written so that others' code gives our figures."""

import hashlib
import json
import math

import pytest

from reflective import InputError, Problem, Scripted, ScriptedEngine, read_records
from reflective.evaluate.exchange import PRESETS, Fields, export_run, import_run
from reflective.evaluate.run import Plan, run_benchmark
from reflective.evaluate.summary import summarise
from reflective.evaluate.table import Table
from reflective.records.manifest import RECORDS, read_manifest
from reflective.search import BestOfN, Settings


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def records(folder):
    return list(read_records(folder / RECORDS))


def test_lists_of_responses_scores_and_verdicts(tmp_path):
    rows = [{"q": "1+1?", "outs": ["x", "y"], "s": {"rm": [0.2, 0.9]}, "ok": [1, 0], "n": [5, 7]}]
    mapping = Fields().replaced({"problem": "q", "responses": "outs", "scores": "s.rm", "correct": "ok", "tokens": "n"})
    assert import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", mapping, model="theirs") == 1
    record = records(tmp_path / "run")[0]
    assert [t.score for t in record.trajectories] == [0.2, 0.9]
    assert [t.verdict.right for t in record.trajectories] == [True, False]
    assert record.selected == 1 and record.verdict.right is False and record.usage.completion_tokens == 12
    assert read_manifest(tmp_path / "run").model == "theirs"
    s = summarise(Table.of(records(tmp_path / "run")))
    assert s.curves["best_of_n"].last.value == 0.0 and s.curves["oracle"].last.value == 1.0


def test_a_response_a_line_is_joined_by_problem_and_graded(tmp_path):
    rows = [
        {"problem": "1+1?", "answer": "2", "responses": "<think>a</think>\\boxed{2}", "scores": [0.5, 0.5]},
        {"problem": "1+1?", "answer": "2", "responses": "<think>never ends", "scores": None},
        {"problem": "1+1?", "answer": 2, "responses": "The answer is \\boxed{3}.", "scores": 0.1},
    ]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"])
    (record,) = records(tmp_path / "run")
    first, second, third = record.trajectories
    assert first.score == pytest.approx(0.5) and len(first.step_logits) == 2 and first.verdict.right is True
    assert second.finish_reason == "length" and second.verdict.right is False and second.answer is None
    assert third.verdict.right is False and record.selected == 0


@pytest.mark.parametrize(
    "gold", ["9 * 2 = <<9*2=18>>18\n#### 18", "So it is \\boxed{18}.", 18, 18.0, ["18"], {"target": "18"}]
)
def test_a_gold_may_stand_at_the_end_of_a_solution(tmp_path, gold):
    rows = [{"problem": "9 * 2?", "answer": gold, "responses": ["It is \\boxed{18}.", "It is \\boxed{9}."]}]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"])
    assert [t.verdict.right for t in records(tmp_path / "run")[0].trajectories] == [True, False]


def test_scores_may_leave_zero_to_one(tmp_path):
    rows = [
        {"problem": f"{i}?", "responses": ["a", "b", "c"], "scores": [-7.5, 3.0, 2.5], "ok": [0, 1, 1]}
        for i in range(3)
    ]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", Fields(correct="ok"), kind="exact")
    s = summarise(Table.of(records(tmp_path / "run")))
    assert s.curves["best_of_n"].last.value == s.ranking["best_of_n"]["auc"].value == 1.0
    assert "ece_score" not in s.figures  # such a score is no probability


def test_unknown_token_counts_are_nan_and_not_zero(tmp_path):
    rows = [{"problem": "1+1?", "answer": "2", "responses": ["\\boxed{2}"]}]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"])
    s = summarise(Table.of(records(tmp_path / "run")))
    assert math.isnan(s.figures["tokens_per_problem"].value) and math.isnan(s.figures["seconds_per_problem"].value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "1+1?"}, "no problem text in 'problem'"),
        ({"problem": "1+1?"}, "no response texts in 'responses'"),
        ({"problem": "1+1?", "responses": ["a", "b"], "scores": [1.0]}, "1 scores for 2 responses"),
        ({"problem": "1+1?", "responses": ["a"], "scores": [[0.5, 2.0]]}, "step scores must lie in 0..1"),
        ([1], "a JSON object is expected"),
    ],
)
def test_what_can_not_be_read_is_named_with_its_line(tmp_path, row, what):
    good = {"problem": "1+1?", "responses": ["a"]}
    with pytest.raises(InputError, match=rf"in\.jsonl:2: {what}"):
        import_run(lines(tmp_path / "in.jsonl", [good, row]), tmp_path / "run", PRESETS["plain"])
    with pytest.raises(InputError, match="'yes' is no verdict"):
        import_run(lines(tmp_path / "in.jsonl", [good | {"ok": ["yes"]}]), tmp_path / "run", Fields(correct="ok"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="unknown field 'score'"):
        Fields().replaced({"score": "x"})


@pytest.fixture
def ours(tmp_path):
    script = [
        Scripted("so.\n\n</think>\\boxed{2}", [0.0]),
        Scripted("well.\n\n</think>\\boxed{3}", [1.0]),
        Scripted("on and on.\n\n", [3.0], endless=True),
        Scripted("x</think>\\boxed{2}"),
    ]
    problems = [Problem(f"1+1? ({i})", "2", id=f"p{i}", kind="exact") for i in range(3)]
    plan = Plan(4, BestOfN("all"), Settings(max_tokens=40), {"name": "sums"})
    run_benchmark(ScriptedEngine(script), problems, plan, tmp_path / "run")
    return tmp_path / "run"


def test_the_references_best_of_n_chooses_as_we_do(ours, tmp_path):
    assert export_run(ours, tmp_path / "out.jsonl", "reference") == 3
    for line, record in zip((tmp_path / "out.jsonl").read_text().splitlines(), records(ours), strict=True):
        row = json.loads(line)
        solutions, scores = row["output"]["solution_lst"], row["output"]["score_lst"]
        assert row["prompt"] == record.problem.text and row["answer"] == "2"
        assert scores.index(max(scores)) == record.selected == 1 and len(solutions) == 4
        assert solutions[1] == "well.\n\n</think>\\boxed{3}"
    import_run(tmp_path / "out.jsonl", tmp_path / "again", PRESETS["reference"], kind="exact")
    again, first = (summarise(Table.of(records(f))) for f in (tmp_path / "again", ours))
    assert again.curves["oracle"].last.value == first.curves["oracle"].last.value
    assert again.curves["best_of_n"].last.value == first.curves["best_of_n"].last.value


def test_samples_of_the_harness_have_its_fields_and_hashes(ours, tmp_path):
    export_run(ours, tmp_path / "out.jsonl", "lm-eval")
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert (
        row["doc_id"] == 1 and row["target"] == "2" and row["metrics"] == ["exact_match"] and row["exact_match"] == 0.0
    )
    assert len(row["resps"][0]) == 4 and row["filtered_resps"] == ["3"]
    assert row["prompt_hash"] == hashlib.sha256(b"1+1? (1)").hexdigest()
    assert row["doc_hash"] == hashlib.sha256(json.dumps(row["doc"], indent=2, ensure_ascii=False).encode()).hexdigest()
    import_run(tmp_path / "out.jsonl", tmp_path / "again", PRESETS["lm-eval"], kind="exact")
    assert [t.verdict.right for t in records(tmp_path / "again")[0].trajectories] == [True, False, False, True]


def test_what_is_there_is_not_overwritten(ours, tmp_path):
    export_run(ours, tmp_path / "out.jsonl", "lm-eval")
    with pytest.raises(InputError, match="there already"):
        export_run(ours, tmp_path / "out.jsonl", "lm-eval")
    with pytest.raises(InputError, match="unknown format"):
        export_run(ours, tmp_path / "x.jsonl", "xml")
    with pytest.raises(InputError, match="already holds a run"):
        import_run(tmp_path / "out.jsonl", ours, PRESETS["plain"])
