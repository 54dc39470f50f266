"""Endpoints, and streams that outlive them: connections, load, retries with back-off, failover.

One thread runs an event loop with all connections; what arrives goes into a queue. A stream that breaks is taken up
by another endpoint (or the same, later) with what has been written as part of the prompt, so no trajectory is lost.
An endpoint that answers 429 or 503, or not at all, is left alone for a while that doubles each time.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import random
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reflective.engines.remote.limits import certificates, read_lines, read_rest, read_text, retry_after
from reflective.engines.remote.protocol import GIVEN_UP, RETRIED, Chunk, Garbage, read_line, refusal, said, shown
from reflective.engines.sampled_token import SampledToken
from reflective.engines.vllm.slots import Slots
from reflective.errors import DependencyError, EngineError, InputError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

T = TypeVar("T")

API_KEY: Final = "REFLECTIVE_API_KEY"  # environment variable
ARRIVAL_S: Final = 0.5  # that a step waits for something to arrive
FIRST_WAIT_S: Final = 0.25  # before the second try; doubled each time, with up to half of it more by chance
LONGEST_WAIT_S: Final = 30.0
TRIES: Final = 7  # in a row without a single new token, then the stream is given up
CONNECT_S: Final = 10.0
SILENCE_S: Final = 120.0  # without a byte, an endpoint counts as lost
LOST: Final = "lost"  # the end of a stream that broke, where what was written can't be part of another prompt
LIST_S: Final = 30.0  # for what a server knows without its model


@dataclass(eq=False)
class Endpoint:
    """One address; `load` streams run there, `resting_until` is when it may be tried again."""

    url: str
    model: str = ""
    load: int = 0
    failures: int = 0
    resting_until: float = 0.0

    @property
    def where(self) -> str:
        """For messages."""
        return shown(self.url)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What happened to stream `id`: tokens, its end, or an error that ends it."""

    id: int
    sampled: tuple[SampledToken, ...] = ()
    end: str | None = None
    error: EngineError | None = None

    def check(self) -> None:
        """Raise the error, of this stream alone, where there is one."""
        if self.error is not None:
            self.error.trajectory = self.id
            raise self.error


