"""Who may ask, and how much: API keys from a file or the environment, each with limits of its own.

The file is TOML, a table for each key:

    [alice]
    key = "sk-…"
    requests_per_minute = 60
    tokens_per_minute = 100000
    highest_effort = 8

REFLECTIVE_SERVER_KEYS holds keys without limits, with commas between them. Keys are compared in constant time, and
known by their digests alone once they are read.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reflective.errors import InputError
from reflective.serve.faults import Fault
from reflective.settings import at_least, make_settings, read_toml

VARIABLE = "REFLECTIVE_SERVER_KEYS"
SHORTEST_KEY = 8
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A table of the file."""

    key: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    highest_effort: int | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "requests_per_minute", "tokens_per_minute", "highest_effort")


class Bucket:
    """So much a minute; unused, it fills up to one minute's worth. What is taken may go below zero once."""

    def __init__(self, a_minute: int | None) -> None:
        self._most = a_minute
        self._left = float(a_minute or 0)
        self._at = time.monotonic()

    def wait_s(self) -> float:
        """Seconds until something may be taken again; 0 where that is now."""
        if self._most is None:
            return 0.0
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * self._most / MINUTE_S, self._most)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) * MINUTE_S / self._most

    def take(self, amount: int) -> None:
        """Take what was used."""
        self._left -= amount


@dataclass(slots=True)
class Key:
    """A key that the server knows."""

    name: str
    digest: bytes
    highest_effort: int | None = None
    requests: Bucket = field(default_factory=lambda: Bucket(None))
    tokens: Bucket = field(default_factory=lambda: Bucket(None))

    def check(self) -> None:
        """Raise `Fault` where the key's limits are reached."""
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if (wait := bucket.wait_s()) > 0:
                seconds = math.ceil(wait)
                raise Fault(
                    429,
                    f"The limit of {what} a minute of this key is reached. Try again in {seconds} seconds.",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": str(seconds)},
                )


def read_keys(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Key, ...]:
    """The keys of the file and of the environment. Raises `InputError`."""
    entries: dict[str, KeyEntry] = {}
    if path is not None:
        for name, table in read_toml(Path(path).expanduser(), "the keys").items():
            if not isinstance(table, dict):
                raise InputError(f'{str(path)!r}: {name!r} is no table. Write [NAME] and below it key = "…".')
            entries[name] = make_settings(KeyEntry, table, f"{name}.")
    given = [key.strip() for key in environment.get(VARIABLE, "").split(",") if key.strip()]
    entries |= {f"environment-{i}": KeyEntry(key) for i, key in enumerate(given, 1)}
    for name, entry in entries.items():
        if len(entry.key) < SHORTEST_KEY:
            raise InputError(f"the key {name!r} has {len(entry.key)} characters; it must have {SHORTEST_KEY} or more.")
    return tuple(
        Key(
            name,
            _digest(entry.key.encode("utf-8", "surrogateescape")),
            entry.highest_effort,
            Bucket(entry.requests_per_minute),
            Bucket(entry.tokens_per_minute),
        )
        for name, entry in entries.items()
    )


def find_key(keys: Sequence[Key], authorization: str | None) -> Key:
    """The key that a client sent. Raises `Fault`."""
    scheme, _, sent = (authorization or "").partition(" ")
    digest = _digest(sent.strip(" \t").encode("latin-1", "backslashreplace"))  # the bytes that came
    found = None
    for key in keys:  # all of them, whichever it is: how long it takes says nothing
        if hmac.compare_digest(key.digest, digest):
            found = key
    if found is None or scheme.lower() != "bearer":
        what = "Incorrect API key." if authorization else "An API key is needed: Authorization: Bearer KEY."
        raise Fault(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
