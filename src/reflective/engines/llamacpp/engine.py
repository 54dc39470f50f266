"""The engine llamacpp: trajectories computed by llama.cpp, drawn and scored here, in the pass that writes them.

llama.cpp's products may round differently for one row and for many, so a trajectory with the same seed can differ with
what is written beside it; everything else is as in the embedded engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from reflective.engines.base import MAX_ROWS
from reflective.engines.llamacpp.sequences import Sequences
from reflective.engines.llamacpp.session import SEQUENCES, Session
from reflective.engines.torch.backbones.base import DecodePlan, draw_next, head_logits
from reflective.engines.torch.kv import KVShape
from reflective.engines.torch.memory import available_memory
from reflective.engines.torch.row_engine import RowEngine
from reflective.engines.torch.sampling import SamplingRows
from reflective.errors import EngineError, InputError
from reflective.judge.heads import StepHead
from reflective.models.gguf import form_of_file, is_gguf
from reflective.models.metadata import Metadata, read_metadata

POSITIONS: Final = 32_768  # for the tokens of all trajectories together, by default
KV_SHARE: Final = 0.5  # of the free memory, for keys and values
READ: Final = 64  # positions whose logits are computed at once, where given text is read


class LlamaCppEngine(RowEngine):
    """Writes scored trajectories with a GGUF file and an SPRM head.

    `positions` is how many tokens all trajectories have together, running and finished ones, prompts that they share
    counted once; beyond them fewer trajectories are written at once.
    """

    def __init__(self, model: Metadata, session: Session, *, max_rows: int = MAX_ROWS, positions: int) -> None:
        if max_rows >= SEQUENCES:
            raise InputError(f"max_rows is {max_rows}; llama.cpp writes at most {SEQUENCES - 1} trajectories at once.")
        if session.vocabulary != model.vocabulary:
            raise EngineError(
                f"llama.cpp finds {session.vocabulary:,} token ids in {model.name!r}, and transformers "
                f"{model.vocabulary:,}. Convert the file again, or use the engine torch."
            )
        context_length = min(model.context_length or positions, positions)
        self._session, self.dtype = session, session.dtype
        sequences = Sequences(session, context_length)
        super().__init__(
            model.name,
            model.tokenizer,
            model.judge,
            LlamaCppBackbone(sequences, _kv_shape(model.model_config)),
            sequences,
            context_length=context_length,
            vocabulary=model.vocabulary,
            eos_ids=model.eos_ids,
            max_rows=max_rows,
        )

    @classmethod
    def from_source(
        cls,
        source: str | Path,
        *,
        require_head: bool = True,
        head: str | Path | None = None,
        check_fingerprint: bool = True,
        dtype: str = "auto",
        max_rows: int = MAX_ROWS,
        positions: int = POSITIONS,
    ) -> LlamaCppEngine:
        """An engine on a GGUF file."""
        path = Path(source).expanduser()
        if not path.is_file() or not is_gguf(path):
            raise InputError(f"the engine llamacpp reads GGUF files, and '{source}' is none. Use the engine torch.")
        if dtype != "auto":
            raise InputError(
                f"dtype is {dtype!r}; the engine llamacpp runs a GGUF file at its own precision. Leave it out."
            )
        model = read_metadata(
            source,
            folder=form_of_file(path),
            require_head=require_head,
            head=head,
            check_fingerprint=check_fingerprint,
            weights=True,
        )
        room = int(available_memory(torch.device("cpu")) * KV_SHARE) // _kv_shape(model.model_config).bytes_per_position
        positions = min(positions, room, max_rows * (model.context_length or positions))
        layer = _layer(model) if model.judge.scores else None
        session = Session(path, positions=positions, layer=layer, threads=torch.get_num_threads())
        try:
            engine = cls(model, session, max_rows=max_rows, positions=positions)
            checked = check_fingerprint and model.judge.scores and model.judge.config.fingerprint is not None
            deviation = engine._compare_fingerprint() if checked else ""
        except BaseException:
            session.close()
            raise
        engine.remark = " ".join(filter(None, (model.remark, deviation, engine.remark)))
        return engine

    def close(self) -> None:
        """Free the model and its memory."""
        super().close()
        self._session.close()


class LlamaCppBackbone:
    """A `Writer` on sequences. The memory that its methods are given is not used: the sequences are theirs."""

    def __init__(self, sequences: Sequences, shape: KVShape) -> None:
        self._sequences, self.shape = sequences, shape

    def decode(self, plan: DecodePlan, kv: Any) -> tuple[Tensor, Tensor]:
        """See `Writer.decode`."""
        return self._sequences.decode(plan.tokens, plan.positions)

    def write(
        self, plan: DecodePlan, kv: Any, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """See `Writer.write`."""
        logits, features = self.decode(plan, kv)
        return *draw_next(logits, plan, settings, uniform, seen), features

    def read(
        self, ids: Sequence[int], kv: Any, features_at: Sequence[int], *, start: int = 0, logprobs: bool = False
    ) -> tuple[Tensor, list[float]]:
        """See `Writer.read`."""
        features: list[Tensor] = []
        found: list[float] = []
        for begin in range(start, len(ids), READ):
            part, following = ids[begin : begin + READ], ids[begin + 1 : begin + 1 + READ]
            logits, states = self._sequences.read(part, begin, logprobs)
            features.append(states[[p - begin for p in features_at if begin <= p < begin + len(part)]].clone())
            if logprobs:
                logits = logits[: len(following)]  # nothing follows the last one
                chosen = logits.gather(1, torch.tensor(following).unsqueeze(1)).squeeze(1)
                found += (chosen - logits.logsumexp(-1)).tolist()
        return torch.cat(features), found

    def score(self, head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """See `Writer.score`."""
        return head_logits(head, features, rows)


def _layer(model: Metadata) -> int:
    """The index of the hidden states that the head reads. Raises where llama.cpp has no node of them."""
    layers = int(model.model_config.get_text_config().num_hidden_layers)
    index = model.judge.config.layer_index(layers)
    if not 0 < index < layers:
        raise EngineError(
            f"the head of {model.name!r} reads hidden states {model.judge.config.layer}, and llama.cpp hands out those "
            "between two layers alone. Use the engine torch."
        )
    return index


def _kv_shape(config: Any) -> KVShape:
    """What a position costs in llama.cpp, which keeps keys and values in 16 bits."""
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    groups = int(getattr(text, "num_key_value_heads", None) or heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    return KVShape(int(text.num_hidden_layers), groups, size, torch.float16, torch.device("cpu"))
