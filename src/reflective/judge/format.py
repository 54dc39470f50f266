"""The format of a response: where its reasoning lies, and where its steps end. Token ids only; no torch, no engine.

The reasoning lies either between two marks (`<think>` and `</think>`; a mark is one token or several), or it is the
whole response, as with an instruct model that reasons in its answer.

A step ends at a step token inside the reasoning. Of adjacent step tokens only the first counts, a step token right
after the opening mark does not count (reference, `get_score_mask`; paper, section 3.2), and nothing outside the
reasoning does. In a whole response the token that ends it closes the last step, which usually states the answer.
Tokenizers that write newlines one by one have no token that holds a blank line: there the token that completes it
counts (`line_end_ids`, `line_start_ids`).

Departures from the reference:
- Steps are looked for in the response only. The reference starts at the first `<think>` it meets, or at position 0
  when there is none, and so scores parts of the user's prompt.
- Between marks, there are no steps before the opening mark.
- An opening mark that a user typed opens nothing: it lies in another turn than the response (`turn_ids`).
- The reasoning ends at the first closing mark, since the pass that generates cannot know of a second one.
  `closes="last"` gives the reading of the reference's training code for finished texts, always. Its scoring server
  reads texts with several closing marks in another way: of 340 random ones that had some, 70 came out otherwise. That
  reading is not offered: heads are not trained with it, and an engine that scores while it writes knows the first mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reflective.errors import CheckpointError

Mark = tuple[frozenset[int], ...]
"""A mark's tokens in order; several ids at a place are ways to write its piece, such as `>` and `>` with a newline."""
Closing = Literal["first", "last"]

SLACK: Final = 2  # tokens, such as a newline, that a template without turn tokens may write behind its opening mark


@dataclass(frozen=True, slots=True)
class Format:
    """Which tokens open and close the reasoning and end its steps; made by `between_marks` or `whole_response`.

    `end_ids` end a whole response, and with it the last step. A blank line is also complete where a token of
    `line_start_ids` follows one of `line_end_ids`. `turn_ids` begin or end a turn of the chat template: in a prompt,
    what stands before the last of them belongs to another turn. `plain_turns` says that the template has no such
    tokens, so that only a mark at the very end of the prompt is the template's own.
    """

    step_ids: frozenset[int]
    opening: Mark = ()
    closing: Mark = ()
    end_ids: frozenset[int] = frozenset()
    closes: Closing = "first"
    turn_ids: frozenset[int] = frozenset()
    plain_turns: bool = False
    line_end_ids: frozenset[int] = frozenset()
    line_start_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if bool(self.opening) != bool(self.closing):
            raise CheckpointError("a format has both an opening and a closing mark, or neither.")
        if not (self.step_ids or self.end_ids or (self.line_end_ids and self.line_start_ids)):
            raise CheckpointError("the format has no step token: no step could ever be scored. Name at least one id.")
        if self.opening and self.opening == self.closing:
            raise CheckpointError(f"the opening and the closing mark are the same token ({_shown(self.opening)}).")
        for mark in (self.opening, self.closing):
            if len(mark) == 1 and self.step_ids & mark[0]:
                raise CheckpointError("<think> and </think> can't be step tokens.")

    @property
    def is_whole(self) -> bool:
        """Whether the reasoning is the whole response."""
        return not self.closing

    @property
    def watched(self) -> frozenset[int]:
        """The tokens that a reader must see; all others change nothing for it."""
        marks = (ids for mark in (self.opening, self.closing) for ids in mark)
        ends = self.end_ids if self.is_whole else frozenset()
        return self.step_ids.union(ends, self.line_end_ids, self.line_start_ids, *marks)

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """The opening mark as it is written; () for a whole response."""
        return tuple(min(ids) for ids in self.opening)

    @property
    def closing_end_ids(self) -> frozenset[int]:
        """Tokens that complete the closing mark where it is a single token, for engines that stop at given tokens."""
        return self.closing[0] if len(self.closing) == 1 else frozenset()

    def open(self, prompt_ids: Sequence[int] = ()) -> Reader:
        """A reader of the response that follows this prompt."""
        return Reader(self, prompt_ids)

    def completed(self, response_ids: Sequence[int]) -> list[int]:
        """A given response with the end that closes its last step, where it is a whole one that lacks it."""
        if self.is_whole and self.end_ids and not (response_ids and response_ids[-1] in self.end_ids):
            return [*response_ids, min(self.end_ids)]
        return list(response_ids)


