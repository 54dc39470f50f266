"""Errors as OpenAI's error object, with the right status; nothing of the inside of the server in any of them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from reflective.errors import CheckpointError, ContextError, InputError, ReflectiveError

BRANCH = re.compile(r"str|int|float|bool|constrained-.*|(list|dict)\[.*")  # of a union, in pydantic's paths
LONGEST_NAME = 200  # characters of a field's name in an error, and ten times so many of what is said
FIRST = {"literal_error": 0, "extra_forbidden": 1}  # of several errors
INTERNAL = "The server failed on this request. Its log says more, under the request's id."
TOO_LONG = "context_length_exceeded"
ENGINE = "The engine failed while it wrote, and the request was given up. Try again."


class ErrorObject(BaseModel):
    """What is wrong, with which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorObject


class Fault(Exception):
    """An error that is returned to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message[: 10 * LONGEST_NAME])
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def rename(self, param: str | None) -> None:
        """Another name for the field, in the message, too."""
        if self.param and param:
            self.args = (str(self).replace(f"'{self.param}'", f"'{param}'"),)
        self.param = param

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return named.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def fault_of(error: BaseException) -> Fault:
    """The error object that a client receives."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, ContextError):
        return Fault(400, str(error), param="messages", code=TOO_LONG)
    if isinstance(error, InputError):
        return Fault(400, str(error), code="invalid_value")
    if isinstance(error, CheckpointError):
        return Fault(400, "This model has no SPRM head, so nothing can be scored.", code="unsupported")
    if isinstance(error, ReflectiveError):
        return Fault(503, ENGINE, code="engine_error", headers={"Retry-After": "5"})
    return Fault(500, INTERNAL, code="internal_error")


def invalid(errors: list[dict[str, Any]]) -> Fault:
    """The first of pydantic's errors: what, where, got. Of a union, that of the branch that went deepest.

    An object of another kind than may stand there is not asked for the fields of that kind.
    """
    error = min(errors, key=lambda e: (FIRST.get(e["type"], 2), -_depth(e)))
    path = [f"[{part}]" if isinstance(part, int) else str(part) for part in _path(error)]
    param = ".".join(path).replace(".[", "[")[:LONGEST_NAME]
    kind = error["type"]
    if kind == "json_invalid":
        return Fault(400, f"The body is not valid JSON: {error['ctx']['error']}.", code="invalid_json")
    if kind == "extra_forbidden":
        return Fault(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    if kind == "missing":
        what = f"Missing required parameter: '{param}'." if param else "The body is empty; a JSON object is needed."
        return Fault(400, what, param=param or None, code="missing_required_parameter")
    if not param and isinstance(error["input"], bytes):
        what = "The body must come with the header Content-Type: application/json."
        return Fault(400, what, code="unsupported_content_type")
    where = f"'{param}'" if param else "the body"
    return Fault(
        400,
        f"Invalid value for {where}: {error['msg'].removeprefix('Value error, ')}.",
        param=param or None,
        code="invalid_value",
    )


def _path(error: dict[str, Any]) -> list[Any]:
    return [part for part in error["loc"] if part != "body" and not BRANCH.fullmatch(str(part))]


def _depth(error: dict[str, Any]) -> int:
    return sum(isinstance(part, str) for part in _path(error))
