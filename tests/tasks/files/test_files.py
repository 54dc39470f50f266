"""Rows, fields and golds in the forms in which files hold them."""

from __future__ import annotations

import gzip
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reflective.errors import InputError
from reflective.tasks import load_problems
from reflective.tasks.files.gold import NoAnswer, gold_answer, question_text
from reflective.tasks.files.rows import read_rows

ROWS = [{"question": "1 + 1?", "key": "2"}, {"question": 'a \u2028 b, "c"?', "key": "3"}]
OWN = {"problem": "question", "answer": "key"}


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(ROWS), path)
        return path
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    text = {
        ".jsonl": lines,
        ".json": json.dumps(ROWS),
        ".csv": 'question,key\n1 + 1?,2\n"a \u2028 b, ""c""?",3\n',
        ".tsv": 'question\tkey\n1 + 1?\t2\n"a \u2028 b, ""c""?"\t3\n',
    }[Path(name.removesuffix(".gz")).suffix]
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.json", "p.csv", "p.tsv", "p.parquet", "p.jsonl.gz", "p.CSV", "p.json.gz"]
)
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str) -> None:
    if name == "p.CSV":
        written(tmp_path, "p.csv").rename(tmp_path / name)
        path = tmp_path / name
    else:
        path = written(tmp_path, name)
    assert [dict(row) for row in read_rows(path)] == ROWS
    problems = load_problems(str(path), fields=OWN)
    assert [(p.text, p.answer, p.id, p.kind) for p in problems] == [
        ("1 + 1?", "2", "p/0", "math"),
        ('a \u2028 b, "c"?', "3", "p/1", "math"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"question": "a"}\n{"question"\n', "p.jsonl:2 is not JSON"),
        ("p.jsonl", "[1]\n", "row 1: an object is expected, got list"),
        ("p.jsonl", "\n", "holds no row"),
        ("p.json", "7", "a JSON list of objects is expected, got int"),
        ("p.json", "{", "is not JSON"),
        ("p.csv", "question,key\n1\n", "row 1 has another number of fields"),
        ("p.jsonl", '{"a": 1}\n{"a": ' + "7" * 5000 + "}", "p.jsonl:2 has a number of more than 4,300 digits"),
        ("p.json", '[{"a": ' + "7" * 5000 + "}]", "p.json' has a number of more than 4,300 digits"),
        ("p.jsonl", "{}\n" + "[" * 5000, "p.jsonl:2 is nested too deeply"),
        ("p.json", "[" * 5000, "p.json' is nested too deeply"),
        ("p.jsonl", '{"problem": "?", "answer": ' + "[" * 600 + "]" * 600 + "}", "row 1: it is nested too deeply"),
        (
            "p.jsonl",
            '{"problem": "a \\ud800", "answer": 1}',
            r"row 1: a text holds '\\ud800', half of a surrogate pair",
        ),
        ("p.jsonl", '{"problem": "?", "answer": "\\udfff"}', "row 1: a text holds"),
        ("p.jsonl", '{"problem": "?", "answer": 1, "metadata": "{"}', "row 1: the metadata is not JSON"),
        ("p.txt", "x", "ending that is not known. Known: .jsonl"),
        ("p.parquet", "no parquet", "can't read"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_problems(str(tmp_path / name))


def test_json_lines_under_another_name_and_a_list_in_an_object_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    assert list(read_rows(tmp_path / "lines.json")) == list(read_rows(tmp_path / "wrapped.json")) == ROWS


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        (204, "204"),
        (27.0, "27"),
        (0.5, "0.5"),
        (1e30, "1e+30"),
        (10**400, "1" + 400 * "0"),
        ("27.0", "27.0"),
        ("16 - 3 = 13\n#### 1,300", "1,300"),
        ("We get $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("So \\boxed{3} or rather\n\\boxed{4}.", "4"),
        (["$2$"], "2"),
        (["$2$", "$-3$"], "2, -3"),
        ("(1, 2]", "(1, 2]"),
        (" x = 5 ", "x = 5"),
    ],
)
def test_a_gold_answer_is_found_in_what_a_field_holds(value: Any, gold: str) -> None:
    assert gold_answer(value) == gold


@pytest.mark.parametrize("value", [None, True, float("nan"), "", "  ", "so\n####", "\\boxed{", [], {"a": 1}])
def test_what_holds_no_gold_answer_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="gold answer"):
        gold_answer(value)


def test_a_question_is_a_text_or_the_users_last_message() -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": " what? "}]
    assert question_text(" what? ") == question_text(messages) == "what?"
    for nothing in ("", [], [{"role": "system", "content": "x"}], 7, None):
        with pytest.raises(ValueError, match="no text"):
            question_text(nothing)


def test_fields_are_found_by_paths(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {"a.b": "dotted?", "chat": [{"q": "deep?"}], "r": {"t": ["", "7"]}, "n": 5, "topic": "sets"}
    path.write_text(json.dumps(row))
    (problem,) = load_problems(
        str(path), fields={"problem": "chat.0.q", "answer": "r.t.1", "id": "n", "family": "topic"}, kind="exact"
    )
    assert (problem.text, problem.answer, problem.id, problem.family, problem.kind) == (
        "deep?",
        "7",
        "5",
        "sets",
        "exact",
    )
    assert load_problems(str(path), fields={"problem": "a.b", "answer": "n"})[0].text == "dotted?"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"problem": "q"}, None, r"row 1: no problem \(looked for q; the row has question, key\)"),
        ({"answer": "a"}, None, "row 1: no answer"),
        ({"anwser": "key"}, None, "unknown field 'anwser'.*Did you mean 'answer'"),
        ({"answer": "key"}, "maths", r"unknown kind 'maths'. Did you mean 'math'\? Known: math"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, str], kind: str | None, message: str
) -> None:
    path = written(tmp_path, "p.jsonl")
    with pytest.raises(InputError, match=message):
        load_problems(str(path), fields=fields, kind=kind)


