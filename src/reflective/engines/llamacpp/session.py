"""llama.cpp by what llama-cpp-python makes public: a model, sequences of tokens, logits and the states of a layer.

The states come by `cb_eval`, which llama.cpp asks for every node of a pass whether its numbers are wanted. The node is
named `l_out-N`, N counting the layers from 0. Nothing of llama.cpp's unstable headers is used, and no fork.

Letters: N tokens of a pass, M of them whose logits are wanted, H hidden size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from reflective.errors import DependencyError, EngineError, first_line

SEQUENCES: Final = 256  # that llama.cpp tells apart, at most
BATCH: Final = 512  # tokens of a pass, at most
NO_ROOM: Final = 1  # what `llama_decode` returns where the positions are taken
ERROR: Final = 4  # a level of its messages
UNFIT: Final = (
    "is_recurrent",
    "is_hybrid",
    "is_diffusion",
    "has_encoder",
)  # sequences of these can't be shared in part


class NoRoomError(Exception):
    """All positions are taken."""


class Session:
    """A GGUF file in memory, with `positions` for the tokens of all sequences together.

    `layer` is the index of the hidden states that a pass hands out, 1 being what leaves the first layer; None: none.
    """

    def __init__(self, path: Path, *, positions: int, layer: int | None, threads: int) -> None:
        self._llama = llama = _library()
        self._path, self._context = path, None
        _, self._messages = _listener(llama)
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise EngineError(f"llama.cpp can't load '{path}': {self._reason()}")
        if unfit := next((name for name in UNFIT if getattr(llama, f"llama_model_{name}")(self._model)), None):
            self.close()
            raise EngineError(
                f"'{path}' is no plain decoder (llama.cpp: {unfit.replace('_', ' ')}), and the engine llamacpp writes "
                "with those alone. Use the engine torch."
            )
        self.hidden_size = int(llama.llama_model_n_embd(self._model))
        self.vocabulary = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model)))
        self.dtype = self._stored_dtype()
        self._node = f"l_out-{layer - 1}".encode() if layer is not None else None
        self._states = torch.zeros(BATCH, self.hidden_size)  # that nobody fills without a layer
        self._expected, self._seen = 0, False  # tokens of the pass under way, and whether it has handed out states
        self._see = self._observer()
        self._context = llama.llama_init_from_model(self._model, self._parameters(positions, threads))
        if not self._context:
            reason = self._reason()
            self.close()
            raise EngineError(f"llama.cpp has no room for {positions:,} tokens: {reason} Give fewer `positions`.")
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(BATCH, 0, 1)

    def _stored_dtype(self) -> str:
        """Of the weights, as llama.cpp names it, such as "Q8_0"."""
        text = ctypes.create_string_buffer(256)
        self._llama.llama_model_desc(self._model, text, len(text))
        kind = text.value.decode("utf-8", "replace").split(maxsplit=2)[-1]  # behind architecture and size
        return kind.removeprefix("(guessed) ")

    def _parameters(self, positions: int, threads: int) -> Any:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = positions, SEQUENCES
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True  # sequences share the positions of what they have in common
        parameters.swa_full = True  # without it, a sequence can't be shared in part
        if self._node is not None:
            parameters.cb_eval = self._see
        return parameters

    def _reason(self) -> str:
        return f"{self._messages[0] if self._messages else 'it does not say why'}."

    def _observer(self) -> Any:
        """What llama.cpp calls for each node of a pass, to ask, and again for the wanted one when it is computed."""
        ggml, wanted, states = _ggml(self._llama), self._node, self._states
        name = ggml.ggml_get_name

        def see(node: int, asks: bool, _: Any) -> bool:
            if asks:
                return bool(name(node) == wanted)
            size = ggml.ggml_nbytes(node)
            if size == self._expected * self.hidden_size * states.element_size():
                ggml.ggml_backend_tensor_get(node, states.data_ptr(), 0, size)
                self._seen = True
            return True

        return self._llama.ggml_backend_sched_eval_callback(see)

    # ---- passes

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """One pass over at most `BATCH` tokens: logits (M, V) of those that are `wanted`, states (N, H) of all.

        Both are valid until the next pass. Raises `NoRoomError`, and `EngineError` where llama.cpp fails.
        """
        batch, count = self._batch, len(tokens)
        batch.n_tokens, self._expected, self._seen = count, count, False
        for i, (token, position, sequence, is_wanted) in enumerate(zip(tokens, positions, sequences, wanted)):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, is_wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        code = self._llama.llama_decode(self._context, batch)
        if code == NO_ROOM:
            raise NoRoomError
        if code:
            raise EngineError(f"llama.cpp failed with code {code}: {self._reason()}")
        if self._node is not None and not self._seen:
            raise EngineError(
                f"llama.cpp hands out no states of {self._node.decode()!r} for '{self._path}', so its steps can't be "
                "scored. Use the engine torch, or --head none."
            )
        outputs = sum(map(bool, wanted))
        if not outputs:
            return torch.empty(0, self.vocabulary), self._states[:count]
        logits = numpy.ctypeslib.as_array(self._llama.llama_get_logits(self._context), (outputs, self.vocabulary))
        return torch.from_numpy(logits), self._states[:count]

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with the first positions of another one."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def drop(self, sequence: int, start: int = 0) -> None:
        """Forget a sequence from a position on."""
        if self._context:
            self._llama.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def close(self) -> None:
        """Free the memory."""
        if self._context:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
        if self._model:
            self._llama.llama_model_free(self._model)
        self._context = self._model = None


def _library() -> Any:
    try:
        import llama_cpp
    except Exception as error:  # its library may be missing, or be built for another machine
        raise DependencyError(
            f"the engine llamacpp needs llama-cpp-python ({first_line(error)}). Install it in the checkout: "
            "pip install '.[llamacpp]', or use the engine torch."
        ) from error
    return llama_cpp


@cache
def _listener(llama: Any) -> tuple[Any, list[str]]:
    """What llama.cpp calls with its messages, for as long as the process lives, and the last error among them."""
    errors: list[str] = []

    def note(level: int, text: bytes, _: Any) -> None:
        if level == ERROR:
            errors[:] = [text.decode("utf-8", "replace").strip().rstrip(".")]

    heard = llama.llama_log_callback(note)
    llama.llama_log_set(heard, None)
    llama.llama_backend_init()
    return heard, errors


def _ggml(llama: Any) -> Any:
    """The functions of `ggml.h` and `ggml-backend.h` that read a node, found through the library that uses them."""
    ggml = llama.llama_cpp._lib
    ggml.ggml_get_name.restype, ggml.ggml_get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    ggml.ggml_nbytes.restype, ggml.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    ggml.ggml_backend_tensor_get.restype = None
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return ggml
