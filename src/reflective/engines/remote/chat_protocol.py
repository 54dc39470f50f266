"""Chat completions, as servers other than vLLM implement them: recognising the server, requests out, pieces in.

llama.cpp's server, Ollama, LM Studio and SGLang take messages and stream text: no token ids, no step scores, and
log-probabilities with some of them. A piece is what one token adds to the text; reasoning that the server has taken
out of the text comes in a field of its own. Pure functions on JSON and text, like `protocol`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reflective.engines.base import Request
from reflective.engines.remote.protocol import Garbage, event_of, is_number

OURS: Final = "another reflective"
SERVERS: Final[Mapping[str, str]] = {  # by what their lists of models say of the owner
    "llamacpp": "llama.cpp's server",
    "me": "llama-cpp-python's server",
    "library": "Ollama",
    "organization_owner": "LM Studio",
    "sglang": "SGLang",
    "reflective": OURS,
}
REASONING: Final = ("reasoning_content", "reasoning")  # fields of a delta, as servers name them
LARGEST_SEED: Final = 2**31


@dataclass(frozen=True, slots=True)
class Piece:
    """What a token adds to the response; `logprob` where the server tells it."""

    text: str
    reasoning: bool = False
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New pieces of a stream; `end` is the server's finish reason."""

    pieces: tuple[Piece, ...]
    end: str | None = None


def server_of(models: str) -> str | None:
    """Which server a list of models comes from; None for vLLM, and for anything that is not such a list."""
    try:
        entries = json.loads(models)["data"]
        owners = {str(entry["owned_by"]) for entry in entries}
        lengths = [entry.get("max_model_len") for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    known = next((name for owner, name in SERVERS.items() if owner in owners), None)
    if known is not None or not owners or "vllm" in owners or any(lengths):
        return known
    return "a server of the chat completions API"


def chat_request(
    model: str, messages: Sequence[Mapping[str, str]], request: Request, *, server: str, logprobs: bool
) -> dict[str, Any]:
    """The body of one request. Settings that are off are left out: not every server knows every setting, and ours
    refuses what it does not know."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [dict(message) for message in messages],
        "stream": True,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed % LARGEST_SEED,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1.0:
        body["repetition_penalty"] = sampling.repetition_penalty  # the name in SGLang and here
        if server != OURS:
            body["repeat_penalty"] = sampling.repetition_penalty  # that in llama.cpp and LM Studio
    if logprobs:
        body["logprobs"] = True
    return body


def read_delta(line: str) -> Delta | None:
    """One line of a stream; None for what carries nothing. Raises `Garbage`."""
    data = event_of(line)
    if data is None:
        return None
    choices = data.get("choices")
    if not choices and (choices == [] or data.get("usage")):  # a usage report
        return None
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        raise Garbage(f"an event without choices: {line[:60]!r}")
    end, delta = choice.get("finish_reason") or None, choice.get("delta") or {}  # "" is not finished, as some write it
    if not isinstance(delta, dict) or not isinstance(end, str | None):
        raise Garbage("a choice that is none")
    pieces = [Piece(text, reasoning=True) for text in [_text(delta, *REASONING)] if text]
    if text := _text(delta, "content"):
        pieces.append(Piece(text))
    scored = _with_logprobs(pieces, choice.get("logprobs"))
    return Delta(scored, end) if scored or end is not None else None


def _text(delta: Mapping[str, Any], *names: str) -> str:
    value = next((delta[name] for name in names if delta.get(name)), "")
    if not isinstance(value, str):
        raise Garbage(f"a text that is none: {value!r:.40}")
    return value


def _with_logprobs(pieces: list[Piece], logprobs: Any) -> tuple[Piece, ...]:
    """A piece per token where the server lists tokens; the text is the delta's, since a token may be half a character.

    Reasoning and answer in one event share the tokens: which is whose is not said, so all count for the first.
    """
    listed = logprobs.get("content") if isinstance(logprobs, dict) else None
    values: list[Any] = [entry.get("logprob") for entry in listed or () if isinstance(entry, dict)]
    if not values or not all(map(is_number, values)):
        return tuple(pieces)
    first, *others = pieces or [Piece("")]  # the first half of a character
    scored = [Piece(first.text, first.reasoning, float(values[0]))]
    scored += [Piece("", first.reasoning, float(value)) for value in values[1:]]
    return (*scored, *others)
