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


# ---- what other tools' files hold beside what they should


def sample_row(doc, filter, right, response="so \\boxed{2}"):
    """A line of the harness's samples file, one per document and filter."""
    return {
        "doc_id": doc,
        "target": "2",
        "arguments": {"gen_args_0": {"arg_0": f"1+1? ({doc})"}},
        "resps": [[response]],
        "filtered_resps": ["2" if right else "[invalid]"],
        "filter": filter,
        "exact_match": float(right),
    }


def test_the_lines_of_one_filter_are_taken_and_named(tmp_path):
    rows = [sample_row(d, f, f == "flexible") for d in range(2) for f in ("strict", "flexible")]
    source, notes = lines(tmp_path / "in.jsonl", rows), []
    assert import_run(source, tmp_path / "first", PRESETS["lm-eval"], notes=notes) == 2
    assert "strict, flexible" in notes[0] and "'strict' is taken" in notes[0]
    assert "filter 'strict'" in read_manifest(tmp_path / "first").history[0]
    assert [len(r.trajectories) for r in records(tmp_path / "first")] == [1, 1]
    assert summarise(Table.of(records(tmp_path / "first"))).curves["oracle"].last.value == 0.0
    import_run(source, tmp_path / "other", PRESETS["lm-eval"], filter="flexible")
    assert summarise(Table.of(records(tmp_path / "other"))).curves["oracle"].last.value == 1.0
    with pytest.raises(InputError, match="no line is of the filter 'x'. Known: strict, flexible"):
        import_run(source, tmp_path / "none", PRESETS["lm-eval"], filter="x")


def test_several_lines_of_the_only_filter_are_several_samples(tmp_path):
    notes = []
    source = lines(tmp_path / "in.jsonl", [sample_row(0, "none", right) for right in (0, 1)])
    import_run(source, tmp_path / "run", PRESETS["lm-eval"], notes=notes)
    assert len(records(tmp_path / "run")[0].trajectories) == 2 and notes == []


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(
        b'\xef\xbb\xbf{"problem": "1+1?", "answer": "2", "responses": ["\\\\boxed{2}"]}\n'
    )
    import_run(tmp_path / "in.jsonl", tmp_path / "run", PRESETS["plain"])
    assert records(tmp_path / "run")[0].trajectories[0].verdict.right is True


@pytest.mark.parametrize("missing", ["", "  ", None, float("nan"), []])
def test_a_missing_gold_is_none_and_one_of_another_line_is_taken(tmp_path, missing):
    rows = [
        {"problem": "1+1?", "answer": missing, "responses": ["\\boxed{2}"]},
        {"problem": "2+2?", "answer": missing, "responses": ["\\boxed{4}"]},
        {"problem": "1+1?", "answer": "2", "responses": ["\\boxed{3}"]},
    ]
    notes = []
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"], notes=notes)
    first, second = records(tmp_path / "run")
    assert [t.verdict.right for t in first.trajectories] == [True, False]
    assert second.problem.answer is None and second.verdict.kind == "ungradable"
    assert notes == ["1 of 2 problems have no gold answer, so theirs are ungradable"]


@pytest.mark.parametrize("gold", [True, False])
def test_a_boolean_gold_is_its_word(tmp_path, gold):
    rows = [{"problem": "prime?", "answer": gold, "responses": ["\\boxed{True}", "It is \\boxed{false}."]}]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"], kind="exact")
    assert [t.verdict.right for t in records(tmp_path / "run")[0].trajectories] == [gold, not gold]


def test_one_number_in_a_list_is_the_trajectorys_score(tmp_path):
    rows = [{"problem": "1+1?", "answer": "2", "responses": ["\\boxed{2}", "3", "4"], "scores": [[3.5], [-20], [0.25]]}]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"])
    (record,) = records(tmp_path / "run")
    assert [t.score for t in record.trajectories] == pytest.approx([3.5, -20, 0.25]) and record.selected == 0


@pytest.mark.parametrize("scores", [["high"], [["a"]], [[None, 0.3]], [[float("nan")]], [[True]]])
def test_a_score_that_is_no_number_is_refused_with_its_line(tmp_path, scores):
    rows = [{"problem": "1+1?", "answer": "2", "responses": ["x"], "scores": scores}]
    with pytest.raises(InputError, match=r"in\.jsonl:1: a score is a number or a list of numbers"):
        import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", PRESETS["plain"])


def test_unknown_verdicts_and_scores_stay_unknown(tmp_path):
    rows = [{"problem": "1+1?", "responses": ["x", "y"], "scores": [float("nan"), None], "ok": [float("nan"), True]}]
    import_run(lines(tmp_path / "in.jsonl", rows), tmp_path / "run", Fields(correct="ok"))
    first, second = records(tmp_path / "run")[0].trajectories
    assert first.score is None and second.score is None
    assert first.verdict.kind == "ungradable" and second.verdict.right is True


def test_the_example_of_the_docs(tmp_path):
    rows = [{"q": "1 + 1?", "gold": "2", "outputs": ["It is 2.", "It is 3."], "rm": [0.9, 0.2]}]
    mapping = Fields().replaced({"problem": "q", "answer": "gold", "responses": "outputs", "scores": "rm"})
    import_run(lines(tmp_path / "theirs.jsonl", rows), tmp_path / "run", mapping)
    s = summarise(Table.of(records(tmp_path / "run")))
    assert (s.figures["chosen"].value, s.figures["single"].value, s.curves["oracle"].last.value) == (1.0, 0.5, 1.0)
