"""Problems in the forms in which they come, and what their answers are worth."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

from reflective.errors import InputError, TrainingError
from reflective.judge.config import JudgeConfig
from reflective.judge.detection import detect_format
from reflective.judge.format import between_marks
from reflective.judge.judge import Judge
from reflective.settings import read_settings
from reflective.train.joint.config import VERIFY, DataConfig, JointConfig, RewardConfig
from reflective.train.joint.data import data_digest, numbered, read_data, rows
from reflective.train.joint.rewards import Guarded, VerifiedAnswer, check_rewards
from reflective.train.joint.setup import prompt_encoder
from reflective.types import Problem
from tiny import tiny_tokenizer
from train.joint.fakes import tiny_joint

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("REFLECTIVE_DATA") or ROOT.parent / "shared/data")


def config_with(tmp_path: Path, data: DataConfig, reward: str = VERIFY) -> JointConfig:
    from dataclasses import replace

    config = tiny_joint(tmp_path)
    return replace(config, data=data, rewards=RewardConfig((reward,), outcome=reward))


def read(
    tmp_path: Path, data: DataConfig, reward: str = VERIFY, notes: list[str] | None = None
) -> tuple[list[Problem], list[Problem]]:
    tokenizer = tiny_tokenizer()
    encode = prompt_encoder(tokenizer, Judge(JudgeConfig(8, detect_format(tokenizer))))
    note = (lambda _: None) if notes is None else notes.append
    return read_data(config_with(tmp_path, data, reward), encode, 10_000, note)


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def verl_rows() -> list[dict[str, object]]:
    """Rows in the form in which verl keeps problems."""
    return [
        {
            "data_source": "aime",
            "prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": {"target": [str(i + 1)]}, "style": "rule"},
            "extra_info": {"index": i},
        }
        for i in range(6)
    ]


def test_verl_parquet_loads_as_it_is(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(verl_rows()), path)
    train, held_out = read(tmp_path, DataConfig(source=str(path), held_out=2))
    assert len(train) == 4 and len(held_out) == 2
    assert {(p.text, p.answer) for p in train + held_out} == {(f"What is {i} + 1?", str(i + 1)) for i in range(6)}


@pytest.mark.skipif(not (SHARED / "aime24_verl.parquet").is_file(), reason="the benchmark files are not here")
def test_the_verl_file_of_the_reference_loads_as_it_is(tmp_path: Path) -> None:
    train, held_out = read(tmp_path, DataConfig(source=str(SHARED / "aime24_verl.parquet"), held_out=10))
    assert (len(train), len(held_out)) == (20, 10)
    assert all(p.answer and p.answer.isdecimal() for p in train)


def test_a_mapping_names_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    rows = [{"q": f"What is {i} * 2?", "deep": {"gold": [2 * i]}} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source=str(path), fields={"problem": "q", "answer": "deep.gold.0"}, held_out=1)
    train, held_out = read(tmp_path, data)
    assert sorted(p.answer or "" for p in train + held_out) == ["0", "2", "4", "6", "8"]


def test_a_hub_data_set_is_read_through_the_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.jsonl"
    path.write_text("".join(json.dumps({"q": f"{i} + 0?", "a": i}) + "\n" for i in range(4)))
    asked = []
    monkeypatch.setattr("reflective.tasks.sources.fetch", lambda source: asked.append(source) or [path])
    data = DataConfig(hub="some/data", files=("*.jsonl",), fields={"problem": "q", "answer": "a"}, held_out=1)
    train, _ = read(tmp_path, data)
    assert len(train) == 3 and (asked[0].dataset, asked[0].files) == ("some/data", ("*.jsonl",))


def test_generated_problems_are_held_out_by_split(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    data = DataConfig(source="mixture", families=("gcd", "lcm"), levels=(1,), problems=10, held_out=4)
    train, held_out = read(tmp_path, data)
    assert (len(train), len(held_out)) == (10, 4)
    assert {p.family for p in train} == {"gcd", "lcm"} and all("/validation/" in p.id for p in held_out)


def test_a_bad_row_takes_no_namesake_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = written(tmp_path / "en/train.jsonl", [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(5)])
    bad = written(tmp_path / "fr/train.jsonl", [{"problem": f"{i} ?", "answer": "\\frac{1"} for i in range(5)])
    monkeypatch.setattr("reflective.tasks.sources.fetch", lambda source: [sound, bad])
    notes: list[str] = []
    train, _ = read(tmp_path, DataConfig(hub="some/data", held_out=0), notes=notes)
    assert sorted(p.text for p in train) == [f"{i} + 1?" for i in range(5)]
    assert len(notes) == 1 and "5 of 10 problems are left out: a gold answer that no grader reads" in notes[0]


def test_problems_of_reasoning_gym_are_drawn_and_held_out_by_split(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    data = DataConfig(source="reasoning_gym:gcd", problems=150, held_out=20, prompt="Q: {problem}")
    train, held_out = read(tmp_path, data)
    assert (len(train), len(held_out)) == (150, 20)
    assert all("/train/" in p.id for p in train) and all("/validation/" in p.id for p in held_out)
    assert not {p.text for p in train} & {p.text for p in held_out}
    assert all(p.text.startswith("Q: ") for p in train + held_out)


@pytest.mark.parametrize("families", [(), ("gcd", "lcm")])
def test_a_prompt_goes_around_generated_problems(tmp_path: Path, families: tuple[str, ...]) -> None:
    pytest.importorskip("reasoning_gym")
    source = "mixture" if families else "gcd"
    data = DataConfig(source=source, families=families, prompt="Think. {problem}", problems=4, held_out=2)
    train, held_out = read(tmp_path, data)
    assert all(p.text.startswith("Think. ") and p.text.count("Think.") == 1 for p in train + held_out)


@pytest.mark.parametrize("source", ["gcd", "mixture", "reasoning_gym:gcd"])
def test_what_is_for_rows_is_refused_where_problems_are_generated(tmp_path: Path, source: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(InputError, match=r"\[data\] fields is for rows of a file; '.*' is generated"):
        read(tmp_path, DataConfig(source=source, fields={"problem": "q"}))
    with pytest.raises(InputError, match=r"\[data\] kind is for rows"):
        read(tmp_path, DataConfig(source=source, kind="code"))


def test_own_rewards_need_no_gold_answers(tmp_path: Path) -> None:
    path = written(tmp_path / "free.jsonl", [{"problem": f"Write {i} words."} for i in range(4)])
    train, _ = read(tmp_path, DataConfig(source=str(path), held_out=0), reward="rw:ok")
    assert [p.answer for p in train] == [None] * 4 and rows(train)["answer"] == [""] * 4


def test_problems_without_any_gold_answer_can_not_be_graded(tmp_path: Path) -> None:
    path = written(tmp_path / "free.jsonl", [{"problem": f"Write {i} words."} for i in range(4)])
    with pytest.raises(InputError, match="^0 .* can be used .*4 of 4 problems are left out: no gold answer .*takes 2"):
        read(tmp_path, DataConfig(source=str(path), held_out=0))


def test_rows_without_a_gold_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    answers = ["1", None, "", "so\n####", " ", "2"]
    path = written(tmp_path / "some.jsonl", [{"q": f"{i}?", "a": answer} for i, answer in enumerate(answers)])
    fields, notes = {"problem": "q", "answer": "a"}, list[str]()
    train, _ = read(tmp_path, DataConfig(source=str(path), fields=fields, held_out=0), notes=notes)
    assert sorted(p.answer or "" for p in train) == ["1", "2"]
    assert len(notes) == 1 and "4 of 6 problems are left out: no gold answer" in notes[0]
    with pytest.raises(InputError, match="no row has the answer 'b'; row 1 has q, a"):
        read(tmp_path, DataConfig(source=str(path), fields={**fields, "answer": "b"}, held_out=0))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def ok(:\n", "can't be imported: SyntaxError"),
        ("raise RuntimeError('no GPU\\nat all')", "can't be imported: RuntimeError: no GPU. Repair"),
        ("import sys\nsys.exit()", "can't be imported: SystemExit"),
        ("import not_installed_here", "can't be found: No module named"),
        ("", "can't be found: module .* has no attribute 'ok'"),
        ("ok = 7", "is no function"),
        ("async def ok(**_): return [1.0]", "is an async one"),
        ("class Late:\n    async def __call__(self, **_): ...\nok = Late()", "is an async one"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    (tmp_path / "own_rewards.py").write_text(code)
    with pytest.raises(InputError, match=message) as caught:
        check_rewards([VERIFY, "own_rewards:ok"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_reward_that_exits_has_failed() -> None:
    notes: list[str] = []
    reward = Guarded("rw:quits", lambda **_: sys.exit("enough"), notes.append)
    assert reward(prompts=["a", "b"]) == [None, None] and "SystemExit: enough" in notes[0]
    with pytest.raises(TrainingError, match="3 times in a row"):
        [reward(prompts=["a"]) for _ in range(2)]


def test_the_order_of_the_problems_is_part_of_a_run() -> None:
    a, b = Problem("1?", "1"), Problem("2?", "2")
    assert data_digest([a, b]) != data_digest([b, a])
    every, train, held_out = numbered([a], [b])
    assert [p.text for p in every] == ["1?", "2?"] and train["problem"] == [0] and held_out["problem"] == [1]


def test_an_answer_counts_only_where_the_trajectory_ended() -> None:
    tokenizer = tiny_tokenizer()
    rule = detect_format(tokenizer)
    end = tokenizer.eos_token_id
    problems = [Problem("6 * 7?", "42"), Problem("?", "x", kind="math"), Problem("free?", None)]
    verified = VerifiedAnswer(problems, rule, frozenset({end}), lambda ids: str(tokenizer.decode(ids)))

    def ids(text: str, *, ended: bool = True) -> list[int]:
        return [*tokenizer.encode(text, add_special_tokens=False), *([end] if ended else [])]

    right, wrong = ids("6 * 7 = 42.\n\n</think>\n\n\\boxed{42}"), ids("hm.\n\n</think>\n\n\\boxed{41}")
    cut, open_end = ids("42.\n\n</think>\n\n\\boxed{42}", ended=False), ids("42, I think \\boxed{42}")
    rewards = verified(completion_ids=[right, wrong, cut, open_end, right], problem=[0, 0, 0, 0, 2])
    assert rewards == [1.0, 0.0, 0.0, 0.0, None]


@pytest.mark.usefixtures("sandbox_for_our_programs")
def test_a_program_is_rewarded_by_its_tests() -> None:
    metadata = {"mode": "stdin", "tests": [{"input": "1 2\n", "output": "3\n"}], "time_limit_s": 3}
    problem = Problem("Add two numbers.", None, kind="code", metadata=metadata)
    texts = [f"```python\nprint({what}(map(int, input().split())))\n```" for what in ("sum", "max")]
    verified = VerifiedAnswer([problem], between_marks([9], 1, 2), frozenset({0}), lambda ids: texts[ids[0] - 3])
    assert verified(completion_ids=[[2, 3, 0], [2, 4, 0]], problem=[0, 0]) == [1.0, 0.0]


def test_the_recipe_is_a_valid_configuration() -> None:
    config = read_settings(JointConfig, ROOT / "recipes/nano/joint.toml", steps=3, output=None)
    assert config.steps == 3 and config.model == "nano" and config.batches(1) == (4, 4) and config.batches(2) == (2, 2)


def test_a_value_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "joint.toml"
    path.write_text('model = "nano"\noutput = "x"\n[data]\nsource = "gcd"\n[rollouts]\ngroup = "many"\n')
    with pytest.raises(InputError, match=r"rollouts\.group must be int"):
        read_settings(JointConfig, path)