def between_marks(
    step_ids: Iterable[int],
    opening: int | Sequence[int] | Mark,
    closing: int | Sequence[int] | Mark,
    *,
    closes: Closing = "first",
    turn_ids: Iterable[int] = (),
    plain_turns: bool = False,
    line_end_ids: Iterable[int] = (),
    line_start_ids: Iterable[int] = (),
) -> Format:
    """Reasoning between two marks, each a token id, a sequence of ids, or a sequence of sets of ids."""
    return Format(
        frozenset(step_ids),
        _mark(opening),
        _mark(closing),
        closes=closes,
        turn_ids=frozenset(turn_ids),
        plain_turns=plain_turns,
        line_end_ids=frozenset(line_end_ids),
        line_start_ids=frozenset(line_start_ids),
    )


def whole_response(
    step_ids: Iterable[int],
    end_ids: Iterable[int] = (),
    *,
    turn_ids: Iterable[int] = (),
    line_end_ids: Iterable[int] = (),
    line_start_ids: Iterable[int] = (),
) -> Format:
    """Reasoning that is the whole response, ended by one of `end_ids`."""
    return Format(
        frozenset(step_ids),
        end_ids=frozenset(end_ids),
        turn_ids=frozenset(turn_ids),
        line_end_ids=frozenset(line_end_ids),
        line_start_ids=frozenset(line_start_ids),
    )


class Reader:
    """Reads one response token by token and tells, for each token, whether it ends a step.

    This is the definition; `step_positions` and the engines go through it. A reader is made from the prompt, since
    chat templates open the reasoning there.
    """

    __slots__ = ("_format", "_line_end_at", "_mark_at", "_open", "_position", "_recent", "closed_at", "count")

    def __init__(self, format: Format, prompt_ids: Sequence[int] = ()) -> None:
        self._format = format
        self._open = True if format.is_whole else _left_open(format, prompt_ids)
        # where the last opening mark or step token was (response tokens count from 0): a step token right after it
        # would end an empty step
        self._mark_at = -1 if format.is_whole or _ends_in_mark(format, prompt_ids) else -2
        self._line_end_at = -2
        self._position = -1
        self._recent: tuple[int, ...] = ()  # the last tokens, without a gap: for marks of several tokens
        self.closed_at: int | None = None
        """Where the last closing mark was completed, inside the reasoning or not; None before the first."""
        self.count = 0

    @property
    def reasoning(self) -> bool:
        """Whether the next token is written inside the reasoning."""
        return self._open is True

    @property
    def answer_at(self) -> int | None:
        """Where the answer begins: behind the closing mark, or with the whole response; None before it is known."""
        if self._format.is_whole:
            return 0
        return None if self.closed_at is None else self.closed_at + 1

    def copy(self) -> Reader:
        """An independent reader in the same state."""
        twin = Reader.__new__(Reader)
        for name in Reader.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def push(self, token_id: int) -> bool:
        """Read the next token of the response; True when it ends a step."""
        return self.push_at(self._position + 1, token_id)

    def end_at(self, position: int) -> bool:
        """The token read at `position` ends the response by the caller's word; True when that ends a step.

        A whole response is reasoning up to there, so its last step is closed, unless that token has closed one already.
        """
        if not (self._format.is_whole and self._open):
            return False
        counts = self._mark_at < position - 1
        self._mark_at, self._position, self._open = position, position, False
        self.count += counts
        return counts

    def push_at(self, position: int, token_id: int) -> bool:
        """Read the response's token at `position`; those between that are not `Format.watched` may be left out."""
        format = self._format
        if len(format.opening) > 1 or len(format.closing) > 1:
            recent = self._recent if position == self._position + 1 else ()
            self._recent = (*recent, token_id)[-max(len(format.opening), len(format.closing)) :]
        self._position = position
        if format.opening and self._completes(format.opening, token_id):
            self._mark_at = position
            if self._open is None:
                self._open = True
            return False
        if format.closing and self._completes(format.closing, token_id):
            self.closed_at = position
            if self._open:
                self._open = False
            return False
        blank = token_id in format.step_ids
        if not blank and format.line_start_ids:
            blank = token_id in format.line_start_ids and self._line_end_at == position - 1
        if token_id in format.line_end_ids:
            self._line_end_at = position
        ended = format.is_whole and token_id in format.end_ids
        if not (blank or ended):
            return False
        counts = self._open is True and self._mark_at != position - 1
        self._mark_at = position
        self.count += counts
        if ended:
            self._open = False
        return counts

    def _completes(self, mark: Mark, token_id: int) -> bool:
        if len(mark) == 1:
            return token_id in mark[0]
        recent = self._recent[-len(mark) :]
        return len(recent) == len(mark) and all(token in ids for token, ids in zip(recent, mark))


