"""What is read of an HTTP answer, and no more: a server may be wrong or hostile, and must not fill the memory.

Bytes are taken as they come. Nothing is unpacked, since a few compressed bytes may stand for any number; the client
asks for plain ones.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from reflective.engines.remote.protocol import Garbage
from reflective.errors import InputError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

LONGEST_LINE: Final = 2**24  # bytes; a chunk of many tokens has some thousands
LONGEST_ANSWER: Final = 2**22  # bytes of an answer that is no stream
LONGEST_REST: Final = 2**12  # bytes behind the last token: a mark of the end, perhaps a report of usage
REST_S: Final = 0.25  # for them


async def read_lines(response: ClientResponse) -> AsyncIterator[str]:
    """The lines of an answer, split at line feeds alone: texts in it may hold other characters that break lines.

    Raises `Garbage` at a line of more than `LONGEST_LINE` bytes.
    """
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
        if len(rest) > LONGEST_LINE:
            raise Garbage(f"a line of more than {LONGEST_LINE:,} bytes")
    if rest:
        yield rest.decode("utf-8", "replace")


async def read_rest(response: ClientResponse) -> None:
    """What follows the last token, so that the connection can serve again; no more of it than a server has to say."""
    from aiohttp import ClientError

    size = 0
    try:
        async with asyncio.timeout(REST_S):
            async for part in response.content.iter_any():
                size += len(part)
                if size > LONGEST_REST:
                    return
    except (ClientError, OSError):  # a timeout among them
        pass  # the tokens are there


async def read_text(response: ClientResponse) -> str:
    """A whole answer; what is longer than `LONGEST_ANSWER` bytes is cut."""
    whole = b""
    async for part in response.content.iter_any():
        whole += part
        if len(whole) > LONGEST_ANSWER:
            break
    return whole[:LONGEST_ANSWER].decode("utf-8", "replace")


def retry_after(response: ClientResponse) -> float:
    """Seconds that the server asks for; 0 where it does not say or says a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def certificates() -> ssl.SSLContext:
    """Whose word for a server counts: the usual authorities, or those in SSL_CERT_FILE or SSL_CERT_DIR.

    Raises `InputError` where these can't be read.
    """
    import certifi

    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
        return ssl.create_default_context(cafile=certifi.where())
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"the authorities in SSL_CERT_FILE or SSL_CERT_DIR can't be read: {error}.") from None
