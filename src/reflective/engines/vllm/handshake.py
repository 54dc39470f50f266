"""The handshake: before a served model is used, it proves that its step scores arrive and are right.

A fixed prompt is continued greedily, and the slots are read at every token. Scores must be there, in range, and not
all the same. Where the weights lie beside the head and are small, the same positions are computed here, by Hugging
Face, and compared; so a server with another model, layer or head is found out before it ranks anything. With larger
models, scores are only compared between endpoints.

Letters: T positions of prompt and continuation, n tokens of the continuation, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from reflective.engines.sampled_token import SampledToken
from reflective.engines.vllm.slots import read_logit
from reflective.errors import EngineError
from reflective.models.metadata import Metadata

PROBLEM: Final = "What is 12 * 17 + 5?"
TOKENS: Final = 12  # of the continuation
LARGEST_COMPARED: Final = 256 * 2**20  # bytes of weights that are loaded for a comparison
TOLERANCE: Final = 0.25  # between medians of logits: bf16 noise is some hundredths, another model's some tenths


def scores_arrive(sampled: Sequence[SampledToken], *, where: str) -> list[float]:
    """The head's logits at the n tokens. Raises `EngineError` where they are missing or can't be right."""
    if not sampled:
        raise EngineError(f"{where} wrote nothing in answer to the handshake.")
    if any(len(one.slots) < 2 for one in sampled):
        raise EngineError(
            f"{where} returns no log-probabilities of chosen tokens (logprob_token_ids): step scores can't arrive. "
            "It needs vLLM 0.32 or newer."
        )
    try:
        logits = [read_logit(*one.slots[:2]) for one in sampled]
    except EngineError as error:
        raise EngineError(f"{where}: {error}") from None
    if len(sampled) > 1 and max(logits) == min(logits):
        raise EngineError(f"{where} gives the same score {logits[0]:.4g} at every token: its head is not the model's.")
    return logits


def scores_are_right(
    model: Metadata, prompt_ids: Sequence[int], sampled: Sequence[SampledToken], logits: Sequence[float], *, where: str
) -> bool:
    """Compare with the logits that the checkpoint gives; False where it is too large to tell.

    Raises `EngineError` when they differ by more than rounding.
    """
    if not is_small(model.folder):
        return False
    expected = expected_logits(model, prompt_ids, [one.token for one in sampled])
    compare(logits, expected, where=where, other=f"the checkpoint {model.name!r}")
    return True


def compare(logits: Sequence[float], expected: Sequence[float], *, where: str, other: str) -> None:
    """Raise `EngineError` unless two readings of the same positions agree."""
    count = min(len(logits), len(expected))
    off = median(abs(a - b) for a, b in zip(logits[:count], expected[:count], strict=True)) if count else 0.0
    if off > TOLERANCE:
        raise EngineError(
            f"{where} gives step scores that differ from those of {other} (logits by {off:.2f} on the handshake's "
            "prompt): it serves another model or head. Give the same folder to both."
        )


def expected_logits(model: Metadata, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
    """MLP(h) at the positions that the tokens were drawn from, by one float32 forward of Hugging Face."""
    import torch

    from reflective.models import load_checkpoint

    checkpoint = load_checkpoint(model.folder, device="cpu", dtype="float32", require_head=False)
    head, layer = model.judge.head, model.judge.config.layer
    assert head is not None  # scores were asked for because there is a head
    ids = torch.tensor([[*prompt_ids, *token_ids]])  # (1, T)
    with torch.inference_mode():
        states = checkpoint.model(ids, output_hidden_states=True).hidden_states[layer][0]  # (T, H)
        features = states[len(prompt_ids) - 1 : -1]  # (n, H)
        logits: list[float] = head.mlp(features).tolist()
    return logits


def is_small(folder: Path) -> bool:
    """Whether the weights lie there and can be loaded beside the server's without harm."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return bool(sizes) and sum(sizes) <= LARGEST_COMPARED
