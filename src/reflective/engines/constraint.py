"""What a response must look like, token by token: the contract between an engine and whoever makes such constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Matcher(Protocol):
    """One response that is being held to a constraint."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (V,); never none: where the response is complete, those that end it."""

    def push(self, token: int) -> None:
        """This one came."""


class Constraint(Protocol):
    """A constraint on what a request adds; any number of responses may be held to it."""

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that it stands for, for engines that constrain elsewhere."""

    def start(self) -> Matcher:
        """Hold a response to it from its first token."""