def test_an_answer_may_be_missing_where_none_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a?"}\n{"problem": "b?", "answer": null}\n{"problem": "c?", "answer": 3}\n')
    assert [p.answer for p in load_problems(str(path), needs_answer=False)] == [None, None, "3"]
    with pytest.raises(InputError, match="row 1: no answer"):
        load_problems(str(path))


def test_half_a_surrogate_pair_that_nobody_reads_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a \\ud83d\\ude00?", "answer": 1, "comment": "\\ud800"}')
    assert load_problems(str(path))[0].text == "a \N{GRINNING FACE}?"


def test_what_is_too_deep_does_not_depend_on_how_deep_python_would_go(tmp_path: Path) -> None:
    path, limit = tmp_path / "p.jsonl", sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        path.write_text('{"problem": "?", "answer": ' + "[" * 101 + "1" + "]" * 101 + "}")
        with pytest.raises(InputError, match="row 1: it is nested too deeply"):
            load_problems(str(path))
        path.write_text('{"problem": "?", "answer": 1, "more": ' + "[" * 90 + "1" + "]" * 90 + "}")
        assert load_problems(str(path))[0].answer == "1"
    finally:
        sys.setrecursionlimit(limit)


def test_a_damaged_row_of_a_benchmark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for answer in ('"\\ud800"', "[" * 600 + "]" * 600):
        path.write_text('{"problem": "?", "answer": 1}\n{"problem": "?", "answer": ' + answer + "}\n")
        with pytest.raises(InputError, match="row 2 is no row of math500: (a text holds|it is nested too deeply)"):
            load_problems("math500", file=path)


def test_ids_that_repeat_are_replaced_by_places(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": i % 2, "problem": f"{i}?", "answer": i}) + "\n" for i in range(4)))
    assert [p.id for p in load_problems(str(path))] == ["p/0", "p/1", "p/2", "p/3"]


def test_a_prompt_goes_around_the_question_and_needs_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "p.jsonl")
    assert load_problems(str(path), fields=OWN, prompt="Q: {problem} A:")[0].text == "Q: 1 + 1? A:"
    with pytest.raises(InputError, match=r"needs \{problem\} exactly once"):
        load_problems(str(path), fields=OWN, prompt="no place")


def test_code_of_ones_own_carries_its_tests(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    tests = [{"input": "1", "output": "2"}]
    path.write_text(json.dumps({"problem": "Add one.", "kind": "code", "tests": tests, "time_limit_s": 2}))
    (problem,) = load_problems(str(path))
    assert problem.answer is None and problem.metadata == {"tests": tests, "time_limit_s": 2}


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'mth500' is no benchmark, no family and no file. Did you mean 'math500'"):
        load_problems("mth500")
    with pytest.raises(InputError, match="limit is 0"):
        load_problems("gcd", limit=0)


def test_a_field_of_a_table_may_be_long(tmp_path: Path) -> None:
    solution = "step " * 100_000  # half a million characters; the csv module stops at 131,072 by itself
    (tmp_path / "p.csv").write_text(f"question,key\n1 + 1?,{solution}#### 2\n", encoding="utf-8")
    (row,) = read_rows(tmp_path / "p.csv")
    assert row["key"] == f"{solution}#### 2"


BAD_ROWS = [
    '{"problem": "1?", "answer": 1}',
    '{"problem": "no answer"}',
    '{"problem": "nan", "answer": NaN}',
    '{"problem": "infinite", "answer": -Infinity}',
    '{"problem": "cut off", "answer": ',
    '["no", "object"]',
    "",
    '{"problem": "half \\ud800", "answer": 1}',
    '{"problem": "deep", "answer": ' + "[" * 600 + "]" * 600 + "}",
    "[" * 5000,
    '{"problem": "huge", "answer": ' + "7" * 5000 + "}",
    '{"problem": "", "answer": 1}',
    '{"problem": "a kind", "answer": 1, "kind": "maths"}',
    '{"problem": {"not": "a text"}, "answer": 1}',
    '{"problem": "2?", "answer": 2}',
]


def test_bad_rows_are_left_out_and_named_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(BAD_ROWS))
    skipped: list[str] = []
    assert [(p.id, p.answer) for p in load_problems(str(path), skipped=skipped)] == [("p/0", "1"), ("p/13", "2")]
    told = "\n".join(skipped)
    assert len(skipped) == 12 and all(len(fault.splitlines()) == 1 for fault in skipped)
    for line, what in [
        ("row 2: ", "no answer"),
        ("row 3: ", "the gold answer is NaN or infinite"),
        ("row 4: ", "the gold answer is NaN or infinite"),
        ("p.jsonl:5 ", "is not JSON"),
        ("row 6: ", "an object is expected, got list"),
        ("line 8, row 7: ", "a text holds"),
        ("line 9, row 8: ", "it is nested too deeply"),
        ("p.jsonl:10 ", "is nested too deeply"),
        ("p.jsonl:11 ", "has a number of more than 4,300 digits"),
        ("line 12, row 11: ", "no problem"),
        ("line 13, row 12: ", "unknown kind 'maths'"),
        ("line 14, row 13: ", "the question is no text"),
    ]:
        assert f"{line}{what}" in told or f"'{line}{what}" in told, (line, what, told)
    with pytest.raises(InputError, match="p.jsonl:5 is not JSON"):
        load_problems(str(path))


