"""Who asks: the client's name and key, and what the log line of the request is to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reflective.serve.keys import Key


@dataclass(frozen=True, slots=True)
class Visitor:
    """A client with one request."""

    client: str
    key: Key | None = None
    log: dict[str, Any] = field(default_factory=dict)

    def pay(self, tokens: int) -> None:
        """Count tokens on the key."""
        if self.key is not None:
            self.key.tokens.take(tokens)
