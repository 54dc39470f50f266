"""What may be set about a search, and what follows from it: trajectories, strategy and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from reflective.engines.base import Sampling
from reflective.errors import InputError
from reflective.judge.judge import Judge
from reflective.judge.schedule import check_risk
from reflective.search import AUTO, Answers, AutoEffort, Settings, Strategy, get_strategy, resolve_effort
from reflective.settings import check_names
from reflective.types import EFFORTS

DEFAULT_EFFORT = "medium"
_SETTINGS = ("seed", "max_tokens", "answer_tokens", "system", "max_total_tokens", "deadline")


class Options(TypedDict, total=False):
    """What may be set about a search, by keyword.

    `effort` is "low" (2 trajectories), "medium" (8), "high" (32), a number, or "auto": as many as the problem needs, at
    a `risk` of losing so large a share of the right answers of effort high (1 point, or the smallest that was
    certified). `max_total_tokens` and `deadline` (seconds) bound what all trajectories of a problem take together; the
    answer is the best that can be had within. `strategy` is best_of_n, majority, weighted, logprob, single, prune,
    deepconf, adaptive_consistency, esc, beam, dvts, particles, mcts, a `Strategy`, or "auto": with a head best_of_n, or
    weighted where the whole response is the reasoning, and else majority; a vote gives way to logprob where the
    trajectories state no final answers. `seed` makes everything
    repeatable. `temperature` (0 is greedy), `top_p`, `top_k`, `min_p` and `repetition_penalty` say how tokens are
    drawn; what is not given is as the head was trained with, or else as the model's generation_config says, or else
    temperature 1 without filters. `max_tokens` bounds the reasoning, `answer_tokens` the answer after it.
    `answers="all"` writes the answer of every trajectory, not only of the selected one. `system` is a system message.
    `stop`, a text or several, ends the answer where it is written, and a token of `stop_token_ids` the response;
    neither is part of the answer. `strategy_options` are those of the named strategy, the arguments of its class.
    """

    effort: str | int
    risk: float | None
    max_total_tokens: int | None
    deadline: float | None
    strategy: str | Strategy
    seed: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int | None
    answer_tokens: int
    answers: Answers
    system: str | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    strategy_options: Mapping[str, Any] | None


def plan(
    options: Options,
    *,
    scored: bool = True,
    sampling: Mapping[str, float] | None = None,
    judge: Judge | None = None,
) -> tuple[int, Strategy, Settings]:
    """Effort, strategy and settings; an unknown option is refused with the nearest known one.

    `scored` says whether the engine scores steps, and `sampling` how it draws where the options don't say. Without the
    `judge`, what effort auto needs of it is not looked at.
    """
    check_names(options, Options.__annotations__, "option")
    given: dict[str, Any] = dict(options)
    asked = {name: given[name] for name in Sampling.__annotations__ if given.get(name) is not None}
    drawing: dict[str, Any] = {**(sampling or {}), **asked}
    check_names(drawing, Sampling.__annotations__, "setting in the head's sampling")
    if given.get("effort") == AUTO:
        k, found = _auto_effort(given, drawing, judge, scored)
    else:
        if given.get("risk") is not None:
            raise InputError("risk has a meaning with effort 'auto' only; leave it out.")
        k, found = resolve_effort(given.get("effort", DEFAULT_EFFORT)), None
    stop = given.get("stop") or ()
    settings: dict[str, Any] = {name: given[name] for name in _SETTINGS if name in given}
    settings["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    settings["stop_token_ids"] = tuple(given.get("stop_token_ids") or ())
    strategy = found or get_strategy(
        given.get("strategy", AUTO),
        given.get("answers", "selected"),
        scored=scored,
        whole=judge is not None and judge.format.is_whole,
        options=given.get("strategy_options"),
    )
    strategy.budget(k)  # raises where the options don't go with the effort
    return k, strategy, Settings(Sampling(**drawing), **settings)


def _auto_effort(
    given: Mapping[str, Any], drawing: Mapping[str, float], judge: Judge | None, scored: bool
) -> tuple[int, Strategy]:
    """Effort auto: by the head's schedule, or by agreement where there is none."""
    strategy, risk = given.get("strategy", AUTO), given.get("risk")
    if isinstance(strategy, AutoEffort):
        return EFFORTS["high"], strategy
    if strategy != AUTO or given.get("strategy_options"):
        raise InputError(f"effort 'auto' brings its own strategy; leave {strategy!r} and its options out.")
    if risk is not None:
        check_risk(risk)
    schedule = judge.config.schedule if judge is not None and scored else None
    if schedule is None:
        if judge is not None and risk is not None:
            raise InputError(
                f"a risk of {risk:g} can't be kept: no schedule is fitted for this model's head. Fit one with: "
                "reflective calibrate RUN; or leave the risk out, and effort auto stops by agreement."
            )
        return EFFORTS["high"], AutoEffort(scored=scored)
    assert judge is not None
    if why := schedule.refusal(head=judge.digest, sampling=drawing):
        raise InputError(
            f"effort auto can't keep its risk here: {why}. Draw as it was fitted, or fit another schedule with: "
            "reflective calibrate RUN."
        )
    return schedule.k, AutoEffort(schedule, schedule.limit(risk))
