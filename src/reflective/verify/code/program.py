"""The two programs that grade functions: one holds the tested code, the other the tests; neither sees the other.

Both run in sandboxes of their own and speak in JSON lines, through the caller, which passes them on. Calls go from the
tests to the tested code, plain values come back. So the comparison happens where the tested code has never been: it can
neither end the tests early nor change what "equal" means, and it never sees an expected value. A value that is more
than plain data (an object of its own class, say, with an __eq__ of its own) arrives as something that equals nothing.
"""

from __future__ import annotations

CODEC = '''
import itertools as _itertools
import json as _json

class Unsendable(Exception):
    """A value that the tests want to call the program with, and that is no plain data."""

class Opaque:
    """A value that is no plain data: it equals nothing."""
    def __init__(self, name):
        self.name = name
    def __eq__(self, other):
        return False
    __hash__ = object.__hash__
    def __bool__(self):
        raise TypeError(f"a {self.name} is neither true nor false here")
    def __repr__(self):
        return f"<{self.name}>"

def encode(value, strict=False, depth=0):
    """Plain data as JSON can hold it; `strict` refuses anything else, which becomes opaque otherwise."""
    def inner(items):
        return [encode(item, strict, depth + 1) for item in items]
    kind = type(value)
    if depth > 100:
        return {"?": "too deep"}
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if abs(value) < 2**53 else {"i": hex(value)}
    if kind is float:
        return {"f": value.hex()}
    if kind is complex:
        return {"c": [value.real.hex(), value.imag.hex()]}
    if kind in (bytes, bytearray):
        return {"b": bytes(value).hex()}
    if kind is list:
        return inner(value)
    if kind in (tuple, set, frozenset):
        return {{tuple: "t", set: "s", frozenset: "z"}[kind]: inner(value)}
    if kind is dict:
        return {"d": [inner(pair) for pair in value.items()]}
    if kind is range:
        return {"r": inner((value.start, value.stop, value.step))}
    # subclasses, such as Counter, namedtuple, OrderedDict or IntEnum, are what they inherit from
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base):
            return encode(base(base.__iter__(value)), strict, depth)
    for base, plain in ((dict, dict.copy), (int, int.__int__), (float, float.__float__), (str, str.__str__)):
        if isinstance(value, base):
            found = plain(value)
            return encode(found, strict, depth) if type(found) is base else {"?": kind.__name__}
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == () and type(value.item()) is not kind:
        return encode(value.item(), strict, depth)
    if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
        return {"n": inner(_itertools.islice(value, 1_000_000))}
    if strict:
        raise Unsendable(f"a {kind.__name__} can't be given to the tested program")
    return {"?": str(kind.__name__)}

def decode(value):
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        return Opaque("?")
    (name, inside), = value.items()
    try:
        if name == "i":
            return int(inside, 16)
        if name == "f":
            return float.fromhex(inside)
        if name == "c":
            return complex(float.fromhex(inside[0]), float.fromhex(inside[1]))
        if name == "b":
            return bytes.fromhex(inside)
        if name == "d":
            return {decode(k): decode(v) for k, v in inside}
        if name == "r":
            return range(*inside)
        if name == "n":
            return iter(decode(inside))
        if name in ("t", "s", "z") and isinstance(inside, list):
            return {"t": tuple, "s": set, "z": frozenset}[name](decode(item) for item in inside)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError):
        pass
    return Opaque(str(inside))

class Channel:
    """Lines in JSON on what were the standard input and output, which now lead nowhere."""
    def __init__(self):
        import os
        self._in, self._out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
    def read(self):
        line = self._in.readline()
        if not line:
            raise SystemExit(0)
        return _json.loads(line)
    def write(self, value):
        self._out.write(_json.dumps(value).encode() + b"\\n")
        self._out.flush()
'''

TESTED = (
    CODEC
    + """
def _serve(source):
    import builtins, sys, types
    channel, module = Channel(), types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
    except BaseException as error:
        channel.write({"broken": f"{type(error).__name__}: {error}"[:300]})
        return
    channel.write({"ready": True})
    holders = {}
    while True:
        request = channel.read()
        try:
            holder, _, name = request["name"].rpartition(".")
            if holder not in holders:  # an instance of Solution; a program without it may define the function itself
                found = getattr(module, holder, module) if holder else module
                holders[holder] = found() if isinstance(found, type) else found
            found = getattr(holders[holder], name)
            reply = {"value": encode(found(*decode(request["args"]), **decode(request["kwargs"])))}
        except BaseException as error:
            reply = {"raised": type(error).__name__, "text": str(error)[:300]}
        channel.write(reply)

_serve(PAYLOAD["source"])
"""
)

TESTS = (
    CODEC
    + '''
class TestedProgramFailed(Exception):
    """The tested program raised an exception that is not built in."""

def _check(source, entries):
    import builtins, sys, types
    channel, module = Channel(), types.ModuleType("__main__")
    raised = []

    def proxy(name):
        def call(*args, **kwargs):
            channel.write({"name": name, "args": encode(list(args), True), "kwargs": encode(kwargs, True)})
            reply = channel.read()
            if isinstance(reply, dict) and "value" in reply:
                return decode(reply["value"])
            kind = getattr(builtins, str(reply.get("raised")), None)
            known = isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError
            try:
                raised.append((kind if known else TestedProgramFailed)(str(reply.get("text", ""))))
            except TypeError:  # UnicodeDecodeError and its like want more arguments
                raised.append(TestedProgramFailed(str(reply.get("raised"))))
            raise raised[-1]
        call.__name__ = name
        return call

    sys.modules["__main__"] = module
    for name in entries:
        module.__dict__[name] = proxy(name)
    module.__dict__["candidate"] = module.__dict__[entries[0]]
    try:
        exec(compile(source, "tests.py", "exec"), module.__dict__)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:200]
        fault = isinstance(error, (ImportError, NameError, SyntaxError, MemoryError, Unsendable))
        channel.write({"failed" if fault and not any(error is one for one in raised) else "wrong": said})
    else:
        channel.write({"right": True})

_check(PAYLOAD["source"], PAYLOAD["entries"])
'''
)
