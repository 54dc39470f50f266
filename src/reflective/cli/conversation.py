"""A conversation in a terminal: its turns, its settings, and the commands that change them. No printing, no input.

Earlier turns are sent with their answers alone; their reasoning is left out, as chat templates want it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reflective.errors import InputError
from reflective.files import write_text
from reflective.settings import did_you_mean

if TYPE_CHECKING:
    from reflective.api import Reflective
    from reflective.options import Options
    from reflective.search import Interrupts, SearchEvent
    from reflective.types import Solution

HELP: Final[Mapping[str, str]] = {
    "/effort E": "low (2), medium (8), high (32), a number of trajectories, or auto",
    "/strategy S": "auto, best_of_n, majority, weighted, logprob or single",
    "/system TEXT": "set the system message; without a text, leave it out",
    "/seed N": "of the next turn; each turn after it takes the next number",
    "/max-tokens N": "of the reasoning; without a number, no limit but the context",
    "/steps": "show the steps of the last answer with their scores",
    "/retry": "ask the last question again, with the next seed",
    "/undo": "take the last question and its answer back",
    "/reset": "forget the conversation; the system message stays",
    "/save FILE": "write the conversation to a JSON file of messages",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does",
}


class Quit(Exception):
    """The user has had enough."""


@dataclass(slots=True)
class Conversation:
    """Turns with one model. `solution` is the last one."""

    model: Reflective
    options: Options
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    solution: Solution | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the model is asked: the system message and all turns."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns]

    def ask(self, text: str, interrupts: Interrupts | None = None) -> Iterator[SearchEvent]:
        """Ask and tell what happens. A question that got no answer, or was given up, leaves no turn behind."""
        from reflective.search import Solved

        self.turns.append({"role": "user", "content": text})
        kept = False
        try:
            for event in self.model.stream(self.messages, interrupts=interrupts, **self.options):
                if isinstance(event, Solved):
                    self.solution = event.solution
                    self.options["seed"] = self.options.get("seed", 0) + 1
                    answer = self.answer_text
                    kept = bool(answer)
                    if kept:
                        self.turns.append({"role": "assistant", "content": answer})
                yield event
        finally:
            if not kept:
                self.turns.pop()

    @property
    def answer_text(self) -> str:
        """The last answer as it is written; of a model whose whole response is its reasoning, the response."""
        if self.solution is None:
            return ""
        best, text = self.solution.best, self.solution.answer_text.strip()
        if not text and best is not None and self.model.engine.judge.format.is_whole:
            return best.thinking.strip()
        return text

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash says, and tell what was done."""
        name, _, rest = line.strip().partition(" ")
        handlers: dict[str, Callable[[str], str]] = {
            "/effort": lambda value: self._set("effort", value),
            "/strategy": lambda value: self._set("strategy", value),
            "/seed": lambda value: self._set("seed", _whole("seed", value)),
            "/max-tokens": lambda value: self._set("max_tokens", _whole("max-tokens", value) if value else None),
            "/system": self._set_system,
            "/steps": self._steps,
            "/undo": self._undo,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: "\n".join(f"{what:<14}  {does}" for what, does in HELP.items()),
            "/quit": _quit,
            "/exit": _quit,
        }
        if name not in handlers:
            raise InputError(f"there is no command {name}.{did_you_mean(name, list(handlers))} /help lists them.")
        return handlers[name](rest.strip())

    def last_question(self) -> str:
        """The question of the last turn, taken back, so that it can be asked again."""
        if not self.turns:
            raise InputError("there is no question to ask again.")
        question = self.turns[-2]["content"]
        self._undo("")
        return question

    def _set(self, name: str, value: Any) -> str:
        options: Any = {**self.options, name: value}
        self.model.plan(**options)  # what can't be is refused, and nothing changes
        self.options = options
        return f"{name.replace('_', '-')}: {'no limit' if value is None else value}"

    def _set_system(self, text: str) -> str:
        self.system = text or None
        return f"system message: {text or 'none'}"

    def _steps(self, _: str) -> str:
        from reflective.render import number, score_block

        best = self.solution.best if self.solution is not None else None
        if best is None:
            raise InputError("there is no answer yet whose steps could be shown.")
        lines = [f"{score_block(step.score)} {step.score:.2f}  {step.text.strip()}" for step in best.steps]
        return "\n".join([*(lines or [best.thinking.strip()]), f"score {number(best.score)}"])

    def _undo(self, _: str) -> str:
        if not self.turns:
            raise InputError("there is nothing to take back.")
        del self.turns[-2:]
        return f"taken back; {len(self.turns) // 2} questions are left"

    def _reset(self, _: str) -> str:
        self.turns.clear()
        self.solution = None
        return "forgotten"

    def _save(self, name: str) -> str:
        if not name:
            raise InputError("name the file: /save conversation.json")
        text = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=1)
        write_text(Path(name).expanduser(), text + "\n")
        return f"written: {name}"


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"/{name} takes a whole number; got {value!r}.") from None


def _quit(_: str) -> str:
    raise Quit
