"""The contract between whoever wants trajectories and whoever writes them.

Four verbs, so that a strategy can steer while trajectories are being written: `submit`, `fork`, `cancel`, `step`.
An engine promises that each step is scored in the pass that wrote it, that a continuation or a fork does not pay for
its prefix again while the engine still holds it, and that a failed trajectory is data, not a crash.

`reflective.engines.driver.Driver` is the one place that calls `step`; everything else goes through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Final, Literal

from reflective.engines.constraint import Constraint as Constraint
from reflective.errors import ContextError, EngineError, InputError
from reflective.judge.judge import Judge
from reflective.settings import check_least
from reflective.types import Step, Trajectory

MAX_ROWS = 64  # trajectories written at once by default
GREEDY_BELOW: Final = 1e-6  # a temperature


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn, in the order in which the settings apply.

    `repetition_penalty` divides positive and multiplies negative logits of tokens already seen (prompt included);
    `temperature` 0 means greedy, and so does one below 1e-6, whose inverse may leave float32, as a logit divided by a
    smaller `repetition_penalty` than 0.01 may; `top_k` 0, `top_p` 1 and `min_p` 0 are off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, type, Callable[[Any], bool], str], ...] = (
            ("temperature", Real, lambda t: 0.0 <= t <= 100.0, "0 (greedy) or more, at most 100"),
            ("top_p", Real, lambda p: 0.0 < p <= 1.0, "above 0 and at most 1"),
            ("top_k", Integral, lambda k: k >= 0, "a whole number, 0 (off) or more"),
            ("min_p", Real, lambda p: 0.0 <= p < 1.0, "0 (off) or more, below 1"),
            ("repetition_penalty", Real, lambda r: 0.01 <= r <= 100.0, "0.01 to 100"),
        )
        for name, kind, fits, want in checks:
            got = getattr(self, name)
            if not isinstance(got, kind) or not fits(got):  # NaN fits nowhere
                raise InputError(f"{name} is {got!r}; it must be {want}.")
        if self.temperature < GREEDY_BELOW:
            object.__setattr__(self, "temperature", 0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """One trajectory to write: from a prompt, or from what another one, `parent`, has written.

    With `parent` alone it continues a finished trajectory. With `at`, it is a fork: it begins with the first `at`
    response tokens of a finished or running one, with their steps, scores and log-probabilities. The prompt is the
    parent's in both cases, whatever `prompt_ids` says.

    `until` says where to stop: "step" at the end of the next step, "think_end" at `</think>`, "eos" at the end of the
    answer, and all of them at the response's end. `max_tokens` bounds the tokens that this request adds. `index` is
    the caller's number for the trajectory, given back in it. The trajectory is a function of the prompt (or the
    prefix), the sampling and `seed` alone, not of what else is being written.

    A text of `stop` ends the answer, and a token of `stop_token_ids` the response, as the model's own end does: the
    finish reason is "eos". Neither is part of the answer; the tokens that make up a stop string stay in `token_ids`.

    With `every` above 0 a `Marked` comes at each multiple of so many response tokens. `confidences` asks for how sure
    the model is of each token, which not every engine can tell.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_tokens: int = 1024
    until: Literal["step", "think_end", "eos"] = "think_end"
    parent: int | None = None
    index: int = 0
    at: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    constraint: Constraint | None = None
    every: int = 0
    confidences: bool = False

    @property
    def stops(self) -> bool:
        """Whether anything but the model's own end ends it."""
        return bool(self.stop or self.stop_token_ids)


@dataclass(frozen=True, slots=True)
class Text:
    """More text of trajectory `id`."""

    id: int
    delta: str