def step_positions(format: Format, response_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[int]:
    """Indices into `response_ids` of the tokens that end a step, ascending.

    The feature of a step at index i is the hidden state one position earlier: the position whose logits the step
    token was drawn from (reference). For i = 0 that is the last prompt position.
    """
    ids, end = list(response_ids), len(response_ids)
    if format.closes == "last" and not format.is_whole:
        spans = _spans(format.closing, ids)
        for start, stop in spans:
            ids[start:stop] = [-1] * (stop - start)
        end = spans[-1][0] if spans else end
    reader, steps, opened = format.open(prompt_ids), [], None
    for i, token in enumerate(ids):
        opened = i if opened is None and reader.reasoning else opened
        # a closing mark before the reasoning opens closes nothing
        if reader.push(token) and (i < end or (opened is not None and end < opened)):
            steps.append(i)
    return steps


def closing_span(
    format: Format, response_ids: Sequence[int], prompt_ids: Sequence[int] | None = None
) -> tuple[int, int] | None:
    """Where the closing mark stands in the response: its first token, and the one behind it; None where it has none.

    With the prompt, only a mark that closes open reasoning counts. `closes` says which one, the first or the last.
    """
    if format.is_whole:
        return None
    spans = _spans(format.closing, response_ids)
    if prompt_ids is not None:
        reader, opened_at = format.open(prompt_ids), None
        for i, token in enumerate(response_ids):
            if reader.reasoning:
                opened_at = i
                break
            reader.push(token)
        spans = [span for span in spans if opened_at is not None and span[0] >= opened_at]
    if not spans:
        return None
    return spans[0] if format.closes == "first" else spans[-1]


def _left_open(format: Format, prompt_ids: Sequence[int]) -> bool | None:
    """True: the prompt leaves the reasoning open. None: it may still be opened by the response."""
    length = len(prompt_ids)
    turn = next((i for i, token in enumerate(reversed(prompt_ids)) if token in format.turn_ids), length)
    tail = prompt_ids[length - turn :]
    opened, closed = _spans(format.opening, tail), _spans(format.closing, tail)
    if not opened or (closed and closed[-1][0] > opened[-1][0]):
        return None
    if format.plain_turns and len(tail) - opened[-1][1] > SLACK:
        return None
    return True


def _ends_in_mark(format: Format, prompt_ids: Sequence[int]) -> bool:
    if not prompt_ids:
        return False
    n = len(format.opening)
    ends = len(prompt_ids) >= n and all(t in ids for t, ids in zip(prompt_ids[-n:], format.opening))
    return ends or prompt_ids[-1] in format.step_ids


def _spans(mark: Mark, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Every place where the mark stands."""
    n = len(mark)
    if n == 1:
        (only,) = mark
        return [(i, i + 1) for i, token in enumerate(ids) if token in only]
    return [(i, i + n) for i in range(len(ids) - n + 1) if all(ids[i + j] in mark[j] for j in range(n))]


def _mark(value: int | Sequence[int] | Mark) -> Mark:
    if isinstance(value, int):
        return (frozenset({value}),)
    return tuple(frozenset({item}) if isinstance(item, int) else frozenset(item) for item in value)


def _shown(mark: Mark) -> str:
    return " ".join("/".join(map(str, sorted(ids)[:3])) for ids in mark)
