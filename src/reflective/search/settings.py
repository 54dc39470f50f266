"""What a user may set about a search, checked: effort, budgets, the problem itself; and the seeds of trajectories."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from reflective.engines.base import Constraint, Engine, Sampling
from reflective.errors import ContextError, InputError
from reflective.settings import at_least
from reflective.types import EFFORTS, Problem

MAX_EFFORT = 4096  # trajectories; more is a typing error
DEFAULT_MAX_TOKENS = 4096  # of the reasoning
DEFAULT_ANSWER_TOKENS = 512
ANSWER_SHARE = 0.25  # at most this share of a small context is kept free for the answer


@dataclass(frozen=True, slots=True)
class Settings:
    """How the trajectories of a problem are drawn.

    `max_tokens` bounds the reasoning (None: 4,096, or what the context leaves), `answer_tokens` the answer after it;
    with `total_tokens` both together have so many, and the answer may use what the reasoning has left.
    An answer is held to `constraint`; where the whole response is the reasoning, the response is.
    `system` is a system message that stands before every problem. A text of `stop` ends the answer where it is written,
    a token of `stop_token_ids` the response; neither is part of the answer. All trajectories of a problem together have
    `max_total_tokens` and, from the start of the problem, `deadline` seconds (`search.budget`).
    """

    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_tokens: int | None = None
    answer_tokens: int = DEFAULT_ANSWER_TOKENS
    system: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    total_tokens: int | None = None
    constraint: Constraint | None = None
    max_total_tokens: int | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "max_tokens", "answer_tokens", "total_tokens", "max_total_tokens")
        seconds: object = self.deadline
        if seconds is not None and not (isinstance(seconds, int | float) and 0.0 < seconds < math.inf):
            raise InputError(f"deadline is {self.deadline!r}; it must be a number of seconds above 0, still to come.")
        if not isinstance(self.system or "", str):
            raise InputError(f"system is {self.system!r}; it must be a text.")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InputError(f"stop is {self.stop!r}; it must be texts that are not empty.")
        if not all(type(token) is int and token >= 0 for token in self.stop_token_ids):
            raise InputError(f"stop_token_ids is {self.stop_token_ids!r}; it must be token ids, 0 or more.")

    def budgets(self, engine: Engine, prompt_tokens: int) -> tuple[int, int]:
        """Tokens for the reasoning and for the answer, as many as the context has room for."""
        room = engine.context_length - prompt_tokens
        if room < 2:
            raise ContextError(
                f"the problem has {prompt_tokens:,} tokens, but {engine.name!r} reads at most "
                f"{engine.context_length:,} with reasoning and answer. Shorten it."
            )
        room = max(min(room, self.total_tokens or room), 2)
        answer = min(self.answer_tokens, max(1, int(room * ANSWER_SHARE)))
        most = self.max_tokens or self.total_tokens or DEFAULT_MAX_TOKENS
        return min(most, room - (0 if self.total_tokens and engine.judge.format.is_whole else answer)), answer


def resolve_effort(effort: str | int) -> int:
    """Number of trajectories: of "low", "medium", "high", of a number, or of a number as text."""
    if isinstance(effort, str) and effort in EFFORTS:
        return EFFORTS[effort]
    try:
        number = int(effort) if not isinstance(effort, bool | float) else 0
    except (ValueError, TypeError):
        number = 0
    if not 1 <= number <= MAX_EFFORT:
        names = ", ".join(f"{name} ({k})" for name, k in EFFORTS.items())
        raise InputError(
            f"effort is {effort!r}; it must be {names} or a number of trajectories from 1 to {MAX_EFFORT}."
        )
    return number


def check_problem(problem: str | Problem) -> Problem:
    """The problem, refused when it is blank or no proper text."""
    if isinstance(problem, str):
        problem = Problem(problem)
    if not isinstance(problem, Problem) or not isinstance(problem.text, str):
        raise InputError(f"a problem is a text, or a Problem with one; got {problem!r:.60}.")
    for message in problem.messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError('messages must be a list such as [{"role": "user", "content": "What is 2 + 2?"}].')
    if not problem.text.strip():
        raise InputError("the problem is empty. Write a question, for example: What is 12 * 17?")
    check_text(problem.asked, "the problem")
    return problem


def check_text(text: str, what: str) -> str:
    """The text, refused where it can't be written: half a surrogate pair, as JSON's "\\ud800"."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid UTF-8 text. Save or type it as UTF-8.") from error
    return text


def trajectory_seed(seed: int, index: int, problem: str) -> int:
    """The seed of trajectory `index`, 63 bits.

    The first 8 bytes of BLAKE2b over "seed/index/problem", big-endian, shifted right by one. It depends on nothing
    else, so the first k trajectories of a larger budget are those of budget k; and the problem is in it, so that
    equal indices of different problems do not share their luck.
    """
    digest = hashlib.blake2b(f"{seed}/{index}/{problem}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
