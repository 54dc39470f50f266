"""Drawing the next token for all rows at once, each row with its own settings and its own random stream.

Letters: B rows, V vocabulary.

A token is drawn by inverting the cumulative distribution at one uniform number per row and position. The uniforms come
from a counter-based generator keyed by the trajectory's seed, so a draw depends on nothing else in the batch.
The order of the settings is that of Hugging Face: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from reflective.engines.base import Sampling
from reflective.engines.constraint import Matcher

CONFIDENCE_TOKENS = 20  # the likeliest tokens that a confidence looks at (DeepConf, section 3.1)
CANDIDATES = 256  # the likeliest tokens, among which filters are tried first
BROKEN = -1  # stands for a token where the logits hold NaN, or no finite number at all


def uniforms(seed: int, start: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1) for tokens start..start+count of the trajectory with this seed, (count,) float32.

    Philox is counter-based: one stream per seed, the same on every machine (Salmon et al. 2011).
    """
    stream = np.random.Generator(np.random.Philox(key=seed & (2**128 - 1)))
    return torch.from_numpy(stream.random(start + count, dtype=np.float32)[start:])


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The settings of B rows as columns, with what they have in common worked out once per change of the batch."""

    temperature: Tensor  # (B, 1); 1 where greedy
    greedy: Tensor  # (B,) bool
    top_k: Tensor  # (B, 1) int64; V where off
    top_p: Tensor  # (B, 1); 2 where off
    min_p: Tensor  # (B, 1)
    penalty: Tensor  # (B, 1)
    most_k: int  # the largest top-k of those that are on
    any_greedy: bool
    all_greedy: bool
    tempered: bool
    filtered: bool
    penalized: bool

    @staticmethod
    def of(settings: list[Sampling], vocabulary: int, device: torch.device) -> SamplingRows:
        """Columns from one `Sampling` a row."""
        if settings.count(settings[0]) == len(settings):
            return _alike(settings[0], len(settings), vocabulary, device)
        return SamplingRows._of(settings, vocabulary, device)

    @staticmethod
    def _of(settings: list[Sampling], vocabulary: int, device: torch.device) -> SamplingRows:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)

        greedy = [s.temperature == 0 for s in settings]
        top_k = [min(s.top_k, vocabulary) if s.top_k else vocabulary for s in settings]
        return SamplingRows(
            temperature=column([s.temperature or 1.0 for s in settings]),
            greedy=torch.tensor(greedy, device=device),
            top_k=torch.tensor(top_k, device=device).unsqueeze(1),
            top_p=column([s.top_p if s.top_p < 1 else 2.0 for s in settings]),
            min_p=column([s.min_p for s in settings]),
            penalty=column([s.repetition_penalty for s in settings]),
            most_k=max((k for k in top_k if k < vocabulary), default=0),
            any_greedy=any(greedy),
            all_greedy=all(greedy),
            tempered=any(s.temperature not in (0.0, 1.0) for s in settings),
            filtered=any(s.top_p < 1 or s.min_p > 0 or (0 < s.top_k < vocabulary) for s in settings),
            penalized=any(s.repetition_penalty != 1.0 for s in settings),
        )


@lru_cache(maxsize=256)
def _alike(settings: Sampling, rows: int, vocabulary: int, device: torch.device) -> SamplingRows:
    """The columns of so many rows with the same settings, as nearly always: kept, since rows come and go."""
    return SamplingRows._of([settings] * rows, vocabulary, device)


def draw(logits: Tensor, rows: SamplingRows, uniform: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw a token per row.

    `logits` (B, V) of any float type, `uniform` (B,) in [0, 1), `seen` (B, V) bool marks the tokens that the
    repetition penalty punishes. Returns tokens (B,) int64, `BROKEN` where the logits are, and the model's
    log-probability of each (B,), at temperature 1 and before any setting.
    """
    logits = logits.float()
    scores = _penalize(logits, rows.penalty, seen) if rows.penalized and seen is not None else logits
    peak = scores.amax(-1, keepdim=True)  # (B, V) -> (B, 1)
    if rows.all_greedy:
        tokens = scores.argmax(-1)
        logprob = logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
        return torch.where(peak.squeeze(1).isfinite(), tokens, BROKEN), logprob
    shifted = scores - peak
    if rows.tempered:
        shifted = shifted / rows.temperature
    weights = shifted.exp_()  # unnormalised probabilities, the largest is 1
    if rows.filtered:
        weights = _filter(weights, rows)
    cumulative = weights.cumsum(-1)  # float32, accumulated in float64 by torch's CPU kernel
    total = cumulative[:, -1]  # (B,)
    # the first token whose cumulative weight exceeds u · total: one of weight 0 can't be it
    point = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, point.unsqueeze(1), right=True).squeeze(1)
    if rows.any_greedy:
        tokens = torch.where(rows.greedy, scores.argmax(-1), tokens)
    tokens = tokens.clamp_(max=logits.shape[1] - 1)
    chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
    if rows.tempered or rows.filtered or rows.penalized:
        logprob = chosen - logits.logsumexp(-1)
    else:
        logprob = chosen - peak.squeeze(1) - total.log()
    return torch.where(total.isfinite() & (total > 0), tokens, BROKEN), logprob


