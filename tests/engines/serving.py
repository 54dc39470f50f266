"""For tests of served models: tiny checkpoints that vLLM can run, and a server with vLLM's API that can misbehave.

The server computes with Hugging Face and writes scores as the plugin does, so what engines read is right or wrong for
real. A fault is a function of the request's number that says how that answer goes wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from reflective.engines.base import Finished, Request
from reflective.engines.vllm.slots import OFFSET, slots_of
from reflective.judge.judge import Judge
from reflective.models import Checkpoint, load_checkpoint, save_checkpoint
from reflective.types import Trajectory
from tiny import init_head, tiny_model, tiny_tokenizer

STEP_IDS = tuple(range(0, 250, 3))  # random models seldom draw one given token
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}  # sizes that vLLM has

Fault = Callable[[int], str]


def serving_folder(folder: Path, family: str = "qwen2", *, seed: int = 0, **settings: Any) -> Path:
    """A tiny checkpoint whose unused ids are never drawn and whose scores spread over 0..1; `settings` as in
    `init_head`."""
    overrides: dict[str, Any] = dict(SHAPE)
    if family == "phi":
        overrides["num_key_value_heads"] = overrides["num_attention_heads"]
    model, tokenizer = tiny_model(family, seed=seed, **overrides), tiny_tokenizer()
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] = 0.0
    head, config = init_head(model, tokenizer, **{"seed": seed, "step_token_ids": STEP_IDS, **settings})
    with torch.no_grad():  # logits of mean 0 and standard deviation 1.5
        ids = torch.randint(0, 250, (1, 48), generator=torch.Generator().manual_seed(seed))
        hidden = model(ids, output_hidden_states=True).hidden_states[config.layer][0]
        features = torch.relu(head.hidden(hidden))
        head.output.weight.mul_(1.5 / head.output(features).std())
        head.output.bias.sub_(head.output(features).mean())
        if head.logprob_weight is not None:
            head.logprob_weight.copy_(torch.tensor([0.3, -0.2]))
            head.probability_exponent = 0.02
            config = replace(config, probability_exponent=0.02)
    return save_checkpoint(folder, Checkpoint(model, tokenizer, Judge(config, head.eval()), "tiny"))


def write(engine: Any, requests: list[Request]) -> list[Trajectory]:
    """The trajectories of all requests, in their order."""
    ids = [engine.submit(request) for request in requests]
    done: dict[int, Trajectory] = {}
    while engine.busy:
        for event in engine.step():
            if isinstance(event, Finished):
                done[event.id] = event.trajectory
    return [done[id] for id in ids]


class FakeVLLM:
    """A server at `url`. `requests` keeps the bodies that came, `keys` the API keys."""

    def __init__(self, folder: Path, *, fault: Fault = lambda _: "", key: str | None = None, pause_s: float = 0.0):
        self.checkpoint = load_checkpoint(folder, dtype="float32", device="cpu")
        self.fault, self.key, self.pause_s = fault, key, pause_s
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.model_name = str(folder)
        self._lock, self._closing = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                server._models(self)

            def do_POST(self) -> None:
                server._complete(self)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False  # `close` waits for them: a thread that computes must not outlive Python
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    # ---- answers

    def _allowed(self, handler: Any) -> bool:
        given = handler.headers.get("Authorization")
        self.keys.append(given)
        if self.key is not None and given != f"Bearer {self.key}":
            self._reply(handler, 401, {"error": {"message": "who are you?"}})
            return False
        return True

    def _reply(self, handler: Any, status: int, data: Any, **headers: str) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(json.dumps(data).encode())

    def _models(self, handler: Any) -> None:
        if not self._allowed(handler):
            return
        if handler.path != "/v1/models":
            self._reply(handler, 404, {"detail": "Not Found"})
            return
        length = self.checkpoint.model.config.max_position_embeddings
        self._reply(handler, 200, {"data": [{"id": self.model_name, "root": "x", "max_model_len": length}]})

    def _complete(self, handler: Any) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if not self._allowed(handler):
            return
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
        if any(i >= self.checkpoint.model.config.vocab_size for i in body.get("logprob_token_ids", ())):
            self._reply(handler, 400, {"error": {"message": "token id out of vocabulary"}})
            return
        fault = self.fault(number)
        if fault == "busy":
            self._reply(handler, 429, {"error": "slow down"}, Retry_After="0.05")
            return
        if fault == "overloaded":
            self._reply(handler, 503, {"error": "starting"})
            return
        if fault == "silent":
            self._closing.wait(8.0)
            return
        handler.send_response(200)
        handler.end_headers()
        if fault == "cut at once":
            return
        try:
            for count, event in enumerate(self._events(body, fault), 1):
                if fault == "garbage" and count == 2:
                    handler.wfile.write(b"data: {]\n\n")
                    return
                if fault == "abort" and count == 2:
                    event["choices"][0]["finish_reason"] = "abort"
                line = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
                if fault == "half a line" and count == 2:
                    handler.wfile.write(line[: len(line) // 2])
                    return
                handler.wfile.write(line)
                if fault in ("cut", "abort") and count == 2:
                    return
                time.sleep(self.pause_s)
            handler.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has seen enough

    def _events(self, body: dict[str, Any], fault: str) -> Any:
        tokenizer = self.checkpoint.tokenizer
        prompt = body["prompt"]
        ids = tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else list(prompt)
        stops = {*body["stop_token_ids"], tokenizer.eos_token_id}
        first, waiting = True, []
        count = body["max_tokens"] + (5 if fault == "too many" else 0)
        for i in range(count):
            with self._lock:
                entry = self._draw(ids, body, i)
            ids.append(entry[0])
            waiting.append(entry)
            end = "stop" if entry[0] in stops else "length" if i + 1 == count else None
            if end is None and not first and len(waiting) < body["stream_interval"]:
                continue
            choice: dict[str, Any] = {"index": 0, "text": "a\u2028b\x85c", "finish_reason": end}
            if body["return_token_ids"] and fault != "no ids":
                choice["token_ids"] = [token for token, _, _ in waiting]
            choice["logprobs"] = {
                "tokens": ["?" if fault == "no ids" else f"token_id:{token}" for token, _, _ in waiting],
                "token_logprobs": [value for _, value, _ in waiting],
                "top_logprobs": [top if fault != "no scores" else {} for _, _, top in waiting],
            }
            if first and body["return_token_ids"]:
                choice["prompt_token_ids"] = ids[: len(ids) - len(waiting)]
            yield {"id": "x", "choices": [choice]}
            first, waiting = False, []
            if end is not None:
                return

    @torch.inference_mode()
    def _draw(self, ids: list[int], body: dict[str, Any], i: int) -> tuple[int, float, dict[str, float]]:
        checkpoint = self.checkpoint
        out = checkpoint.model(torch.tensor([ids]), output_hidden_states=True)
        logits = out.logits[0, -1].float()
        slots = slots_of(checkpoint.tokenizer, checkpoint.model.config)
        logits[list(slots.ids)] = OFFSET
        feature = out.hidden_states[checkpoint.config.layer][0, -1:]
        extra = torch.zeros(1, 2) if checkpoint.head.uses_logprobs else None
        logits[slots.score] = OFFSET + checkpoint.head(feature, extra)[0]
        logprobs = logits.log_softmax(-1)
        if body["temperature"] == 0:
            token = int(logits.argmax())
        else:
            generator = torch.Generator().manual_seed(body["seed"] + i)
            token = int((logits / body["temperature"]).softmax(-1).multinomial(1, generator=generator))
        top = {f"token_id:{slot}": float(logprobs[slot]) for slot in body.get("logprob_token_ids", ())}
        return token, float(logprobs[token]), top | {f"token_id:{token}": float(logprobs[token])}


@contextmanager
def fake_server(folder: Path, **options: Any) -> Any:
    """A `FakeVLLM` for a while."""
    server = FakeVLLM(folder, **options)
    try:
        yield server
    finally:
        server.close()
