"""The remote engine: trajectories written by `vllm serve`, at one or several addresses, over the completions API.

Prompts go out as token ids and tokens come back as ids, so nothing is tokenised twice. Load is spread over the
endpoints; streams that break are taken up again (`endpoints.py`). A handshake with each endpoint proves that it speaks
this API, has this model and tokenizer, and sends correct scores. One that sends none may serve single samples and
majority votes, if the caller allows it: the engine then is unscored, and `remark` says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from reflective.engines.base import Sampling
from reflective.engines.external import ExternalEngine, draw_seed
from reflective.engines.remote.endpoints import SILENCE_S, TRIES, Endpoint, Pool, api_key
from reflective.engines.remote.protocol import Chunk, base_url, completion_request, refusal, said, shown
from reflective.engines.sampled_token import SampledToken
from reflective.engines.sequence import Running
from reflective.engines.vllm.handshake import PROBLEM, TOKENS, compare, scores_are_right, scores_arrive
from reflective.engines.vllm.slots import Slots
from reflective.errors import EngineError, InputError
from reflective.models.metadata import Metadata, read_metadata
from reflective.settings import check_least
from reflective.types import FinishReason

STREAM_INTERVAL: Final = 8  # tokens that a server sends together; a chunk per token would cost more than the token
LONGEST_INTERVAL: Final = 32  # where so many are in flight that chunks would keep the server from writing
ROWS_A_TOKEN: Final = 8  # trajectories in flight at an endpoint that make chunks a token longer
ENDS: Final[dict[str, FinishReason]] = {"stop": "eos", "length": "length", "repetition": "length"}


class OpenAIEngine(ExternalEngine):
    """Writes scored trajectories with vLLM servers.

    `urls` are the endpoints, of the same model. `served_name` is the model's name there, where it has several.
    `max_rows` says how many trajectories of a search should be in flight; `stream_interval` how many tokens come
    together, by default 8, and more where many are in flight. The API key comes from REFLECTIVE_API_KEY.
    """

    constrains = True

    def __init__(
        self,
        model: Metadata,
        urls: Sequence[str],
        *,
        allow_unscored: bool = False,
        served_name: str | None = None,
        stream_interval: int | None = None,
        max_rows: int = 512,
        tries: int = TRIES,
        silence_s: float = SILENCE_S,
    ) -> None:
        check_least(1, stream_interval=stream_interval, max_rows=max_rows, tries=tries)
        if len({base_url(url) for url in urls}) != len(urls) or not urls:
            raise InputError(f"endpoints must be different addresses; got {', '.join(map(shown, urls)) or 'none'}.")
        self._interval, self.max_rows = stream_interval, max_rows
        self.remark = ""
        self._pool = Pool([base_url(url) for url in urls], api_key=api_key(), tries=tries, silence_s=silence_s)
        try:
            super().__init__(model)
            self.scored = False  # until the handshake has shown that scores arrive
            context = [self._meet(endpoint, served_name) for endpoint in self._pool.endpoints]
            self.context_length = min([self.context_length or context[0], *context])
            self._shake_hands(allow_unscored)
        except BaseException:
            self._pool.close()
            raise

    @classmethod
    def from_source(
        cls,
        source: str | Path,
        urls: Sequence[str],
        *,
        require_head: bool = True,
        head: str | Path | None = None,
        check_fingerprint: bool = True,
        **options: Any,
    ) -> OpenAIEngine:
        """An engine for the model "nano", a folder or a hub id, of which only the small files are read here."""
        model = read_metadata(source, require_head=require_head, head=head, check_fingerprint=check_fingerprint)
        engine = cls(model, urls, allow_unscored=not require_head, **options)
        engine.remark = " ".join(filter(None, (model.remark, engine.remark)))
        return engine

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._pool.close()

    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        super().cancel(id)
        if id not in self._finished and id not in self._running:
            self._pool.homes.pop(id, None)

    # ---- requests

    def _send(self, sequence: Running) -> None:
        request, here = sequence.request, list(sequence.token_ids)
        slots = self.slots if self.scored else None

        def body(written: Sequence[SampledToken], model: str) -> dict[str, Any]:
            if written and request.constraint is not None:
                raise EngineError("a stream broke within an answer of a given form, which can't be gone on with.")
            tokens = [*here, *(one.token for one in written)]
            # when the request leaves, so that all of a large search count, and not only those before it
            interval = self._interval or tokens_together(len(self._running), len(self._pool.endpoints))
            return completion_request(
                model,
                [*sequence.prompt_ids, *tokens],
                request.sampling,
                seed=draw_seed(request.seed, len(tokens)),
                max_tokens=sequence.limit - len(tokens),
                stop_ids=self._stop_ids(sequence),
                slots=slots,
                stream_interval=interval,
                schema=request.constraint.schema if request.constraint is not None else None,
            )

        home = self._pool.homes.get(request.parent) if request.parent is not None else None
        self._pool.start(sequence.id, body, slots, home)

    def _abort(self, sequence: Running) -> None:
        self._pool.stop(sequence.id)

    def _receive(self) -> None:
        for arrived in self._pool.arrivals():
            sequence = self._running.get(arrived.id)
            if sequence is not None:
                if arrived.error is not None:
                    self._running.pop(arrived.id)
                arrived.check()
                self._take(sequence, arrived.sampled, _reason(arrived.end))
                if arrived.id not in self._running and arrived.end is None:
                    self._pool.stop(arrived.id)  # our rule found the end before the server said so

    # ---- the handshake

    def _meet(self, endpoint: Endpoint, served_name: str | None) -> int:
        """Learn the model's name at an endpoint; returns its context length."""
        status, text = self._pool.get(endpoint, "/models")
        if status != 200:
            raise refusal(status, text, endpoint.where)
        try:
            entries = [entry for entry in json.loads(text)["data"] if isinstance(entry["id"], str)]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EngineError(
                f"{endpoint.where} does not speak the completions API: its list of models is {said(text)!r:.80}. "
                "Give the address of a vLLM server, such as http://localhost:8000/v1."
            ) from None
        endpoint.model, context = self._choose(entries, served_name, endpoint.where)
        return context

    def _choose(self, entries: Sequence[dict[str, Any]], served_name: str | None, where: str) -> tuple[str, int]:
        names = {served_name} if served_name else {self.name, str(self.model.folder)}
        fitting = [e for e in entries if e["id"] in names or (not served_name and e.get("root") in names)]
        if not fitting and not served_name:
            fitting = [e for e in entries if not e.get("parent")]  # adapters have a parent
        if len(fitting) != 1:
            known = said(", ".join(entry["id"] for entry in entries)) or "none"
            raise EngineError(f"{where} serves several or other models ({known}). Name one with served_name.")
        length = fitting[0].get("max_model_len")
        context = length if isinstance(length, int) and length > 0 else self.context_length
        if not context:
            raise EngineError(f"neither {where} nor {self.name!r} says how many positions the model reads.")
        return str(fitting[0]["id"]), context

    def _shake_hands(self, allow_unscored: bool) -> None:
        first: list[float] | None = None
        for endpoint in self._pool.endpoints:
            if self.slots is None:
                self._probe(endpoint, scored=False)
                self.unscored = f"{self.name!r} has no SPRM head: no scores"
                continue
            prompt, sampled = self._probe(endpoint, scored=True)
            try:
                logits = scores_arrive(sampled, where=endpoint.where)
            except EngineError as error:
                if not allow_unscored:
                    raise EngineError(f"{error} Without scores: --strategy majority or single.") from None
                self.unscored = f"no step scores, votes and single samples only: {error}"
                continue
            scores_are_right(self.model, prompt, sampled, logits, where=endpoint.where)
            if first is not None:
                compare(logits, first, where=endpoint.where, other=self._pool.endpoints[0].where)
            first = first or logits
        self.scored = first is not None and not self.unscored
        self.remark = self.unscored

    def _probe(self, endpoint: Endpoint, *, scored: bool) -> tuple[tuple[int, ...], list[SampledToken]]:
        """Continue the handshake's prompt greedily, and see that the server reads it as we do."""
        prompt = self.encode_prompt(PROBLEM)
        text = self.tokenizer.decode(list(prompt), skip_special_tokens=False, clean_up_tokenization_spaces=False)

        def read(prompt: Sequence[int] | str, tokens: int, slots: Slots | None) -> list[Chunk]:
            greedy = Sampling(temperature=0.0)
            body = completion_request(
                endpoint.model,
                prompt,
                greedy,
                seed=0,
                max_tokens=tokens,
                stop_ids=(),
                slots=slots,
                stream_interval=1,
                prompt_ids=isinstance(prompt, str),
            )
            return self._pool.read(endpoint, body, slots)

        chunks = read(text, 1, None)
        theirs = next((chunk.prompt_ids for chunk in chunks if chunk.prompt_ids is not None), None)
        ours = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        if theirs is not None and theirs != ours:
            raise EngineError(
                f"{endpoint.where} reads a prompt as other tokens than {self.name!r} (it has {len(theirs)}, here are "
                f"{len(ours)}): it serves another model or tokenizer."
            )
        chunks = read(prompt, TOKENS, self.slots if scored else None)
        _ended(chunks, endpoint.where)
        return prompt, [one for chunk in chunks for one in chunk.sampled]


def tokens_together(running: int, endpoints: int) -> int:
    """Tokens in a chunk where so many trajectories are in flight: the more, the less each one is looked at."""
    return min(max(STREAM_INTERVAL, running // (ROWS_A_TOKEN * endpoints)), LONGEST_INTERVAL)


def _ended(chunks: Sequence[Chunk], where: str) -> None:
    if not chunks or chunks[-1].end is None:
        raise EngineError(f"{where} cuts its streams: the handshake's answer has no end. Is there a proxy before it?")


def _reason(end: str | None) -> FinishReason | None:
    if end is None:
        return None
    if end not in ENDS:
        raise EngineError(f"an endpoint ended a trajectory with {end!r}.")
    return ENDS[end]
