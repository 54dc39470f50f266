"""Which hidden state a head reads, and how its step scores become a trajectory's: the validation problems choose.

The paper's head reads what enters the last decoder layer, and takes the geometric mean over steps. In models that were
not trained together with a head, what tells right from wrong may be found in earlier layers, where the state is not yet
mostly about the next token, and in the last step, which states the answer (measured: docs/real-models.md). The states
of several layers are kept while sampling, so that none of this needs a second pass. Where there are many ways, linear
probes on the training problems, which take seconds, say which few of them get a head, which takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from reflective.judge.aggregate import DEFAULT_AGGREGATION
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.shards import Place
from reflective.train.head.config import AUTO, HeadConfig
from reflective.train.head.fit import aucs, aucs_text, candidates_of, fit_head
from reflective.train.head.probe import judge_probes
from reflective.train.progress import Note
from reflective.train.rollouts import Rollouts

PAPER: Final = -2  # what enters the last decoder layer
DEPTHS: Final = (2 / 3, 3 / 4, 5 / 6)  # of the layers, where probes of a first trial were best
TRIED: Final = (DEFAULT_AGGREGATION, "last")  # aggregations
HEADS: Final = {"linear": 1, "random": 3}  # that are fitted at most, by their start

Load = Callable[[Place], tuple[Rollouts, Rollouts]]
"""What to fit on and what to validate on, with the features of a place."""
Way = tuple[Place, str]
"""A place and an aggregation."""


@dataclass(frozen=True, slots=True)
class LayerFit:
    """A head for one layer and aggregation, the epoch it is from, and how it ranks the validation trajectories."""

    place: Place
    aggregation: str
    head: SPRMHead
    epoch: int
    within_problem_auc: float | None
    auc: float | None
    validation: Rollouts
    probes: Mapping[str, float] = field(default_factory=dict)  # of all ways, by which this one was found


def candidate_layers(config: HeadConfig, model_config: Any) -> tuple[int, ...]:
    """The layers that a head may read, as indices into `hidden_states`; the first is the sampling judge's."""
    if config.layer != AUTO:
        return (int(config.layer),)
    layers = int(model_config.get_text_config().num_hidden_layers)
    further = (round(depth * layers) for depth in DEPTHS)
    return (PAPER, *dict.fromkeys(layer for layer in further if 0 < layer < layers - 1))


def candidate_places(config: HeadConfig, layers: Sequence[int]) -> list[Place]:
    """Where a head may read, those before the step token first."""
    positions: tuple[Literal["before", "mean"], ...] = ("before", "mean")
    return [Place(layer, p) for p in positions if config.position in (p, AUTO) for layer in layers]


def fit_layers(
    config: HeadConfig, layers: Sequence[int], load: Load, sprm: JudgeConfig, note: Note
) -> tuple[LayerFit, dict[str, float | None]]:
    """The best head of all layers and aggregations, and the AUC within validation problems of each that was fitted.

    Where the last step alone decides, heads are fitted on last steps alone. Of more than `HEADS` ways those get a head
    whose linear probes choose best on the training problems; a head that starts as a probe needs no other look, since
    the training problems are many more than those for validation. Where no validation problem is mixed, the AUC over
    all trajectories decides; of equal ways the first.
    """
    best: LayerFit | None = None
    tried: dict[str, float | None] = {}
    aggregations = TRIED if config.aggregation == AUTO else (config.aggregation,)
    ways = [(place, aggregation) for place in candidate_places(config, layers) for aggregation in aggregations]
    names = {way: _name(config, way) for way in ways}
    several = len(ways) > 1
    probes: dict[str, float] = {}
    if len(ways) > HEADS[config.start]:
        ways, probes = _most_promising(config, ways, names, load, note)
    for place, aggregation in ways:
        train, validation = load(place)
        name = names[place, aggregation]
        if several:
            note(f"layer {name}")
        asked = replace(sprm, layer=place.layer, aggregation=aggregation)
        parts = (train, validation)
        if aggregation == "last":  # the outcome says little of earlier steps, and they are the many
            parts = (train.last_steps(), validation.last_steps())
        head, epoch = fit_head(config, *parts, asked, note)
        within, overall = aucs(candidates_of(head, validation, aggregation))
        tried[name] = within
        fit = LayerFit(place, aggregation, head, epoch, within, overall, validation, probes)
        if best is None or _measure(fit) > _measure(best):
            best = fit
    assert best is not None
    if several:
        note(f"AUC within problems by layer  {_told(tried)}")
        chosen = f"layer {best.place.layer}"
        if config.position != "before":
            chosen += f", {best.place.position}"
        if len(aggregations) > 1:
            chosen += f", {best.aggregation} of its step scores"
        note(f"the head reads {chosen}: AUC {aucs_text(best.within_problem_auc, best.auc)}")
    return best, tried


def _most_promising(
    config: HeadConfig, ways: Sequence[Way], names: Mapping[Way, str], load: Load, note: Note
) -> tuple[list[Way], dict[str, float]]:
    """The ways whose probes choose best among the training problems' trajectories, the first of equal ones, and how
    often each chooses a right one; all ways, and nothing of them, where too few problems are mixed to tell."""
    found: dict[Way, float] = {}
    for place in dict.fromkeys(place for place, _ in ways):
        train, _ = load(place)
        for way in (way for way in ways if way[0] == place):
            share = judge_probes(train, way[1], config.logprob_features).share
            if share is None:
                return list(ways), {}
            found[way] = share
    told = {names[way]: share for way, share in found.items()}
    note(f"linear probes, right among mixed problems  {_told(told)}")
    return sorted(ways, key=lambda way: -found[way])[: HEADS[config.start]], told


def _name(config: HeadConfig, way: Way) -> str:
    """A way without what all of them share."""
    place, aggregation = way
    name = str(place.layer) if config.position == "before" else str(place)
    return f"{name} {aggregation}" if config.aggregation == AUTO else name


def _told(figures: Mapping[str, float] | Mapping[str, float | None]) -> str:
    return "  ".join(f"{name}: {'none' if value is None else f'{value:.4f}'}" for name, value in figures.items())


def _measure(fit: LayerFit) -> tuple[float, float]:
    """To compare fits by."""
    return (
        -1.0 if fit.within_problem_auc is None else fit.within_problem_auc,
        -1.0 if fit.auc is None else fit.auc,
    )