class _Lost(Exception):
    """A stream broke; `wait_s` is how long the server asked for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


# from (tokens written so far) and the model's name there to a request's body
Body = Callable[[Sequence[SampledToken], str], dict[str, Any]]
# a line of a stream to what it carries
Read = Callable[[str, Slots | None], Chunk | None]


def api_key() -> str | None:
    """The key from the environment. Raises `InputError`, which does not show it, where no header may hold it."""
    key = os.environ.get(API_KEY, "").strip()  # files end in a line feed
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{API_KEY} holds characters that no HTTP header may have. Set it to the key alone.")
    return key or None


class Pool:
    """Streams over endpoints. Made and used by one thread; the connections live in another.

    Requests go to `path`, and `read` makes tokens of the lines that come back. Where a stream does not resume, one that
    broke after its first token ends there.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str | None,
        tries: int = TRIES,
        silence_s: float = SILENCE_S,
        path: str = "/completions",
        read: Read = read_line,
        resumes: bool = True,
    ) -> None:
        try:
            import aiohttp  # noqa: F401
        except ImportError as error:
            raise DependencyError("endpoints need aiohttp. In the checkout: pip install '.[http]'.") from error
        context = certificates()
        self.endpoints = [Endpoint(url) for url in urls]
        self.arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._tries, self._path, self._read_line, self._resumes = tries, path, read, resumes
        self.homes: dict[int, Endpoint] = {}  # where each stream was written last, until it is forgotten
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reflective-endpoints", daemon=True)
        self._thread.start()
        headers = {"Accept-Encoding": "identity"}  # a few compressed bytes could unfold to any number
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._session: ClientSession = self._run(_session(headers, context, silence_s))
        atexit.register(self.close)  # a command that ends would leave connections open, which aiohttp complains about

    # ---- from the caller's thread

    def start(self, id: int, body: Body, slots: Slots | None, home: Endpoint | None = None) -> None:
        """Begin stream `id`; what it brings comes to `arrived`. `home` is tried first: its cache knows the prefix."""

        def begin() -> None:
            self._tasks[id] = self._loop.create_task(self._write(id, body, slots, home))

        self._loop.call_soon_threadsafe(begin)

    def stop(self, id: int) -> None:
        """End a stream; something of it may still be in `arrived`."""

        def end() -> None:
            task = self._tasks.pop(id, None)
            if task is not None:
                task.cancel()

        self._loop.call_soon_threadsafe(end)

    def arrivals(self) -> Iterator[Arrived]:
        """What has arrived. Waits a moment for the first, no longer: whoever drives may want to stop."""
        try:
            yield self.arrived.get(timeout=ARRIVAL_S)
            while True:
                yield self.arrived.get_nowait()
        except queue.Empty:
            return

    def get(self, endpoint: Endpoint, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        return self._run(self._get(endpoint, path))

    def read(self, endpoint: Endpoint, body: dict[str, Any], slots: Slots | None) -> list[Chunk]:
        """All of one stream, from this endpoint alone."""
        return self._run(self._read(endpoint, body, slots))

    def close(self) -> None:
        """Close every connection and end the thread."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    # ---- in the thread of the connections

    async def _write(self, id: int, body: Body, slots: Slots | None, home: Endpoint | None) -> None:
        try:
            await self._persist(id, body, slots, home)
        finally:
            self._tasks.pop(id, None)

    async def _persist(self, id: int, body: Body, slots: Slots | None, home: Endpoint | None) -> None:
        """One trajectory, over as many endpoints and tries as it takes."""
        written: list[SampledToken] = []
        failures = 0
        why = "no try was made"
        while failures < self._tries:
            endpoint = await self._choose(home)
            before = len(written)
            endpoint.load += 1
            self.homes[id] = endpoint
            try:
                async for chunk in self._stream(endpoint, body(written, endpoint.model), slots):
                    written += chunk.sampled
                    given_up = chunk.end in GIVEN_UP
                    self.arrived.put(Arrived(id, chunk.sampled, None if given_up else chunk.end))
                    if given_up:
                        raise _Lost(f"the server gave the trajectory up ({chunk.end})")
                    if chunk.end is not None:
                        endpoint.failures = 0
                        return
                raise _Lost("the stream ended before the trajectory did")
            except _Lost as lost:
                why = f"{endpoint.where}: {lost}"
                self._rest(endpoint, lost.wait_s)
                if written and not self._resumes:
                    self.arrived.put(Arrived(id, end=LOST))
                    return
                failures = failures + 1 if len(written) == before else 1
                home = None
            except EngineError as error:
                self.arrived.put(Arrived(id, error=error))
                return
            except Exception as error:  # or the caller would wait for ever
                self.arrived.put(Arrived(id, error=EngineError(f"{endpoint.where}: {type(error).__name__}: {error}")))
                return
            finally:
                endpoint.load -= 1
        count = f"any of {len(self.endpoints)} endpoints" if len(self.endpoints) > 1 else "the endpoint"
        self.arrived.put(Arrived(id, error=EngineError(f"no answer from {count} after {failures} tries; {why}.")))

    async def _choose(self, home: Endpoint | None) -> Endpoint:
        """The endpoint with the least load among those that are not resting; waits where all are."""
        while True:
            now = self._loop.time()
            awake = [e for e in self.endpoints if e.resting_until <= now]
            if home in awake and home is not None:
                return home
            if awake:
                return min(awake, key=lambda e: e.load)
            await asyncio.sleep(min(e.resting_until for e in self.endpoints) - now)

    def _rest(self, endpoint: Endpoint, wait_s: float) -> None:
        doubled = FIRST_WAIT_S * 2.0 ** min(endpoint.failures, 16)
        wait = min(max(doubled, wait_s), LONGEST_WAIT_S) * (1.0 + random.random() / 2)
        now = self._loop.time()
        if endpoint.resting_until <= now:  # many streams break at once; together they count as one failure
            endpoint.failures += 1
            endpoint.resting_until = now + wait

    async def _stream(self, endpoint: Endpoint, body: dict[str, Any], slots: Slots | None) -> AsyncIterator[Chunk]:
        from aiohttp import ClientError

        url = f"{endpoint.url}{self._path}"
        try:
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    await self._raise_for(response, endpoint)
                async for line in read_lines(response):
                    chunk = self._read_line(line, slots)
                    if chunk is None:
                        continue
                    if chunk.end is not None:
                        await read_rest(response)
                    yield chunk
        except Garbage as error:
            raise _Lost(f"garbage, {error}") from None
        except TimeoutError:
            raise _Lost("it does not answer in time") from None
        except ValueError:  # of an address; also an error of the client's, so it comes first
            raise EngineError(f"{endpoint.where} is no address that can be reached.") from None
        except (ClientError, OSError) as error:
            raise _Lost(f"the connection failed ({type(error).__name__})") from None

    async def _raise_for(self, response: ClientResponse, endpoint: Endpoint) -> None:
        text = await read_text(response)
        if response.status in RETRIED:
            raise _Lost(f"HTTP {response.status}", retry_after(response))
        raise refusal(response.status, text, endpoint.where)

    async def _read(self, endpoint: Endpoint, body: dict[str, Any], slots: Slots | None) -> list[Chunk]:
        for attempt in range(self._tries):
            try:
                chunks, tokens = [], 0
                async for chunk in self._stream(endpoint, body, slots):
                    chunks.append(chunk)
                    tokens += len(chunk.sampled)
                    if tokens > body["max_tokens"]:
                        raise EngineError(f"{endpoint.where} writes more tokens than it was asked for.")
                return chunks
            except _Lost as lost:
                if attempt == self._tries - 1:
                    raise EngineError(f"{endpoint.where}: {lost}, {self._tries} times in a row.") from None
                await asyncio.sleep(min(max(FIRST_WAIT_S * 2**attempt, lost.wait_s), LONGEST_WAIT_S))
        raise AssertionError

    async def _get(self, endpoint: Endpoint, path: str) -> tuple[int, str]:
        from aiohttp import ClientError, ClientTimeout

        for attempt in range(self._tries):
            limit = ClientTimeout(sock_connect=LIST_S, sock_read=LIST_S)
            try:
                async with self._session.get(f"{endpoint.url}{path}", timeout=limit, allow_redirects=False) as response:
                    text = await read_text(response)
            except TimeoutError:
                raise EngineError(f"{endpoint.where} does not answer in time. Is the server still loading?") from None
            except (ClientError, OSError, ValueError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise EngineError(
                        f"{endpoint.where} shows a certificate that no known authority vouches for ({said(error)}). "
                        "Name the file of your own authority in SSL_CERT_FILE."
                    ) from None
                raise EngineError(
                    f"{endpoint.where} can't be reached ({type(error).__name__}). Start a server with: vllm serve MODEL"
                ) from None
            if response.status not in RETRIED or attempt == self._tries - 1:
                break
            await asyncio.sleep(min(max(FIRST_WAIT_S * 2**attempt, retry_after(response)), LONGEST_WAIT_S))
        return response.status, text

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()


async def _session(headers: dict[str, str], context: ssl.SSLContext, silence_s: float) -> ClientSession:
    """Any number of connections, kept and used again; made in the thread that uses them."""
    import aiohttp

    return aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy for the internet is none for a cluster's own addresses
    )