def constrain(logits: Tensor, matchers: Sequence[Matcher | None]) -> Tensor:
    """The logits (B, V) with those of tokens that a row's matcher does not allow at -inf; rows without one as they
    are."""
    if not any(matcher is not None for matcher in matchers):
        return logits
    logits = logits.clone()
    for row, matcher in zip(logits, matchers, strict=True):
        if matcher is not None:
            row.masked_fill_(~torch.from_numpy(matcher.allowed()).to(row.device), -math.inf)
    return logits


def draw_tokens(
    logits: Tensor, rows: SamplingRows, uniform: Tensor, seen: Tensor | None = None
) -> tuple[list[int], list[float]]:
    """`draw`, brought to the CPU: the one wait for the device in a step, for tokens and log-probabilities together."""
    tokens, logprobs = draw(logits, rows, uniform, seen)
    both = torch.stack([tokens.double(), logprobs.double()]).tolist()
    return [int(token) for token in both[0]], both[1]


def certainty_and_confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Self-certainty and confidence of each row, (B,) each, of the model's own distribution p, in nats.

    KL(uniform || p) = -(1/V) Σ_j log(V p_j) (arXiv 2502.18581) and -mean of the 20 largest log p_j (arXiv 2508.15260).
    """
    logprobs = logits.float().log_softmax(-1)  # (B, V)
    vocabulary = logits.shape[-1]
    certainty = -logprobs.mean(-1) - math.log(vocabulary)
    return certainty, -logprobs.topk(min(CONFIDENCE_TOKENS, vocabulary), -1).values.mean(-1)


def _penalize(logits: Tensor, penalty: Tensor, seen: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar et al. 2019, section 4.1)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _filter(weights: Tensor, rows: SamplingRows) -> Tensor:
    """Set to 0 what top-k, top-p and min-p leave out; each works on what the one before left. (B, V) -> (B, V).

    Sorting a vocabulary takes a CPU longer than all else in a step, so the likeliest tokens are looked at first: where
    the last of them is left out, so is every token behind it.
    """
    vocabulary = weights.shape[1]
    limited = rows.top_k < vocabulary  # (B, 1)
    free = ~limited & (rows.top_p > 1) & (rows.min_p == 0)  # (B, 1): rows without a filter
    count = max(CANDIDATES, rows.most_k + 1) if weights.device.type == "cpu" else vocabulary
    while True:
        count = min(count, vocabulary)
        kept, ids, whole = _kept(weights, rows, limited, count)
        if count == vocabulary or bool((whole | free).all()):
            return torch.where(free, weights, torch.zeros_like(weights).scatter_(1, ids, kept))
        count *= 16


def _kept(weights: Tensor, rows: SamplingRows, limited: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the filters leave of the `count` likeliest tokens (B, count), their ids, and whether that is all (B, 1)."""
    if count == weights.shape[1]:
        ordered, ids = torch.sort(weights, dim=-1, descending=True, stable=True)
    else:
        ids = weights.topk(count, dim=-1, sorted=False).indices.sort(-1).values  # of equal ones, the lower id is first
        ordered, order = torch.sort(weights.gather(1, ids), dim=-1, descending=True, stable=True)
        ids = ids.gather(1, order)
    # ties with the k-th stay in, as in Hugging Face
    kth = ordered.gather(1, rows.top_k.clamp(max=count) - 1)
    after_top_k = torch.where(limited & (ordered < kth), 0.0, ordered)
    # top-p: the smallest head of the ranking whose mass reaches p; the first always stays
    mass = after_top_k.cumsum(-1)
    total = torch.where(limited, mass[:, -1:], weights.sum(-1, keepdim=True, dtype=torch.float64).to(weights.dtype))
    before = (mass - after_top_k) / total
    rank = torch.arange(count, device=weights.device)
    kept = torch.where((before >= rows.top_p) & (rank > 0), 0.0, after_top_k)
    # min-p: at least that share of the largest probability
    kept = torch.where(kept < rows.min_p * kept[:, :1], 0.0, kept)
    # of tokens as likely as the last one, others may have lower ids
    tied = ((kept == ordered[:, -1:]) & (kept > 0)).any(-1, keepdim=True)
    return kept, ids, ~tied & (~limited | (after_top_k[:, -1:] == 0))