@dataclass(frozen=True, slots=True)
class StepScored:
    """Step number `index` (from 0) of trajectory `id` has just been scored; `score` is in 0..1."""

    id: int
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Marked:
    """Trajectory `id` has `tokens` response tokens, a multiple of its request's `every`; `steps` are scored by then.

    It comes after those steps' `StepScored`, and not at a token that ended the trajectory. `confidences` are those of
    the tokens since the last mark, where the engine keeps them.
    """

    id: int
    tokens: int
    steps: int
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Trajectory `id` is complete. A continuation's trajectory holds its parent's tokens and steps, too."""

    id: int
    trajectory: Trajectory


Event = Text | StepScored | Marked | Finished


def with_id(event: Event, id: int) -> Event:
    """The event under another id."""
    if isinstance(event, Text):
        return Text(id, event.delta)
    if isinstance(event, StepScored):
        return StepScored(id, event.index, event.score)
    if isinstance(event, Marked):
        return Marked(id, event.tokens, event.steps, event.confidences)
    return Finished(id, event.trajectory)


class Engine(ABC):
    """Writes scored trajectories. Not thread-safe: one thread at a time, which is what a `Driver` sees to.

    `check`, `encode_prompt` and `encode_messages` are the exceptions; they may be called from any thread.
    """

    name: str
    """The model, as the user named it."""
    scored: bool
    """Whether trajectories carry step scores."""
    context_length: int
    """Prompt and completion together, in tokens."""
    max_rows: int = MAX_ROWS
    """Trajectories written at once, at most; more may be submitted, and wait."""
    judge: Judge
    """What makes scores of a trajectory; without a head it knows where steps end, and there are none."""
    remark: str = ""
    """What a user should know before a search, such as why there are no scores; "" where there is nothing to say."""
    unscored: str = ""
    """Why there are no scores, and what helps; "" where there are. The same stands in `remark`."""
    reads: bool = False
    """Whether `score` reads a given response; needs a tokenizer."""
    dtype: str = ""
    """The number type that the model computes in, where the engine knows it."""
    tokenizer: Any = None
    """The model's Hugging Face tokenizer, where the engine has one."""
    constrains: bool = False
    """Whether requests may have a constraint."""
    end_ids: frozenset[int] = frozenset()
    """The tokens that end a response; their texts are the last of its `Text` events, and in no answer."""
    vocabulary: int = 0
    """Token ids run from 0 to `vocabulary` - 1; 0 where the engine does not know."""

    @abstractmethod
    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """Token ids of the problem in the model's chat template, with the reasoning opened."""

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """Token ids of a chat in the model's template, with the thinking opened; `tools` are offered in it."""
        raise EngineError(f"the engine of {self.name!r} has no chat template.")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        raise EngineError(f"the engine of {self.name!r} has no tokenizer.")

    def check(self, request: Request) -> None:
        """Raise `InputError` or `ContextError` for a request that `submit` would refuse whatever else it holds."""
        check_least(1, max_tokens=request.max_tokens)
        if request.constraint is not None and not self.constrains:
            raise InputError(f"the engine of {self.name!r} can't hold responses to a form.")
        if "" in request.stop:
            raise InputError("a stop string is empty; it would end every answer before it begins.")
        if request.every < 0:
            raise InputError(f"every is {request.every}; it must be 0 (no marks) or more.")
        if request.parent is not None:
            return
        if request.at is not None:
            raise InputError(f"at is {request.at}, but no parent is named; a fork needs one.")
        if not request.prompt_ids:
            raise InputError("the prompt is empty; there must be at least one token.")
        self.check_room(len(request.prompt_ids), 0)

    def check_room(self, prompt_tokens: int, written: int) -> None:
        """Raise `ContextError` where the context has no room for a token after so many."""
        if self.context_length - prompt_tokens - written < 1:
            prefix = f" and what was written so far {written:,}" if written else ""
            raise ContextError(
                f"the prompt has {prompt_tokens:,} tokens{prefix}, but {self.name!r} reads at most "
                f"{self.context_length:,} with the answer. Shorten the problem."
            )

    @abstractmethod
    def submit(self, request: Request) -> int:
        """Queue a request and return its id. Raises `ContextError` if there is no room for a token, `InputError`."""

    def fork(self, id: int, at: int, request: Request | None = None) -> int:
        """Queue a trajectory that begins with the first `at` response tokens of `id`, finished or running.

        `request` says how it goes on: its seed, sampling, budget, end and index. Raises as `submit` does.
        """
        return self.submit(replace(request or Request(()), parent=id, at=at))

    @abstractmethod
    def cancel(self, id: int) -> None:
        """Stop trajectory `id`: it finishes with reason "cancelled" in the next `step`.

        For a finished one: forget what is held for its continuations and forks. An unknown id is ignored.
        """

    @abstractmethod
    def step(self) -> list[Event]:
        """Advance every running trajectory by a token (or what the engine calls a step); [] when there is no work."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any request is waiting or running."""

    def score_many(self, prompt_ids: Sequence[int], responses: Sequence[Sequence[int]]) -> list[tuple[Step, ...]]:
        """Steps of responses to one prompt that somebody else wrote.

        Raises `EngineError` where the engine only writes.
        """
        raise EngineError(f"the engine of {self.name!r} can't score given text; use the engine torch.")

    def score(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> tuple[Step, ...]:
        """`score_many` of one response."""
        return self.score_many(prompt_ids, [response_ids])[0]

    def take_features(self, id: int) -> tuple[list[int], Any]:
        """Step token positions and features (n, H) of the n steps of a finished trajectory, once."""
        raise InputError(f"the engine of {self.name!r} keeps no features.")

    def close(self) -> None:
        """Give back memory, processes and connections. The engine can't be used afterwards."""
