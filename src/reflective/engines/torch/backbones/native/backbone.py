"""The compiled step as a backbone.

Letters: B rows, C columns, F numbers of the features (H a layer), H hidden size, Q query heads, G KV heads, D head
size, I intermediate size, T positions, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import addressof, byref, c_double, c_int32, c_int64
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import Tensor

from reflective.engines.torch.backbones.base import DecodePlan, draw_next, head_logits
from reflective.engines.torch.backbones.decoder import Decoder, LayerWeights
from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.engines.torch.backbones.native.binding import (
    CHUNK,
    HEAD_SIZE_MULTIPLE,
    MATRICES,
    MAX_BLOCK,
    MAX_HEAD_SIZE,
    MIN_BLOCK,
    PANEL,
    PREPARED,
    VECTORS,
    Columns,
    Draw,
    Head,
    Layer,
    MatrixPointer,
    Memory,
    Model,
    Work,
    library,
)
from reflective.engines.torch.kv import KVMemory, KVShape
from reflective.engines.torch.matrix import Matrix
from reflective.engines.torch.sampling import SamplingRows
from reflective.judge.heads import StepHead
from reflective.judge.heads.paper import SPRMHead

if TYPE_CHECKING:
    _Integers = ctypes.Array[c_int64]

PREFILL_COLUMNS = 64  # positions of a prompt in one pass: what the second-level cache holds


def obstacle(shape: KVShape) -> str | None:
    """Why the compiled step can't run a decoder with such keys and values; None where it can."""
    if library() is None:
        return "the compiled step is not built here; install a C compiler, then reflective again"
    size = shape.head_size
    if size > MAX_HEAD_SIZE or size % HEAD_SIZE_MULTIPLE:
        return f"its heads have {size} numbers, and the compiled step knows multiples of {HEAD_SIZE_MULTIPLE}"
    if shape.dtype != torch.float32 or shape.device.type != "cpu":
        return "on this device the compiled step knows dense weights in float32 alone"
    return None


