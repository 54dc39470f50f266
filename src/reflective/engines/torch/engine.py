"""The embedded engine: trajectories written and scored in one pass, on CPU or GPU.

Departure from the reference: where it generates with one copy of the weights and re-reads every trajectory with
another, this holds one copy and reads every token once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reflective.engines.base import MAX_ROWS
from reflective.engines.torch import precision
from reflective.engines.torch.backbones import choose, packed_name, packed_obstacle
from reflective.engines.torch.backbones.base import Backbone
from reflective.engines.torch.kv_manager import KVManager
from reflective.engines.torch.row_engine import RowEngine
from reflective.errors import EngineError, InputError
from reflective.judge.judge import Judge, headless_judge
from reflective.models.fingerprint import make_fingerprint
from reflective.models.metadata import eos_ids_of
from reflective.models.stored import StoredWeights


class TorchEngine(RowEngine):
    """Writes scored trajectories with a Hugging Face causal LM and an SPRM head.

    `model` and the judge's head are taken as they are; without a judge, the format is found from the tokenizer, and
    trajectories carry no scores. The model's
    projections may be re-laid (values unchanged), so make the engine before an optimizer; when weights have changed in
    place, call `refresh`.

    `catch_features` keeps the hidden states at the steps for `take_features`: of the judge's layer, behind it of
    further `layers`, and with `catch_means` of all of them again the mean over the positions that drew a step's tokens.

    `keep_confidences` keeps the self-certainty and the confidence of every token, for selectors that need no training
    (`reflective.confidence`), also where a request does not ask for them. `weights` are packed for the compiled step;
    the model then is a form without memory. `fuse` and `compiled` allow the faster ways to decode, for comparisons.
    `remark` says why one that is allowed can't be taken, "" where none is closed.
    """

    _backbone: Backbone
    _kv_manager: KVManager

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        judge: Judge | None = None,
        *,
        name: str = "model",
        max_rows: int = MAX_ROWS,
        catch_features: bool = False,
        layers: Sequence[int] = (),
        catch_means: bool = False,
        keep_confidences: bool = False,
        weights: StoredWeights | None = None,
        fuse: bool = True,
        compiled: bool = True,
    ) -> None:
        eos_ids = eos_ids_of((getattr(model, "generation_config", None), model.config, tokenizer))
        judge = judge or headless_judge(model.config, tokenizer, end_ids=eos_ids)
        context_length = _context_length(model)
        backbone, slow = choose(
            model, judge.config.layer, further=layers, weights=weights, fuse=fuse, compiled=compiled
        )
        super().__init__(
            name,
            tokenizer,
            judge,
            backbone,
            KVManager(backbone, context_length),
            context_length=context_length,
            vocabulary=int(model.get_output_embeddings().weight.shape[0]),
            eos_ids=eos_ids,
            max_rows=max_rows,
            feature_layers=layers,
            kept=catch_features,
            means=catch_means,
            keep_confidences=keep_confidences,
        )
        self.model, self._weights = model, weights
        self.remark = " ".join(filter(None, (slow, self.remark)))

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **options: Any) -> TorchEngine:
        """An engine on a loaded `reflective.models.Checkpoint`; packs the weights that it has left in their files."""
        if checkpoint.weights is not None and (reason := packed_obstacle(checkpoint.model)):
            kind = checkpoint.weights.kind
            engine = cls.from_checkpoint(checkpoint.dense(), **options)
            held = str(engine.model.dtype).removeprefix("torch.")
            engine.remark = " ".join(filter(None, (f"weights in {held}, not in {kind}: {reason}.", engine.remark)))
            return engine
        checkpoint, chosen = precision.settled(checkpoint) if checkpoint.undecided else (checkpoint, "")
        options = {"weights": checkpoint.weights, **options}
        engine = cls(checkpoint.model, checkpoint.tokenizer, checkpoint.judge, name=checkpoint.name, **options)
        deviation = engine._compare_fingerprint() if checkpoint.unchecked else ""
        engine.remark = " ".join(filter(None, (checkpoint.remark, chosen, deviation, engine.remark)))
        return engine

    def fingerprint(self, layer: int | None = None) -> dict[str, Any]:
        """The fingerprint of the model for heads that read this one of `feature_layers`, by default the judge's."""
        place = 0 if layer is None else self.feature_layers.index(layer)

        def read(ids: list[int], positions: list[int], _: int) -> Tensor:
            return self._fixed_features(ids, positions, place)

        return make_fingerprint(self.model, self.tokenizer, self.feature_layers[place], read)

    def refresh(self) -> None:
        """Go on with weights that an optimizer has changed in place; what is held of finished trajectories goes."""
        if self.busy:
            raise EngineError("the weights changed while trajectories were being written; let them finish first.")
        self._backbone.refresh()
        self._logprob_terms = self.head.logprob_terms if self.head is not None else None
        self._kv_manager.forget()
        self._finished.clear()
        self._features.clear()

    def take_features(self, id: int) -> tuple[list[int], Tensor]:
        """Step token positions and features (n, H) of the n steps of a finished trajectory.

        Features are (n, F·H) where the engine catches F layers or means of layers: see the class.
        The engine must have been made with `catch_features`. The features are handed out once, on the CPU: for a
        continuation, those of its parent come along unless they were taken before it was submitted.
        """
        sequence = self._finished.get(id)
        if sequence is None or not self._features.kept:
            raise InputError(f"no features are held for trajectory {id}: it is not finished, or nothing was caught.")
        rows = self._features.take(id)
        width = self.model.get_input_embeddings().weight.shape[1] * len(self.feature_layers) * (1 + self.catch_means)
        features = torch.stack(rows) if rows else torch.empty(0, width, dtype=self.model.dtype)
        return sequence.step_positions[len(sequence.step_positions) - len(rows) :], features

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The number type of the model's weights."""
        return str(self.model.dtype) if self._weights is None else packed_name(self._weights.kind)


def _context_length(model: Any) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not positions:
        raise EngineError(
            f"{type(model).__name__} does not say how many positions it reads; use another engine (vllm)."
        )
    return int(positions)
