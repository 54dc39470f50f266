"""Answers in a given form: JSON, any object, of a schema or calls, by llguidance. The reasoning before them is free."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from reflective.engines.base import Engine
from reflective.errors import DependencyError
from reflective.serve.faults import Fault
from reflective.serve.schemas import ChatRequest
from reflective.serve.tools import calls_schema, must_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

OBJECT: dict[str, Any] = {"type": "object"}
MAX_SCHEMA = 100_000  # characters
MAX_COUNT = 20_000  # items that a schema may count in all: a grammar has a rule for each
REASONS = (  # llguidance's words, and ours
    (r"Unimplemented keys: \[(.*)\]", "{} can't be used here"),
    (r"Unsatisfiable schema", "no answer can satisfy it"),
    (r"Unknown format: (.*)", "the format '{}' can't be used here"),
    (r"Invalid type: (.*)", "there is no type '{}'"),
    (r"Pointer '(.*)' does not exist", "its reference '#{}' leads nowhere"),
    (r"Resource '(.*?)' is not present", "its reference '{}' leads out of it"),
    (r"regex parse error", "a pattern in it is wrong, or looks ahead or behind, which can't be used here"),
    (r"oneOf", "oneOf can't be used here; anyOf can"),
    (r"recursion limit", "it is nested too deeply"),
)
COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")


class JsonForm:
    """A JSON schema that answers are held to. Raises `Fault` for one that can't be: the fault of field `param`."""

    def __init__(self, schema: dict[str, Any], param: str, engine: Engine, tokenizer: Any) -> None:
        from llguidance import LLMatcher

        self.schema = schema
        self._vocabulary, self._end_ids = engine.vocabulary, sorted(engine.end_ids)
        self._tokenizer = tokenizer
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA:
            raise _refused(param, f"it has {len(text):,} characters, more than {MAX_SCHEMA:,}")
        if sum(_counts(schema)) > MAX_COUNT:
            raise _refused(param, f"the values of {', '.join(COUNTS)} in it come to more than {MAX_COUNT:,} in all")
        try:
            self._grammar = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False})
        except ValueError as error:  # nested too deeply for it
            raise _refused(param, _reason(str(error))) from None
        if why := LLMatcher(tokenizer, self._grammar).get_error():
            raise _refused(param, _reason(why))

    def start(self) -> JsonMatcher:
        """Hold an answer to it."""
        from llguidance import LLMatcher

        return JsonMatcher(LLMatcher(self._tokenizer, self._grammar), self._vocabulary, self._end_ids)


class JsonMatcher:
    """One answer that is being written."""

    def __init__(self, matcher: Any, vocabulary: int, end_ids: list[int]) -> None:
        self._matcher, self._vocabulary, self._end_ids = matcher, vocabulary, end_ids
        self._over = False

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next; where nothing may, those that end the answer."""
        import numpy as np

        mask = np.zeros(self._vocabulary, dtype=np.bool_)
        if not self._over and not self._matcher.is_stopped():
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            given = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)
            mask[: len(given)] = given
        if not mask.any() or self._matcher.is_accepting():
            mask[self._end_ids] = True
        return mask

    def push(self, token: int) -> None:
        """This one came."""
        if not self._over:
            self._over = token in self._end_ids or not self._matcher.consume_token(token)


class Forms:
    """The forms of one engine; its tokenizer is prepared once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizer: Any = None

    def of(self, request: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> JsonForm | None:
        """The form that a request asks for, where these tools are offered; None for free text. Raises `Fault`."""
        if must_call(request):
            single = request.parallel_tool_calls is False or request.tool_choice != "required"
            return self._make(calls_schema(tools, several=not single), "tool_choice", "tools")
        asked = request.response_format
        if asked is None or asked.type == "text":
            return None
        if asked.type == "json_object":
            return self._make(OBJECT, "response_format", "response_format")
        param = "response_format.json_schema.schema"
        if asked.json_schema is None or asked.json_schema.schema_ is None:
            what = f"Missing required parameter: '{param}'."
            raise Fault(400, what, param=param, code="missing_required_parameter")
        return self._make(asked.json_schema.schema_, "response_format", param)

    def _make(self, schema: dict[str, Any], asking: str, param: str) -> JsonForm:
        """A form that the field `asking` asks for, with a schema of the field `param`."""
        if not self._engine.constrains:
            free = {"response_format": "'text' works", "tool_choice": "'auto' and 'none' work"}[asking]
            raise Fault(
                400,
                f"this server's engine can't hold answers to a form; of {asking}, only {free}.",
                param=asking,
                code="unsupported_parameter",
            )
        if self._tokenizer is None:
            try:
                from llguidance.hf import from_tokenizer
            except ImportError as error:
                raise DependencyError("answers in a given form need llguidance: pip install llguidance") from error
            self._tokenizer = from_tokenizer(self._engine.tokenizer)
        return JsonForm(schema, param, self._engine, self._tokenizer)


def _counts(schema: Any) -> Iterator[float]:
    """The numbers of items anywhere in a schema, each cut to what is too many alone."""
    if isinstance(schema, list):
        for part in schema:
            yield from _counts(part)
    elif isinstance(schema, dict):
        for name, part in schema.items():
            if name in COUNTS and isinstance(part, int | float):
                yield min(max(part, 0), MAX_COUNT + 1)
            yield from _counts(part)


def _reason(why: str) -> str:
    """Why a schema can't be used, in words that name nothing of the inside."""
    for theirs, ours in REASONS:
        if found := re.match(theirs, why):
            return ours.format(*(group.replace('"', "")[:80] for group in found.groups()))
    return "it is wrong, or has something that can't be used here"


def _refused(param: str, why: str) -> Fault:
    return Fault(400, f"The schema can't be used: {why}.", param=param, code="invalid_schema")
