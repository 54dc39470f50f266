from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reflective.errors import InputError
from reflective.tasks import Segment
from reflective.tasks.files import read_problems
from reflective.train.sft.batches import StepPlan, micro_batches
from reflective.train.sft.config import DataConfig
from reflective.train.sft.models import load_tokenizer
from reflective.train.sft.samples import Encoder, Sample, file_samples, learnt_tokens
from reflective.train.sft.token_cache import TokenCache, token_cache
from train.sft.fakes import sums, tiny_config, write_lines


def cache_of(config: DataConfig, folder: Path) -> TokenCache:
    return token_cache(config, folder / "tokenizer", "train", lambda note: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_config(folder)
    return folder


@pytest.fixture(scope="module")
def cache(folder: Path) -> TokenCache:
    return cache_of(tiny_config(folder).data, folder)


def test_a_token_is_learnt_when_all_its_characters_are() -> None:
    segments = [Segment("a = "), Segment("12", learn=False), Segment(" b")]
    #          "a"     " ="    " 1"    "2"     " b"
    offsets = [(0, 1), (1, 3), (3, 5), (5, 6), (6, 8)]
    assert learnt_tokens(offsets, segments) == [True, True, False, False, True]


def test_the_prompt_is_not_learnt_and_the_end_of_message_is(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    segments = [Segment("\n1 + 1 = "), Segment("3", learn=False), Segment(".\n\n</think>\n\n\\boxed{2}")]
    example = Encoder(tokenizer).encode(Sample([{"role": "user", "content": "1 + 1?"}], segments, "sums"))
    learnt = tokenizer.decode([i for i, learn in zip(example.ids, example.learn) if learn])
    assert learnt == "\n1 + 1 =.\n\n</think>\n\n\\boxed{2}<|im_end|>"
    assert tokenizer.decode(example.ids).startswith(
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n<think>\n1"
    )


def test_segments_do_not_change_the_tokens(folder: Path) -> None:
    encoder = Encoder(load_tokenizer(folder / "tokenizer"))
    messages, text = [{"role": "user", "content": "1?"}], "\n10 + 13 = 23.\n\n</think>\n\n\\boxed{23}"
    pieces = [Segment(text[i : i + 3], learn=i % 2 == 0) for i in range(0, len(text), 3)]
    assert encoder.encode(Sample(messages, pieces, "")).ids == encoder.encode(Sample(messages, [Segment(text)], "")).ids


def test_every_example_comes_once_per_epoch(cache: TokenCache) -> None:
    plan = StepPlan(cache, step_tokens=500, micro_tokens=200, seed=3, pad_id=0)
    seen: Counter[int] = Counter()
    number = 0
    while sum(seen.values()) < len(cache):
        seen.update(int(i) for batch in plan.step(number).mine for i in batch.examples)
        number += 1
    assert seen == Counter(range(len(cache)))


def test_a_step_depends_on_its_number_and_the_seed_alone(cache: TokenCache) -> None:
    def ids(plan: StepPlan, number: int) -> list[list[int]]:
        return [batch.ids.flatten().tolist() for batch in plan.step(number).mine]

    def plan(seed: int = 3) -> StepPlan:
        return StepPlan(cache, 500, 200, seed, pad_id=0)

    forwards = plan()
    walked = [ids(forwards, number) for number in range(60)]  # more than one epoch
    assert ids(plan(), 41) == walked[41]
    assert ids(forwards, 5) == walked[5]
    assert ids(plan(seed=4), 5) != walked[5]


def test_steps_are_full_and_hardly_padded(cache: TokenCache) -> None:
    plan = StepPlan(cache, step_tokens=500, micro_tokens=200, seed=3, pad_id=0)
    steps = [plan.step(number) for number in range(16)]
    batches = [batch for step in steps for batch in step.mine]
    assert all(250 <= step.tokens <= 750 for step in steps)
    assert all(batch.ids.numel() <= 200 for batch in batches)
    assert sum(batch.ids.numel() for batch in batches) < 1.2 * sum(step.tokens for step in steps)


@pytest.mark.parametrize(("step_tokens", "micro_tokens"), [(500, 100), (500, 500), (2000, 300), (10**6, 10**6)])
def test_processes_share_a_step_evenly(cache: TokenCache, step_tokens: int, micro_tokens: int) -> None:
    plans = [StepPlan(cache, step_tokens, micro_tokens, 3, 0, rank=rank, processes=3) for rank in range(3)]
    seen: Counter[int] = Counter()
    number = 0
    while sum(seen.values()) < len(cache):
        parts = [plan.step(number) for plan in plans]
        batches = [batch for part in parts for batch in part.mine]
        assert {part.tokens for part in parts} == {sum(batch.tokens for batch in batches)}
        assert {part.learnt for part in parts} == {sum(len(batch.targets) for batch in batches)}
        assert max(len(part.mine) for part in parts) - min(len(part.mine) for part in parts) <= 1
        seen.update(int(i) for batch in batches for i in batch.examples)
        number += 1
    assert seen == Counter(range(len(cache)))


def test_targets_are_the_learnt_tokens_and_positions_stand_before_them(cache: TokenCache) -> None:
    for batch in micro_batches(cache, micro_tokens=300, pad_id=0):
        flat = batch.ids.flatten()
        assert flat[batch.positions + 1].equal(batch.targets)
        for row, example in enumerate(batch.examples):
            start, end = cache.offsets[example], cache.offsets[example + 1]
            learnt = np.asarray(cache.tokens[start:end])[np.asarray(cache.learn[start:end])]
            assert batch.targets[batch.rows == row].tolist() == learnt.tolist()


def test_the_cache_does_not_depend_on_the_workers(folder: Path) -> None:
    data = tiny_config(folder).data
    two_files = replace(data, files=(*data.files, *data.validation_files), cache=str(folder / "one"))
    alone = cache_of(two_files, folder)
    together = cache_of(replace(two_files, cache=str(folder / "two"), workers=2), folder)
    assert alone.tokens.tolist() == together.tokens.tolist()
    assert alone.family.tolist() == together.family.tolist()
    assert alone.families == ("train", "validation")


def test_the_cache_is_made_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    data = tiny_config(tmp_path).data
    notes: list[str] = []
    for _ in range(2):
        token_cache(data, tmp_path / "tokenizer", "train", notes.append)
    assert len(notes) == 1
    write_lines(tmp_path / "train.jsonl", sums(7, seed=9))
    assert len(cache_of(data, tmp_path)) == 7


def test_examples_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    data = tiny_config(tmp_path).data
    write_lines(tmp_path / "train.jsonl", [*sums(5), {"prompt": "x" * 2000, "response": "y"}])
    cache = cache_of(data, tmp_path)
    assert (len(cache), cache.left_out) == (5, 1)


def test_traces_of_a_family_become_examples(folder: Path) -> None:
    data = DataConfig(families={"chain_sum": 1.0}, examples=20, levels=(1,), cache=str(folder / "families"), workers=1)
    cache = cache_of(data, folder)
    text = load_tokenizer(folder / "tokenizer").decode(cache.tokens[: cache.offsets[1]])
    assert len(cache) == 20
    assert text.startswith("<|im_start|>user\n") and text.endswith("}<|im_end|>") and "</think>\n\n\\boxed{" in text


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"prompt": "x"}',
        '{"response": "x"}',
        '{"messages": [1], "response": "x"}',
        "[]",
        '{"prompt": "x", "response": "\\ud800"}',
        '{"prompt": "x\\udc00", "response": "y"}',
        '{"prompt": "x", "response": "y", "n": ' + "7" * 5000 + "}",
        "[" * 5000,
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl:2"):
        list(file_samples(path))


SEPARATED = "a \u2028 b \x85 c"


def test_separators_inside_a_text_and_a_byte_order_mark_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {"prompt": SEPARATED, "answer": 10**400, "response": SEPARATED}
    path.write_text((json.dumps(row, ensure_ascii=False) + "\r\n") * 2, encoding="utf-8-sig")
    assert [(p.text, p.answer) for p in read_problems([path])] == [(SEPARATED, str(10**400))] * 2
    samples = list(file_samples(path))
    assert [(s.messages[0]["content"], s.segments[0].text) for s in samples] == [(SEPARATED, SEPARATED)] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "bad.jsonl:2 is not JSON"),
        ("[" * 5000, "bad.jsonl:2 is nested too deeply"),
        ('{"problem": "x", "answer": ' + "7" * 5000 + "}", "bad.jsonl:2 has a number of more than 4,300 digits"),
        (
            '{"problem": "x \\ud800", "answer": 1}',
            r"bad.jsonl', row 2: a text holds '\\ud800', half",
        ),
        ('{"problem": "x", "answer": "\\udfff"}', "bad.jsonl', row 2: a text holds"),
        ('{"problem": "x"}', "bad.jsonl', row 2: no answer"),
    ],
)
def test_a_bad_problem_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"problem": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_problems([path])
