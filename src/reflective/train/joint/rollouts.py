"""Trajectories for the trainer, from the embedded engine on the weights that are being trained.

The engine's matrices are the model's own memory: an optimizer that moves them in place moves the engine, too, and what
the engine holds by value is refreshed before a generation. Nothing is copied, and a score comes with every step.

A trajectory's seed depends on the run's seed, the micro-batch's number, the prompt and its place, so that a resumed run
samples what an uninterrupted one would have sampled.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from reflective.engines.base import Finished, Request, Sampling
from reflective.engines.driver import Driver, Interrupts
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones.hf import ATTENTION
from reflective.judge.judge import Judge
from reflective.train.joint.config import RolloutConfig
from reflective.types import Trajectory

# further columns of a rollout, which the trainer finds in the rows of its batch
LOGPROBS, SCORE = "token_logprobs", "trajectory_score"


class EngineRollouts:
    """TRL's `rollout_func`: one completion for each prompt, in the same order.

    Make it before the model's optimizer, since the engine may lay the model's matrices side by side.
    """

    def __init__(self, model: Any, tokenizer: Any, judge: Judge, config: RolloutConfig, seed: int, name: str) -> None:
        self._attention = model.config._attn_implementation  # the one that training uses; the engine has its own
        self.engine = TorchEngine(model, tokenizer, judge, name=name, max_rows=config.rows)
        model.set_attn_implementation(self._attention)
        self._config, self._seed = config, seed
        self._written, self._seconds = 0, 0.0

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """One completion for each prompt. `logprobs` are the model's own (temperature 1)."""
        began = time.perf_counter()
        encoded = {text: self.engine.encode_prompt(text) for text in set(prompts)}
        seeds = [trajectory_seed(self._seed, trainer, i, len(prompts), text) for i, text in enumerate(prompts)]
        with self._writing(trainer.model), torch.no_grad():
            self.engine.refresh()
            written = self._write(
                [
                    Request(
                        encoded[text],
                        Sampling(temperature=self._config.temperature),
                        seed=seeds[place],
                        max_tokens=self._config.max_tokens,
                        until="eos",
                        index=place,
                    )
                    for place, text in enumerate(prompts)
                ]
            )
        self._written += sum(t.tokens for t in written)
        self._seconds += time.perf_counter() - began
        logprobs = [list(t.token_logprobs or ()) for t in written]
        return {
            "prompt_ids": [list(encoded[text]) for text in prompts],
            "completion_ids": [list(t.token_ids) for t in written],
            "logprobs": logprobs,
            LOGPROBS: logprobs,
            SCORE: [t.score for t in written],
        }

    def take_speed(self) -> float | None:
        """Tokens a second that were written since the last time; None where nothing was."""
        speed = self._written / self._seconds if self._written else None
        self._written, self._seconds = 0, 0.0
        return speed

    def _write(self, requests: Sequence[Request]) -> list[Trajectory]:
        driver, done = Driver.of(self.engine), dict[int, Trajectory]()
        interrupts = Interrupts()  # never opened: Ctrl-C is left to the run, which stops after a whole step
        try:
            with driver.client() as client:
                for request in requests:
                    client.submit(request)
                while client.in_flight:
                    for event in client.events(interrupts):
                        if isinstance(event, Finished):
                            done[event.trajectory.index] = event.trajectory
                            client.cancel(event.id)  # nobody continues it
        finally:
            if self.engine.model.device.type != "cpu":
                driver.call(lambda engine: engine.close())  # training needs the memory of the keys and values
        return [done[i] for i in range(len(requests))]

    @contextmanager
    def _writing(self, model: Any) -> Iterator[None]:
        """Without dropout and with the engine's attention; afterwards as before."""
        training = model.training
        model.eval()
        self.engine.model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            self.engine.model.set_attn_implementation(self._attention)
            model.train(training)


def trajectory_seed(seed: int, trainer: Any, place: int, count: int, prompt: str) -> int:
    """63 bits for the trajectory at `place` of this process's `count`; the same in every evaluation."""
    when = trainer.micro_batches_done if trainer.model.training else "held-out"
    where = trainer.accelerator.process_index * count + place
    digest = hashlib.blake2b(f"joint/{seed}/{when}/{where}/{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
