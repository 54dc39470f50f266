"""From a problem and its trace to token ids that know which of them are learnt.

The prompt is written by the tokenizer's chat template and never learnt. The completion is tokenised as one string, as
the model will write it, whatever its segments are; a token is learnt when all its characters lie in learnt segments.
The end-of-message token is always learnt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from reflective.errors import InputError
from reflective.tasks import Segment, Split, get_task, mixture
from reflective.tasks.base import stable_hash
from reflective.tasks.families import drills
from reflective.tasks.files.gold import check_depth, check_texts
from reflective.tasks.files.rows import json_lines


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and, for each, whether it is learnt; `family` groups validation losses."""

    ids: list[int]
    learn: list[bool]
    family: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to learn, still in text: messages, and what the model shall write behind the generation prompt."""

    messages: Sequence[dict[str, str]]
    segments: Sequence[Segment]
    family: str


class Encoder:
    """Samples to examples, with the tokenizer and the chat template of the model that is trained."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise InputError("the tokenizer has no chat template, and prompts are written with one.")
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-message token (eos_token).")
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id

    def encode(self, sample: Sample) -> Example:
        """Prompt (not learnt), completion (learnt where its segments are), end of message (learnt)."""
        prompt: Any = self.tokenizer.apply_chat_template(
            list(sample.messages), add_generation_prompt=True, tokenize=False
        )
        prompt_ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False)
        text = "".join(segment.text for segment in sample.segments)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        learn = learnt_tokens(encoding["offset_mapping"], sample.segments)
        ids: list[int] = encoding["input_ids"]
        return Example(
            ids=[*prompt_ids, *ids, self.eos],
            learn=[*(False for _ in prompt_ids), *learn, True],
            family=sample.family,
        )


def learnt_tokens(offsets: Sequence[tuple[int, int]], segments: Sequence[Segment]) -> list[bool]:
    """For each token's span of characters, whether all of them lie in learnt segments."""
    unlearnt = [0]  # unlearnt[i]: characters before i that are not learnt
    for segment in segments:
        last = unlearnt[-1]
        unlearnt += [last] * len(segment.text) if segment.learn else range(last + 1, last + 1 + len(segment.text))
    return [unlearnt[start] == unlearnt[end] for start, end in offsets]


def task_samples(family: str, split: Split, count: int, levels: Sequence[int], seed: int) -> Iterator[Sample]:
    """Problems of a family with one trace each; the same arguments give the same samples."""
    if family == drills.NAME:
        for i in range(count):
            rng = random.Random(stable_hash(f"{family}/{split}/{seed}/{i}"))
            yield Sample([{"role": "user", "content": drills.PROMPT}], drills.drill(rng), family)
        return
    task = get_task(family)
    for i, problem in enumerate(mixture(split, count, levels, [family], seed)):
        trace = task.trace(problem, random.Random(stable_hash(f"trace/{seed}/{i}/{problem.id}")))
        yield Sample([{"role": "user", "content": problem.text}], trace.segments(), family)


def file_samples(path: Path) -> Iterator[Sample]:
    """The lines of a JSON-lines file with `prompt` or `messages`, and `response`."""
    for where, item in json_lines(path):
        yield _file_sample(item, where, path.stem)


def _file_sample(item: Any, where: str, family: str) -> Sample:
    if not isinstance(item, dict) or not isinstance(item.get("response"), str):
        raise InputError(f"{where}: an example needs a text `response`, and `prompt` or `messages`.")
    messages = item.get("messages", [{"role": "user", "content": item.get("prompt")}])
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise InputError(f"{where}: an example needs a text `prompt`, or `messages` that hold role and content.")
    try:
        check_depth(messages)
        check_texts(messages, item["response"])
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from error
    return Sample(messages, [Segment(item["response"])], item.get("family", family))


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )
