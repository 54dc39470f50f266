"""One name for problems of every source, the same prompt everywhere, and nothing that is ignored in silence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from reflective.errors import InputError
from reflective.tasks import BENCHMARKS, load_problems, prompt_like
from reflective.tasks.files.hub import HubSource
from reflective.tasks.prompts import BOXED
from reflective.train.head.config import HeadConfig
from reflective.train.head.data import read_data
from reflective.verify import self_check

DATA = Path(os.environ.get("REFLECTIVE_DATA") or Path(__file__).parents[3] / "shared/data")
QUESTION = {"question": "1 + 1?", "answer": "so\n#### 2"}


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("gsm8k", {"fields": {"problem": "q"}}, "'fields' has no meaning for 'gsm8k'"),
        ("gsm8k", {"levels": [1]}, "'levels' has no meaning for 'gsm8k'"),
        ("gsm8k", {"subjects": ["Algebra"]}, "'subjects' has no meaning"),
        ("gsm8k", {"seed": 3}, "'seed' has no meaning"),
        ("math500", {"since": "2024-01-01"}, "'since' has no meaning"),
        ("math500", {"split": "train"}, "unknown split of math500: 'train'"),
        ("gcd", {"fields": {"problem": "q"}}, "'fields' has no meaning for 'gcd'"),
        ("gcd", {"file": "x.jsonl"}, "'file' has no meaning"),
        ("mixture", {"subjects": ["a"]}, "'subjects' has no meaning"),
        ("reasoning_gym:gcd", {"levels": [1]}, "'levels' has no meaning"),
        ("own.jsonl", {"levels": [1]}, "'levels' has no meaning for 'own.jsonl'"),
        ("own.jsonl", {"split": "test"}, "'split' has no meaning"),
        ("own.jsonl", {"revision": "main"}, "'revision' has no meaning"),
        ("hub:a/b", {"subjects": ["a"]}, "'subjects' has no meaning"),
        ("hub:a/b/test.csv", {"split": "train"}, "names its files"),
        ("hub:a", {}, "names no data set"),
        ("own.jsonl", {"like": "gsm9k"}, "unknown benchmark 'gsm9k'. Did you mean 'gsm8k'"),
        ("own.jsonl", {"prompt": "no slot"}, "exactly once"),
    ],
)
def test_what_has_no_meaning_for_a_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "own.jsonl", QUESTION)
    with pytest.raises(InputError, match=message):
        load_problems(source, **options)


def test_levels_of_a_benchmark_select(tmp_path: Path) -> None:
    rows = [{"problem": f"P{i}?", "answer": "1", "level": f"Level {i}"} for i in range(1, 6)]
    path = written(tmp_path / "rows.jsonl", *rows)
    ids = [p.id for p in load_problems("math500", file=path, levels=[1, 3])]
    assert ids == ["math500/test/0", "math500/test/2"]


def test_a_benchmark_with_training_problems_gives_them_under_their_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(written(tmp_path / "rows.jsonl", QUESTION))
    asked: list[HubSource] = []
    monkeypatch.setattr("reflective.tasks.benchmarks.base.fetch", lambda source: asked.append(source) or [path])
    (problem,) = load_problems("gsm8k", split="train")
    assert problem.id == "gsm8k/train/0" and asked[0].files == ("main/train-00000-of-00001.parquet",)
    assert load_problems("gsm8k")[0].id == "gsm8k/test/0" and "test" in asked[1].files[0]


def test_rows_of_another_form_may_be_asked_as_a_benchmark(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", {"q": "1 + 1?", "a": 2})
    fields = {"question": "q", "answer": "a"}
    (like,) = load_problems(path, fields=fields, like="gsm8k")
    (named,) = load_problems("gsm8k", file=path, fields=fields)
    assert like.text == named.text == BOXED.replace("{problem}", "1 + 1?") and like.answer == named.answer == "2"
    (choice,) = load_problems(path, fields=fields | {"answer": "q"}, like="ceval")
    assert choice.kind == "choice" and choice.text.startswith("1 + 1?\n让我们")


def test_the_same_question_is_asked_in_the_same_words_everywhere(tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1?", "answer": f"so\n#### {i + 1}"} for i in range(4)]
    path = written(tmp_path / "rows.jsonl", *rows)
    evaluated = {p.text for p in load_problems("gsm8k", file=path)}
    assert evaluated == {p.text for p in load_problems(path, like="gsm8k")}
    config = HeadConfig("model", data=path, like="gsm8k", validation_share=0.5)
    trained = [p for part in read_data(config, lambda text: None) for p in part]
    assert {p.text for p in trained} == evaluated and {p.answer for p in trained} == {"1", "2", "3", "4"}
    assert prompt_like("gsm8k") == BENCHMARKS["gsm8k"].prompt and prompt_like("gcd") == "{problem}"


def test_a_head_is_trained_on_a_benchmarks_training_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(written(tmp_path / "rows.jsonl", *[{"question": f"{i} + 1?", "answer": i + 1} for i in range(4)]))
    asked: list[HubSource] = []
    monkeypatch.setattr("reflective.tasks.benchmarks.base.fetch", lambda source: asked.append(source) or [path])
    notes: list[str] = []
    for given in ({"data": "gsm8k"}, {"tasks": ("gsm8k",)}):
        train, validation = read_data(HeadConfig("model", validation_share=0.5, **given), notes.append)
        assert {p.id for p in train + validation} == {f"gsm8k/train/{i}" for i in range(4)}
    assert all("train" in source.files[0] for source in asked) and not notes
    read_data(HeadConfig("model", data="math500", validation_share=0.5), notes.append)
    assert notes == ["math500 has no problems for training; its test problems are trained on"]


def test_a_family_may_be_named_as_data_and_takes_no_fields() -> None:
    pytest.importorskip("reasoning_gym")
    settings: dict[str, Any] = {"problems": 4, "validation_problems": 2, "levels": (1,)}
    data, tasks = (
        read_data(HeadConfig("model", **given, **settings), lambda text: None)
        for given in ({"data": "gcd"}, {"tasks": ("gcd",)})
    )
    assert data == tasks and all("/train/" in p.id for p in data[0])
    with pytest.raises(InputError, match="fields has no meaning for gcd"):
        read_data(HeadConfig("model", tasks=("gcd",), fields={"problem": "q"}), lambda text: None)


def test_data_sets_on_the_hub_are_named_in_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(written(tmp_path / "rows.jsonl", {"q": "1 + 1?", "a": 2}, {"q": "1 + 2?", "a": 3}))
    asked: list[HubSource] = []
    monkeypatch.setattr("reflective.tasks.sources.fetch", lambda source: asked.append(source) or [path, path])
    problems = load_problems("hub:owner/name", fields={"problem": "q", "answer": "a"}, limit=3)
    assert [p.id for p in problems] == ["owner/name/0", "owner/name/1", "owner/name/2"]
    assert {p.family for p in problems} == {"owner/name"}
    assert asked[0].dataset == "owner/name" and "**/test*.parquet" in asked[0].files and asked[0].revision == "main"
    load_problems("hub:owner/name", fields={"problem": "q", "answer": "a"}, split="train", revision="v2")
    assert "**/train*.csv" in asked[1].files and asked[1].revision == "v2"
    load_problems("hub:owner/name/a/x.csv,b.csv", fields={"problem": "q", "answer": "a"})
    assert asked[2].files == ("a/x.csv", "b.csv")


@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("aime24.jsonl", 30, {}),
        ("aime24_verl.parquet", 30, {}),
        ("ceval_sample.json", 208, {"kind": "choice"}),
        ("gsm8k_test.jsonl", 1319, {"like": "gsm8k"}),
        ("gsm8k_train.jsonl", 7473, {"like": "gsm8k"}),
        ("math500.jsonl", 500, {}),
        ("student_errors.jsonl", 500, {}),
        ("humaneval.jsonl", 164, {"source": "humaneval_plus"}),
    ],
)
def test_every_real_file_is_read_by_the_one_reader(name: str, count: int, options: dict[str, Any]) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"no {name} in {DATA}")
    if "source" in options:
        problems = load_problems(options["source"], file=DATA / name)
    else:
        problems = load_problems(str(DATA / name), **options)
        assert self_check(problems[:50]) == []
    assert len(problems) == count == len({p.id for p in problems})


def test_a_system_message_and_earlier_turns_stay_before_the_question(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 1 + 1? "}]
    path = written(tmp_path / "rows.jsonl", {"prompt": [*turns, {"role": "assistant", "content": "2"}], "answer": 2})
    (problem,) = load_problems(path, prompt="Q: {problem}")
    assert problem.text == "Q: 1 + 1?" and problem.messages == (turns[0], {"role": "user", "content": "Q: 1 + 1?"})
    (plain,) = load_problems(written(tmp_path / "plain.jsonl", {"prompt": turns[1:], "answer": 2}))
    assert plain.text == "1 + 1?" and plain.messages == ()


def test_a_head_may_be_trained_behind_a_system_message(tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1?", "answer": i + 1} for i in range(4)]
    config = HeadConfig("model", data=written(tmp_path / "rows.jsonl", *rows), system="Think.", validation_share=0.5)
    for problem in [p for part in read_data(config, lambda text: None) for p in part]:
        assert problem.messages == ({"role": "system", "content": "Think."}, {"role": "user", "content": problem.text})
    row = {"question": [{"role": "system", "content": "x"}, {"role": "user", "content": "?"}], "answer": 1}
    path = written(tmp_path / "own.jsonl", *[row] * 4)
    with pytest.raises(InputError, match="has a system message of its own; leave --system out"):
        read_data(HeadConfig("model", data=path, system="Think."), lambda text: None)
