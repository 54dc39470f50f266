"""The completions API as our engines use it: requests out, streamed tokens in, and what to make of what is wrong.

Pure functions on JSON and text, so that every kind of bad server can be tested without one. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from reflective.engines.base import Sampling
from reflective.engines.sampled_token import SampledToken
from reflective.engines.vllm.slots import Slots
from reflective.errors import EngineError, InputError

DATA, DONE = "data:", "[DONE]"
TOKEN: Final = "token_id:"  # how vLLM writes an id where the API has a text
RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_MESSAGE: Final = 200  # characters of a server's words in an error
GIVEN_UP: Final = frozenset({"abort", "error"})  # finish reasons of a server that stops: another one may go on


class Garbage(Exception):
    """What an endpoint sent is no answer of this API: another endpoint, or another try, may do better."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of a stream; `end` is the server's finish reason, `prompt_ids` come with the first one."""

    sampled: tuple[SampledToken, ...]
    end: str | None = None
    prompt_ids: tuple[int, ...] | None = None


def base_url(address: str) -> str:
    """An endpoint's address as `http://host:8000/v1`. Raises `InputError` for anything else, passwords included."""
    parts = urlsplit(address.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{shown(address)!r} is no endpoint; give an address such as http://localhost:8000/v1.")
    if "@" in parts.netloc:
        raise InputError(
            f"the address of {shown(address)!r} holds a user name or password, which others would see. "
            "Put the server's key into REFLECTIVE_API_KEY instead."
        )
    path = parts.path.rstrip("/")
    return parts._replace(path=path or "/v1", query="", fragment="").geturl()


def shown(address: str) -> str:
    """An address without what may be secret in it: for messages."""
    parts = urlsplit(address.strip())
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def completion_request(
    model: str,
    prompt: Sequence[int] | str,
    sampling: Sampling,
    *,
    seed: int,
    max_tokens: int,
    stop_ids: Sequence[int],
    slots: Slots | None,
    stream_interval: int,
    prompt_ids: bool = False,
    schema: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of one request: every token comes with its id, its value and those of the slots.

    With `prompt_ids` the prompt's tokens come back, too, which is long where the prompt is. With a `schema` what is
    written is JSON of it.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "stream": True,
        "max_tokens": max_tokens,
        **asdict(sampling),
        "seed": seed,
        "stop_token_ids": list(stop_ids),
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "logprobs": 1,
        "return_token_ids": prompt_ids,
        "return_tokens_as_token_ids": True,
        "stream_interval": stream_interval,
    }
    if slots is not None:
        body["logprob_token_ids"] = list(slots.ids)
    if schema is not None:
        body["structured_outputs"] = {"json": schema}
    return body


def read_line(line: str, slots: Slots | None) -> Chunk | None:
    """One line of a stream; None for what carries no tokens. Raises `Garbage`, and `EngineError` for refusals."""
    data = event_of(line)
    if data is None:
        return None
    choices = data.get("choices")
    if choices is None and isinstance(data.get("usage"), dict):
        return None
    if not isinstance(choices, list):
        raise Garbage(f"an event without choices: {line[:60]!r}")
    if not choices:  # a usage report
        return None
    return _chunk(choices[0], slots)


def event_of(line: str) -> dict[str, Any] | None:
    """The object in a line of a stream; None for a comment, a keep-alive, or the end. Raises `Garbage`."""
    line = line.strip()
    if not line or line.startswith((":", "event:", "id:", "retry:")):
        return None
    if not line.startswith(DATA):
        raise Garbage(f"a line that is no event: {line[:60]!r}")
    payload = line.removeprefix(DATA).strip()
    if payload in ("", DONE):  # a keep-alive, or the end
        return None
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        raise Garbage(f"an event that is no JSON: {payload[:60]!r}") from None
    if not isinstance(data, dict):
        raise Garbage(f"an event without choices: {payload[:60]!r}")
    if data.get("error"):
        raise Garbage(f"an error in the stream: {message(data)}")
    return data


def _chunk(choice: Any, slots: Slots | None) -> Chunk | None:
    """The tokens of a choice. One without text needs none: servers open and close streams with such."""
    if not isinstance(choice, dict):
        raise Garbage("a choice that is no object")
    logprobs = choice.get("logprobs")
    end, prompt = choice.get("finish_reason"), choice.get("prompt_token_ids")
    if end == "":  # not finished, as some servers write it
        end = None
    tokens = choice.get("token_ids")
    if tokens is None and choice.get("text", "?") in ("", None):
        named = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        tokens = None if named else []
    if tokens == [] and end is None and prompt is None:
        return None
    if tokens is None and isinstance(logprobs, dict):
        tokens = [_token_id(text) for text in _list(logprobs, "tokens")]
    if not isinstance(tokens, list) or not all(map(_is_id, tokens)):
        raise EngineError(
            "the endpoint sends no token ids, so steps can't be found: it speaks another API than vLLM's completions. "
            "Serve the model with vLLM 0.32 or newer."
        )
    if prompt is not None and not (isinstance(prompt, list) and all(map(_is_id, prompt))):
        raise Garbage("prompt ids that are none")
    if end is not None and not isinstance(end, str):
        raise Garbage(f"a finish reason that is none: {end!r:.40}")
    sampled: tuple[SampledToken, ...] = ()
    if tokens:
        if not isinstance(logprobs, dict):
            raise EngineError(
                "the endpoint sends tokens without log-probabilities. Serve without --max-logprobs 0, "
                "and with vLLM's completions API."
            )
        values, tops = _list(logprobs, "token_logprobs"), _list(logprobs, "top_logprobs")
        if len(values) != len(tokens) or len(tops) != len(tokens):
            raise Garbage(f"{len(tokens)} tokens with {len(values)} log-probabilities")
        names = () if slots is None else tuple(f"{TOKEN}{slot}" for slot in slots.ids)
        sampled = tuple(_sampled(*entry, names) for entry in zip(tokens, values, tops, strict=True))
    return Chunk(sampled, end, None if prompt is None else tuple(prompt))


def _sampled(token: int, value: Any, top: Any, names: tuple[str, ...]) -> SampledToken:
    if not is_number(value):
        raise Garbage(f"a log-probability that is none: {value!r:.40}")
    values: list[Any] = [top.get(name) for name in names] if isinstance(top, dict) else []
    slots = tuple(map(float, values)) if all(map(is_number, values)) else ()
    return SampledToken(token, float(value), slots)


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise Garbage(f"logprobs without {key}")
    return value


def _token_id(text: Any) -> int | None:
    if isinstance(text, str) and text.startswith(TOKEN) and text[len(TOKEN) :].isdecimal():
        return int(text[len(TOKEN) :])
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def said(text: object) -> str:
    """A server's words in one short line, without what a terminal would obey."""
    words = " ".join(str(text)[: 8 * LONGEST_MESSAGE].split())
    return "".join(c if c.isprintable() else "?" for c in words)[:LONGEST_MESSAGE]


def message(data: Any) -> str:
    """What a server says of an error, in one short line."""
    for key in ("error", "message", "detail"):
        if isinstance(data, dict) and key in data:
            data = data[key]
    if isinstance(data, dict):
        data = data.get("message", data)
    return said(data)


def refusal(status: int, text: str, where: str) -> EngineError:
    """The error for a status that no other try will change."""
    try:
        words = message(json.loads(text))
    except (ValueError, RecursionError):
        words = said(text)
    if 300 <= status < 400:
        return EngineError(
            f"{where} sends clients elsewhere (HTTP {status}), where the API key must not follow. "
            "Give the address at which the server answers itself."
        )
    if status in (401, 403):
        return EngineError(f"{where} refuses the API key (HTTP {status}). Set REFLECTIVE_API_KEY to the right one.")
    if status in (404, 405, 501):
        return EngineError(
            f"{where} does not speak the completions API (HTTP {status}: {words}). "
            "Give the address of a vLLM server, such as http://localhost:8000/v1."
        )
    return EngineError(f"{where} refused a request (HTTP {status}): {words}")
