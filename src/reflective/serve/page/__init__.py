"""The page at `/`: plain files of this folder, and the two routes that only it needs.

`GET /v1/page` says what the page offers, `POST /v1/render` sets texts (see `reflective.serve.typeset`). The files are
open to everybody and hold nothing of the model; the two routes are for those who may use the API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from reflective.nano import EXAMPLES
from reflective.search import STRATEGIES
from reflective.serve.bodies import StrictRoute
from reflective.serve.typeset import typeset

CONTENT_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final[Mapping[str, str]] = {"cache-control": "no-cache"}
NO_EXAMPLES: Final = "There are no examples for this model: type a problem of your own."
KNOWN_EXAMPLES: Final = "nano answers problems like these, in their wording, and no others:"


MOST_TEXTS: Final = 200  # of one request to set texts
MOST_CHARACTERS: Final = 400_000  # of them together


class Texts(BaseModel):
    """Texts to set."""

    model_config = ConfigDict(extra="forbid")
    texts: list[str] = Field(max_length=MOST_TEXTS)

    @field_validator("texts")
    @classmethod
    def _not_too_long(cls, texts: list[str]) -> list[str]:
        if sum(map(len, texts)) > MOST_CHARACTERS:
            raise ValueError(f"the texts have more than {MOST_CHARACTERS:,} characters together")
        return texts


def files() -> APIRouter:
    """The files, open to everybody."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return _file("index.html")

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in _files():
            raise HTTPException(404)
        return _file(name)

    return router


def routes(offer: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """What the page asks for; `offer` is called for each request and gives the body of `GET /v1/page`."""
    router = APIRouter(tags=["page"], route_class=StrictRoute)

    @router.get("/v1/page")
    async def page() -> dict[str, Any]:
        """What the page may offer beside this model."""
        return dict(offer())

    @router.post("/v1/render")
    def render(body: Texts) -> dict[str, list[str]]:
        """HTML with MathML of texts that hold Markdown and LaTeX."""
        return {"html": [typeset(text) for text in body.texts]}

    return router


@cache
def _files() -> Mapping[str, bytes]:
    """What the page is made of, by name."""
    found = [file for file in resources.files(__name__).iterdir() if Path(file.name).suffix in CONTENT_TYPES]
    return {file.name: file.read_bytes() for file in found}


def _file(name: str) -> Response:
    return Response(_files()[name], media_type=CONTENT_TYPES[Path(name).suffix], headers=dict(HEADERS))


def offered(model: str, *, effort: str | int, scored: bool, feedback: bool) -> dict[str, Any]:
    """What the page may offer beside this model: the body of `GET /v1/page`."""
    examples = EXAMPLES if model == "nano" else {}
    return {
        "model": model,
        "effort": effort,
        "feedback": feedback,
        "strategies": [name for name, strategy in STRATEGIES.items() if scored or not strategy.needs_scores],
        "note": KNOWN_EXAMPLES if examples else NO_EXAMPLES,
        "examples": [{"name": name, "text": text} for name, text in examples.items()],
    }