class NativeBackbone:
    """A `Backbone` that prefills and decodes by `decode.c`, and draws where no row asks for more than a temperature.

    Dense weights are read for `score` by the Hugging Face model (`reader`), others by the compiled pass, too.
    """

    def __init__(self, decoder: Decoder, feature_layers: Sequence[int], reader: HFBackbone | None = None) -> None:
        found = library()
        assert found is not None, "obstacle() was not asked"
        self.reader, self.decoder, self.shape = reader, decoder, decoder.shape
        self.read = reader.read if reader is not None else self._read
        self._library = found
        # tensors whose memory the structs point into
        self._held: list[Tensor] = []
        layers = (Layer * self.shape.layers)(*[self._layer(layer) for layer in decoder.layers])
        self._vocabulary, self._hidden = decoder.lm_head.shape
        self._layers = (c_int32 * len(feature_layers))(*feature_layers)  # held here: the struct only points
        self._width = len(feature_layers) * self._hidden  # F
        self._model = Model(
            layers,
            self._point(decoder.final_norm),
            self._matrix(decoder.embedding),
            self._matrix(decoder.lm_head),
            addressof(self._layers),
            self.shape.layers,
            self._hidden,
            decoder.intermediate,
            decoder.query_heads,
            self.shape.heads,
            self.shape.head_size,
            self._vocabulary,
            len(feature_layers),
            decoder.eps,
        )
        self._buffers: dict[str, Tensor] = {}
        self._work = Work()
        self._memory = Memory()
        self._memory_of: ref[KVMemory] | None = None
        self._prepared = (0, 0, 0, 0)
        self._head = Head()
        self._head_of: SPRMHead | None = None  # the head that was used last
        self._parts = torch.empty(0)
        self._counted = _integers(())
        self._common_of: Sequence[tuple[int, int]] | None = None
        self._commons = _integers(()), _integers(())  # of `_common_of`
        self._inverse_of: SamplingRows | None = None
        self._inverse = torch.empty(0)  # 1 / temperature of each column, of `_inverse_of`

    def _point(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, matrix: Matrix) -> MatrixPointer:
        self._held += [matrix.data] if matrix.scale is None else [matrix.data, matrix.scale]
        return MatrixPointer.of(matrix)

    def _layer(self, layer: LayerWeights) -> Layer:
        vectors = (self._point(getattr(layer, name)) for name in VECTORS)
        return Layer(*vectors, *(self._matrix(getattr(layer, name)) for name in MATRICES))

    def refresh(self) -> None:
        """See `Backbone.refresh`; of the head, the bias is held by value."""
        self.decoder.refresh()
        self._head_of = None

    # ---- memory

    def _prepare(self, kv: KVMemory, columns: int, logits: int) -> None:
        """Point at the KV memory, and make room for so many columns, with logits for so many of them."""
        if self._memory_of is None or self._memory_of() is not kv:
            cosine, sine = self.decoder.angles(kv.length)
            pointers = (kv.data.data_ptr(), cosine.data_ptr(), sine.data_ptr())
            self._memory = Memory(*pointers, kv.rows, kv.length, kv.data.dtype == torch.bfloat16)
            self._memory_of = ref(kv)
        inner, drawn, threads = -(-columns // PANEL) * PANEL, -(-logits // PANEL) * PANEL, torch.get_num_threads()
        if self._prepared == (inner, drawn, threads, kv.length):
            return
        chunks = -(-self._vocabulary // CHUNK)
        # a piece of a product, or of the attention: see PIECE, MOST_PIECES and HEADS_AT_ONCE in decode.c
        rows = 64 + PANEL + max(self._vocabulary, self.decoder.intermediate) // 1024
        group = self.decoder.query_heads // self.shape.heads * self.shape.head_size
        piece = max(rows * max(inner, drawn), max(4, -(-inner * self.shape.heads // 2048)) * group)
        heads = self.decoder.query_heads * self.shape.head_size
        room = {
            "x": inner * self._hidden,
            "qkv": inner * (heads + 2 * self.shape.heads * self.shape.head_size),
            "attended": inner * heads,
            "inner": inner * self.decoder.intermediate,
            "logits": drawn * self._vocabulary,
            "features": inner * self._width,
            "normed": threads * inner * self._hidden,
            "scores": threads * kv.length,
            "peaks": drawn * chunks,
            "weights": drawn * chunks,
            "plain": drawn * chunks,
            "scratch": threads * piece,
        }
        if self.decoder.packed:  # columns in whole blocks; a code takes 4 bytes at most
            widest = -(-max(heads, self._hidden, self.decoder.intermediate) // MAX_BLOCK) * MAX_BLOCK
            blocks = inner * widest // MIN_BLOCK
            room |= dict(zip(PREPARED, (inner * widest, blocks, blocks), strict=True))
        for name, size in room.items():
            held = self._buffers.get(name)
            if held is None or held.numel() < size:
                self._buffers[name] = held = torch.zeros(size)
                target = self._work.prepared if name in PREPARED else self._work
                setattr(target, name, held.data_ptr())
        self._work.normed_size, self._work.scratch_size = inner * self._hidden, piece
        self._work.threads = threads
        self._prepared = (inner, drawn, threads, kv.length)

    def _run(self, columns: Columns, draw: Draw | None = None) -> None:
        self._library.reflective_forward(
            byref(self._model),
            byref(self._memory),
            byref(columns),
            byref(self._work),
            None if draw is None else byref(draw),
        )

    # ---- the three ways to use it

    def prefill(self, ids: Sequence[int], kv: KVMemory, row: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """See `Backbone.prefill`."""
        for begin in range(start, len(ids), PREFILL_COLUMNS):
            last = begin + PREFILL_COLUMNS >= len(ids)
            count = self._chunk(ids, begin, kv, row, panels=1 if last else 0)
        logits = self._buffers["logits"][: self._vocabulary * PANEL].view(self._vocabulary, PANEL)
        return logits[:, (count - 1) % PANEL].clone(), self._caught(count)[-1].clone()

    def _read(
        self, ids: Sequence[int], kv: KVMemory, features_at: Sequence[int], *, start: int = 0, logprobs: bool = False
    ) -> tuple[Tensor, list[float]]:
        """See `Backbone.read`."""
        features: list[Tensor] = []
        found: list[float] = []
        for begin in range(start, len(ids), PREFILL_COLUMNS):
            count = self._chunk(ids, begin, kv, 0, panels=PREFILL_COLUMNS // PANEL if logprobs else 0)
            here = [p - begin for p in features_at if begin <= p < begin + count]
            features.append(self._caught(count)[here])
            if logprobs:
                following = torch.tensor(ids[begin + 1 : begin + 1 + count])  # (M,); nothing follows the last one
                logits = self._logits(count)[: len(following)]  # (M, V)
                chosen = logits.gather(1, following.unsqueeze(1)).squeeze(1)
                found += (chosen - logits.logsumexp(-1)).tolist()
        return torch.cat(features), found

    def all_logits(self, ids: Sequence[int], kv: KVMemory) -> Tensor:
        """The logits (T, V) of a text, whose keys and values go to row 0."""
        panels, parts = PREFILL_COLUMNS // PANEL, range(0, len(ids), PREFILL_COLUMNS)
        return torch.cat([self._logits(self._chunk(ids, begin, kv, 0, panels)) for begin in parts])

    def _chunk(self, ids: Sequence[int], begin: int, kv: KVMemory, row: int, panels: int) -> int:
        """One pass over positions of a row from `begin` on, with logits for the last `panels` panels; how many."""
        chunk = ids[begin : begin + PREFILL_COLUMNS]
        count = len(chunk)
        all_panels = -(-count // PANEL)
        self._prepare(kv, count, max(panels, 1) * PANEL)
        tokens, rows, positions = _integers(chunk), _integers([row] * count), _integers(range(begin, begin + count))
        wanted = max(all_panels - panels, 0)
        self._run(_columns(tokens, rows, positions, shared_rows=True, logits_from=wanted))
        return count

    def _logits(self, count: int) -> Tensor:
        """The logits (count, V) of the last pass, where it computed them for all of its columns."""
        panels = -(-count // PANEL)
        logits = self._buffers["logits"][: panels * PANEL * self._vocabulary].view(panels, self._vocabulary, PANEL)
        return logits.transpose(1, 2).reshape(-1, self._vocabulary)[:count]

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """See `Backbone.decode`."""
        count = len(plan.tokens)
        self._prepare(kv, count, count)
        tokens, rows, positions = _integers(plan.tokens), self._rows(count), _integers(plan.positions)
        self._run(_columns(tokens, rows, positions, *self._common(plan)))
        return self._logits(count), self._caught(count)

    def write(
        self, plan: DecodePlan, kv: KVMemory, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """See `Backbone.write`; in one pass, unless a row asks for more than a temperature."""
        if settings.filtered or settings.penalized:
            logits, features = self.decode(plan, kv)
            return *draw_next(logits, plan, settings, uniform, seen), features
        count, stride = len(plan.tokens), uniform.stride(0)
        self._prepare(kv, count, count)
        tokens, rows, positions = _integers(plan.tokens), self._rows(count), _integers(plan.positions)
        places = _integers([row * stride + position + 1 for row, position in enumerate(plan.positions)])
        if self._inverse_of is not settings:
            self._inverse = torch.ones(-(-count // PANEL) * PANEL)
            torch.reciprocal(settings.temperature.squeeze(1), out=self._inverse[:count])
            self._inverse_of = settings
        drawn, logprobs = (c_int64 * count)(), (c_double * count)()
        draw = Draw(
            uniform.data_ptr(),
            self._inverse.data_ptr(),
            settings.greedy.data_ptr(),
            addressof(drawn),
            addressof(logprobs),
            addressof(places),
            settings.tempered,
        )
        self._run(_columns(tokens, rows, positions, *self._common(plan)), draw)
        return list(drawn), list(logprobs), self._caught(count)

    def score(self, head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """See `Backbone.score`."""
        if self._head_of is not head:
            if not isinstance(head, SPRMHead):
                return head_logits(head, features, rows)
            weights = (head.hidden.weight, head.hidden.bias, head.output.weight, head.output.bias)
            if any(w.dtype != torch.float32 or w.device.type != "cpu" or not w.is_contiguous() for w in weights):
                return head_logits(head, features, rows)
            pointers = [w.data_ptr() for w in weights[:3]]
            self._head = Head(*pointers, weights[3].item(), head.hidden_size, head.hidden.out_features)
            self._head_of = head
        if features.shape[1] != head.hidden_size:
            features = features[:, : head.hidden_size]  # (B, F) -> (B, H)
        count, features = len(rows), features.contiguous()  # a prompt's feature is one row, seen as several
        if self._parts.numel() < count * self._head.inner:
            self._parts = torch.empty(count * self._head.inner)
        chosen, logits = _integers(rows), (c_double * count)()
        self._library.reflective_head(
            byref(self._head),
            features.data_ptr(),
            addressof(chosen),
            count,
            self._parts.data_ptr(),
            addressof(logits),
            self._work.threads,
        )
        return list(logits)

    def _rows(self, count: int) -> _Integers:
        """0, 1, 2, …: with every step the same while nobody comes or leaves."""
        if len(self._counted) != count:
            self._counted = _integers(range(count))
        return self._counted

    def _common(self, plan: DecodePlan) -> tuple[_Integers, _Integers] | tuple[None, None]:
        """Which rows begin alike, and for how long; held, since the struct only points."""
        if not plan.common:
            return None, None
        if self._common_of is not plan.common:
            self._common_of = plan.common
            self._commons = _integers([row for row, _ in plan.common]), _integers([n for _, n in plan.common])
        return self._commons

    def _caught(self, count: int) -> Tensor:
        return self._buffers["features"][: count * self._width].view(count, self._width)


def _integers(values: Sequence[int]) -> _Integers:
    return (c_int64 * len(values))(*values)


def _columns(
    tokens: _Integers,
    rows: _Integers,
    positions: _Integers,
    common_rows: _Integers | None = None,
    common: _Integers | None = None,
    *,
    shared_rows: bool = False,
    logits_from: int = 0,
) -> Columns:
    """Points at the arrays, which must outlive it."""
    arrays = (tokens, rows, positions, common_rows, common)
    pointers = [addressof(array) if array is not None else None for array in arrays]
    return Columns(*pointers, len(tokens), shared_rows, logits_from)
