"""Token ids to steps: the one definition of where a reasoning step ends. No torch.

A step ends at a step token inside the thinking. Of adjacent step tokens only the first counts, a step token right
after `<think>` does not count (reference, `get_score_mask`; paper, section 3.2), and nothing outside the thinking does.

Departures from the reference:
- Steps are looked for in the response only. The reference starts at the first `<think>` it meets, or at position 0
  when there is none, and so scores parts of the user's prompt.
- Without an open `<think>` there is no thinking and there are no steps.
- A `<think>` that a user typed opens nothing: it lies in another turn than the response (`StepRule.turn_ids`).
- The thinking ends at the first `</think>`, since the pass that generates cannot know of a second one.
  `StepRule(closes="last")` gives the reference's reading for finished texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reflective.errors import CheckpointError, InputError

STEP_TEXT = ".\n\n"  # the mark that both the paper and the reference use
CHINESE_MAX_CHARS = 3  # reference, Chinese mode: "short" tokens that hold a newline or a full stop

RuleName = Literal["reference", "paper", "chinese"]


@dataclass(frozen=True, slots=True)
class StepRule:
    """Which tokens end a step, and which open and close the thinking.

    `turn_ids` are the tokens that begin or end a turn of the chat template. In a prompt, what stands before the last
    of them belongs to another turn, so a `<think>` there is not the response's.
    """

    step_ids: frozenset[int]
    think_id: int
    think_end_id: int
    closes: Literal["first", "last"] = "first"
    turn_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.step_ids:
            raise CheckpointError(
                "the step rule has no step token: no step could ever be scored. Name at least one id."
            )
        if self.think_id == self.think_end_id:
            raise CheckpointError(f"<think> and </think> are the same token ({self.think_id}); they must differ.")
        if self.step_ids & {self.think_id, self.think_end_id}:
            raise CheckpointError("<think> and </think> can't be step tokens.")

    @property
    def marks(self) -> frozenset[int]:
        """The tokens that a tracker must see; all others change nothing for it."""
        return self.step_ids | {self.think_id, self.think_end_id}


class StepTracker:
    """Reads one trajectory token by token and tells, for each, whether it ends a step.

    This is the definition; `step_positions` and the engines go through it. A tracker is made from the prompt, since
    chat templates open the thinking there.
    """

    __slots__ = ("_mark_at", "_position", "_rule", "_thinking", "count")

    def __init__(self, rule: StepRule, prompt_ids: Sequence[int] = ()) -> None:
        self._rule = rule
        self._thinking = _left_open(rule, prompt_ids)
        # where the last <think> or step token was (response tokens count from 0): a step token right after it would
        # end an empty step
        marked = bool(prompt_ids) and (prompt_ids[-1] == rule.think_id or prompt_ids[-1] in rule.step_ids)
        self._mark_at = -1 if marked else -2
        self._position = -1
        self.count = 0

    @property
    def thinking(self) -> bool:
        """Whether the next token is written inside the thinking."""
        return self._thinking is True

    def copy(self) -> StepTracker:
        """An independent tracker in the same state."""
        twin = StepTracker(self._rule)
        twin._thinking, twin._mark_at, twin.count = self._thinking, self._mark_at, self.count
        twin._position = self._position
        return twin

    def push(self, token_id: int) -> bool:
        """Read the next token of the response; True when it ends a step."""
        return self.push_at(self._position + 1, token_id)

    def push_at(self, position: int, token_id: int) -> bool:
        """Read the response's token at `position`; those between that are no `StepRule.marks` may be left out."""
        rule, self._position = self._rule, position
        if token_id in rule.step_ids:
            counts = self._thinking is True and self._mark_at != position - 1
            self._mark_at = position
            self.count += counts
            return counts
        if token_id == rule.think_id:
            self._mark_at = position
            if self._thinking is None:
                self._thinking = True
        elif token_id == rule.think_end_id and self._thinking:
            self._thinking = False
        return False


def _left_open(rule: StepRule, prompt_ids: Sequence[int]) -> bool | None:
    """True: the prompt leaves the thinking open. None: it may still be opened by the response."""
    for token in reversed(prompt_ids):
        if token == rule.think_id:
            return True
        if token == rule.think_end_id or token in rule.turn_ids:
            return None
    return None


def step_positions(rule: StepRule, response_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[int]:
    """Indices into `response_ids` of the step tokens that count, ascending.

    The feature of a step at index i is the hidden state one position earlier: the position whose logits the step
    token was drawn from (reference). For i = 0 that is the last prompt position.
    """
    end = len(response_ids)
    if rule.closes == "last":
        closing = [i for i, token in enumerate(response_ids) if token == rule.think_end_id]
        end = closing[-1] if closing else end
        response_ids = [-1 if token == rule.think_end_id else token for token in response_ids[:end]]
    tracker = StepTracker(rule, prompt_ids)
    return [i for i, token in enumerate(response_ids[:end]) if tracker.push(token)]


def think_end_index(rule: StepRule, response_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> int | None:
    """Index into `response_ids` of the `</think>` that closes the thinking; None while it is open or never opened."""
    tracker, found = StepTracker(rule, prompt_ids), None
    for i, token in enumerate(response_ids):
        was_thinking = tracker.thinking
        tracker.push(token)
        if token == rule.think_end_id and (was_thinking or found is not None):
            if rule.closes == "first":
                return i
            found = i
    return found


def step_ids_by_rule(
    rule: RuleName, encode: Callable[[str], Sequence[int]], vocabulary: Mapping[int, str]
) -> frozenset[int]:
    """Step token ids of a tokenizer.

    `encode` maps text to ids without special tokens; `vocabulary` maps each id to the text that it decodes to.
    "reference": the ids of ".\\n\\n" (it must be one token). "paper": every token that contains ".\\n\\n".
    "chinese": tokens of at most three characters that contain a newline or "。".
    Raises `CheckpointError` when the rule finds no token.
    """
    if rule == "reference":
        ids = list(encode(STEP_TEXT))
        if len(ids) != 1:
            raise CheckpointError(
                f"the tokenizer writes {STEP_TEXT!r} as {len(ids)} tokens, so it can't mark the end of a step. "
                "Use the rule 'paper', or name step token ids yourself."
            )
        return frozenset(ids)
    if rule == "paper":
        found: Iterable[int] = (i for i, text in vocabulary.items() if STEP_TEXT in text)
    elif rule == "chinese":
        found = (
            i for i, text in vocabulary.items() if len(text) <= CHINESE_MAX_CHARS and ("\n" in text or "。" in text)
        )
    else:
        raise InputError(f"unknown step rule {rule!r}; known are reference, paper and chinese.")
    ids_found = frozenset(found)
    if not ids_found:
        raise CheckpointError(
            f"the step rule {rule!r} finds no token in this vocabulary. Name step token ids yourself."
        )
    return ids_found
