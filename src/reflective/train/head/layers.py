"""Which hidden state a head reads, and how its step scores become a trajectory's: the validation problems choose.

The paper's head reads what enters the last decoder layer, and takes the geometric mean over steps. In models that were
not trained together with a head, what tells right from wrong may stand further down, where the state is not yet mostly
about the next token, and in the last step, which states the answer (measured: docs/real-models.md). The states of
several layers are kept while sampling, so that none of this needs a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from reflective.judge.aggregate import DEFAULT_AGGREGATION
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.shards import Place
from reflective.train.head.config import AUTO, HeadConfig
from reflective.train.head.fit import aucs, aucs_text, candidates_of, fit_head
from reflective.train.progress import Note
from reflective.train.rollouts import Rollouts

PAPER: Final = -2  # what enters the last decoder layer
DEPTHS: Final = (2 / 3, 3 / 4, 5 / 6)  # of the layers, where probes of a first trial were best
TRIED: Final = (DEFAULT_AGGREGATION, "last")  # aggregations


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
    config: HeadConfig,
    layers: Sequence[int],
    load: Callable[[Place], tuple[Rollouts, Rollouts]],
    sprm: JudgeConfig,
    note: Note,
) -> tuple[LayerFit, dict[str, float | None]]:
    """The best head of all layers and aggregations, and the AUC within validation problems of each.

    Where the last step alone decides, heads are fitted on last steps alone.

    `load` gives the rollouts of both parts with the features of a place. Where no problem is mixed, the AUC over all
    trajectories decides; of equal layers the first.
    """
    best: LayerFit | None = None
    tried: dict[str, float | None] = {}
    aggregations = TRIED if config.aggregation == AUTO else (config.aggregation,)
    places = candidate_places(config, layers)
    several = len(places) * len(aggregations) > 1
    for place in places:
        train, validation = load(place)
        for aggregation in aggregations:
            name = str(place.layer) if config.position == "before" else str(place)
            if len(aggregations) > 1:
                name += f" {aggregation}"
            if several:
                note(f"layer {name}")
            asked = replace(sprm, layer=place.layer, aggregation=aggregation)
            parts = (train, validation)
            if aggregation == "last":  # the outcome says little of earlier steps, and they are the many
                parts = (train.last_steps(), validation.last_steps())
            head, epoch = fit_head(config, *parts, asked, note)
            within, overall = aucs(candidates_of(head, validation, aggregation))
            tried[name] = within
            fit = LayerFit(place, aggregation, head, epoch, within, overall, validation)
            if best is None or _measure(fit) > _measure(best):
                best = fit
    assert best is not None
    if several:
        told = "  ".join(f"{name}: {'none' if found is None else f'{found:.4f}'}" for name, found in tried.items())
        note(f"AUC within problems by layer  {told}")
        chosen = f"layer {best.place.layer}"
        if config.position != "before":
            chosen += f", {best.place.position}"
        if len(aggregations) > 1:
            chosen += f", {best.aggregation} of its step scores"
        note(f"the head reads {chosen}: AUC {aucs_text(best.within_problem_auc, best.auc)}")
    return best, tried


def _measure(fit: LayerFit) -> tuple[float, float]:
    """To compare fits by."""
    return (
        -1.0 if fit.within_problem_auc is None else fit.within_problem_auc,
        -1.0 if fit.auc is None else fit.auc,
    )
