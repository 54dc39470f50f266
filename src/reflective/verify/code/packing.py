"""Tests of a program as one short text: base64 of zlib of JSON, so that a record of a problem stays small."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

MAX_BYTES = 2**30  # unpacked


def pack_tests(tests: Sequence[Mapping[str, str]]) -> str:
    """`tests`, each with an `input` and an `output`, as one text."""
    return base64.b64encode(zlib.compress(json.dumps(list(tests)).encode(), 6)).decode("ascii")


def unpack_tests(packed: str) -> list[dict[str, Any]]:
    """What `pack_tests` was given. Raises `ValueError` where the text is anything else."""
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(packed, validate=True), MAX_BYTES)
        tests = json.loads(data)
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"the packed tests can't be read: {error}") from error
    if inflate.unconsumed_tail or not isinstance(tests, list):
        raise ValueError("the packed tests are too large, or no list")
    return tests
