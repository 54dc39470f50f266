"""Engines: they write scored trajectories. `base.Engine` is the contract; a name finds its engine here, lazily."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflective.errors import EngineError, InputError

if TYPE_CHECKING:
    from reflective.engines.base import Engine

ENGINES = ("torch", "vllm", "llamacpp")
REMOTE = ("http://", "https://")


def check_engine(name: str) -> None:
    """Refuse an engine that is not there, before a model is loaded for it."""
    if isinstance(name, str) and name.startswith(REMOTE):
        from reflective.engines.remote.protocol import base_url

        for address in addresses(name):
            base_url(address)
    elif name not in ENGINES:
        raise InputError(
            f"unknown engine {name!r}; known are: {', '.join(ENGINES)}, and addresses such as http://localhost:8000/v1."
        )


def addresses(name: str) -> list[str]:
    """The endpoints in an engine's name, which has commas between them."""
    return [address for address in name.split(",") if address.strip()]


def make_engine(name: str, checkpoint: Any, **options: Any) -> Engine:
    """The embedded engine on a loaded checkpoint; `options` are its own."""
    if name != "torch":
        raise InputError(f"the engine {name!r} loads models itself: use serve_engine.")
    from reflective.engines.torch.engine import TorchEngine

    return TorchEngine.from_checkpoint(checkpoint, **options)


def serve_engine(name: str, source: str | Path, *, require_head: bool = True, **options: Any) -> Engine:
    """The engine that has `source` served elsewhere: "vllm", "llamacpp", or addresses with commas between them."""
    check_engine(name)
    if name == "vllm":
        from reflective.engines.vllm.engine import VLLMEngine

        return VLLMEngine.from_source(source, require_head=require_head, **options)
    if name == "llamacpp":
        from reflective.engines.llamacpp.engine import LlamaCppEngine

        return LlamaCppEngine.from_source(source, require_head=require_head, **options)
    from reflective.engines.remote.chat import ChatEngine, find_server

    if (server := find_server(addresses(name))) is not None:
        if require_head or options.get("head") not in (None, "none"):
            raise EngineError(f"{server} sends no step scores, so a head can't be used with it. It needs vLLM.")
        del options["head"], options["check_fingerprint"]
        return ChatEngine(str(source), addresses(name), server, **options)
    from reflective.engines.remote.engine import OpenAIEngine

    return OpenAIEngine.from_source(source, addresses(name), require_head=require_head, **options)