def test_a_file_of_bad_rows_alone_is_refused_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a"}\n{"problem": "b"}\n')
    with pytest.raises(InputError, match="no row can be used, of 2. The first: .*row 1: no answer"):
        load_problems(str(path), skipped=[])


@pytest.mark.parametrize("name", ["none", "none.jsonl", "none.parquet"])
def test_a_file_that_is_not_there_is_told_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_problems("gsm8k", file=tmp_path / name)
    assert str(caught.value) == f"can't read '{tmp_path / name}': No such file or directory."


def test_bad_rows_of_a_benchmark_keep_the_ids_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('question,answer\n"1\n?",1\n2?,\n3?,3,3\n4?,4\n')
    skipped: list[str] = []
    assert [p.id for p in load_problems("gsm8k", file=path, skipped=skipped)] == ["gsm8k/test/0", "gsm8k/test/3"]
    assert "line 4, row 2 is no row of gsm8k: none of the fields answer" in skipped[0]
    assert "line 5, row 3 has another number of fields" in skipped[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_byte_order_marks_are_no_part_of_the_first_field(tmp_path: Path, encoding: str, name: str) -> None:
    text = "question,answer\né?,1\n" if name == "p.csv" else '{"question": "é?", "answer": 1}\n'
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [(p.text, p.answer) for p in load_problems(str(tmp_path / name))] == [("é?", "1")]


def test_fields_may_be_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f'question,answer\n"{"x" * 10_000_000}",1\n')
    assert len(load_problems(str(tmp_path / "p.csv"))[0].text) == 10_000_000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", b"", "holds no row"),
        ("p.csv", b"question,answer\n", "holds no row"),
        ("p.jsonl", b"\x00\x01\xff\xfe", "can't read"),
        ("p.csv", b'question,answer\n"a,1\n', "can't read .*unexpected end of data"),
        ("p.jsonl.gz", b"not gzip", "can't read"),
        ("p.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-9], "can't read"),
        ("p.gz", gzip.compress(b"{}", mtime=0), "ending that is not known"),
        ("p.parquet", b"PAR1", r"can't read .*[^.]\.$"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_problems(str(tmp_path / name), skipped=[])
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        load_problems(str(tmp_path))


def test_a_gzipped_file_is_read_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(gzip.compress(b'{"input": "1 + 1?", "target": 2}', mtime=0))
    (problem,) = load_problems(str(tmp_path / "p.jsonl"))
    assert (problem.text, problem.answer) == ("1 + 1?", "2")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"input": "?", "target": 3}, "3"),
        ({"Question": "?", "Answer": "so\n#### 4"}, "4"),
        ({"instruction": "?", "label": "5"}, "5"),
        ({"problem": "?", "solution": "We add them.\nThat is \\boxed{6}."}, "6"),
        ({"problem": "?", "reference_solution": "He has seven of them\n 7"}, "7"),
        ({"problem": "?", "answer": "1\n2\n3"}, "1\n2\n3"),
        ({"messages": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "8"}}, "8"),
    ],
)
def test_the_usual_names_are_found(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    (problem,) = load_problems(str(path))
    assert (problem.text, problem.answer) == ("?", answer)


def test_decimals_of_a_table_are_numbers() -> None:
    assert [gold_answer(Decimal(text)) for text in ("27.0", "1E+2", "0.50")] == ["27", "100", "0.5"]
    with pytest.raises(NoAnswer, match="NaN"):
        gold_answer(Decimal("NaN"))
