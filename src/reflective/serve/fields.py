"""Every field of the API, and what becomes of it: honoured, ignored or refused.

*Ignored* fields change nothing that a client could notice: bookkeeping, hints about caches and speed. A *refused* field
that holds more than a neutral value is answered with status 400 and its name, since an answer that pretends to have
heeded it would be wrong. A field that is not here is refused as unknown. The tables in docs/serving.md are these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reflective.serve.faults import Fault


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a field; of a refused one, the values that say nothing and are passed over."""

    treatment: Literal["honoured", "ignored", "refused"]
    note: str
    neutral: tuple[Any, ...] = ()


def _honoured(note: str) -> Rule:
    return Rule("honoured", note)


def _ignored(note: str) -> Rule:
    return Rule("ignored", note)


def _refused(note: str, *neutral: Any) -> Rule:
    return Rule("refused", note, neutral)


_COMMON: Mapping[str, Rule] = {
    "model": _honoured("the name that /v1/models gives"),
    "stream": _honoured("server-sent events"),
    "temperature": _honoured("0 is greedy; default: as the head was trained, or the model's own"),
    "top_p": _honoured("as temperature"),
    "tools": _honoured("functions, where the model's chat template renders them"),
    "tool_choice": _honoured('"auto", "none", "required" or a function, which alone is offered then'),
    "parallel_tool_calls": _honoured("false: the first call alone is given"),
    "reflective": _honoured("effort, strategy, answers, events, steps: see above"),
    "metadata": _ignored("bookkeeping"),
    "user": _ignored("bookkeeping"),
    "safety_identifier": _ignored("bookkeeping"),
    "store": _ignored("nothing is stored, unless the server keeps answers for feedback"),
    "service_tier": _ignored("there is one"),
    "prompt_cache_key": _ignored("a hint"),
    "prompt_cache_options": _ignored("a hint"),
    "prompt_cache_retention": _ignored("a hint"),
    "top_logprobs": _refused("token log-probabilities are not given", 0),
    "moderation": _refused("nothing is moderated"),
}

CHAT: Mapping[str, Rule] = {
    **_COMMON,
    "messages": _honoured("system, developer, user, assistant, tool; content as text or parts of type text"),
    "reasoning_effort": _honoured("none, minimal 1; low 2; medium 8; high 32; xhigh 64; a number; auto"),
    "max_completion_tokens": _honoured("bounds what one trajectory writes, reasoning and answer"),
    "max_tokens": _honoured("the older name of max_completion_tokens, which counts where both are given"),
    "seed": _honoured("default: drawn at random, and returned in `reflective.seed`"),
    "stop": _honoured("up to 16 texts, each ends the answer"),
    "n": _honoured("the n best answers, best first; at least n trajectories are written"),
    "stream_options": _honoured("include_usage"),
    "response_format": _honoured("text, json_object, json_schema: reasoning is free, the answer constrained"),
    "top_k": _honoured("not OpenAI's: as vLLM has it"),
    "min_p": _honoured("not OpenAI's: as vLLM has it"),
    "repetition_penalty": _honoured("not OpenAI's: as vLLM has it"),
    "prediction": _ignored("a hint about speed"),
    "verbosity": _refused("the model has no such setting", "medium"),
    "frequency_penalty": _refused("the sampler has none; repetition_penalty is known", 0),
    "presence_penalty": _refused("the sampler has none; repetition_penalty is known", 0),
    "logit_bias": _refused("the sampler has none", {}),
    "logprobs": _refused("token log-probabilities are not given", False),
    "modalities": _refused("text alone", ["text"]),
    "audio": _refused("text alone"),
    "web_search_options": _refused("nothing is searched"),
    "functions": _refused("deprecated by OpenAI: use tools", []),
    "function_call": _refused("deprecated by OpenAI: use tool_choice", "none", "auto"),
}

RESPONSES: Mapping[str, Rule] = {
    **_COMMON,
    "input": _honoured("a text, or messages, function calls and their outputs; earlier reasoning is left out"),
    "instructions": _honoured("a system message before the input"),
    "metadata": _honoured("bookkeeping: given back"),
    "user": _honoured("bookkeeping: given back"),
    "safety_identifier": _honoured("bookkeeping: given back"),
    "prompt_cache_key": _honoured("a hint: given back"),
    "reasoning": _honoured("effort, as reasoning_effort; summary is ignored: the reasoning is given in full; no mode"),
    "max_output_tokens": _honoured("bounds what one trajectory writes, reasoning and answer"),
    "text": _honoured("format: text, json_object, json_schema; no verbosity"),
    "include": _ignored("the reasoning is always given"),
    "stream_options": _ignored("include_obfuscation"),
    "truncation": _refused("a prompt that is too long is refused", "disabled", "auto"),
    "previous_response_id": _refused("the server keeps no conversations: send them whole"),
    "conversation": _refused("the server keeps no conversations: send them whole"),
    "background": _refused("the server keeps no responses", False),
    "background_options": _refused("the server keeps no responses"),
    "prompt": _refused("the server keeps no prompts"),
    "context_management": _refused("the server keeps no conversations", []),
    "max_tool_calls": _refused("there are no built-in tools"),
    "image": _refused("text alone"),
    "access_programs": _refused("there are none", []),
}


# of what stands in these fields; an unknown field of a message is passed over, since others' answers have many
STREAM_OPTIONS: Mapping[str, Rule] = {"include_usage": _honoured(""), "include_obfuscation": _ignored("")}
MESSAGE: Mapping[str, Rule] = {
    "function_call": _refused("deprecated by OpenAI: use tool_calls"),
    "audio": _refused("text alone"),
}
TEXT: Mapping[str, Rule] = {"format": _honoured(""), "verbosity": CHAT["verbosity"]}
REASONING: Mapping[str, Rule] = {
    "effort": _honoured(""),
    "summary": _ignored(""),
    "generate_summary": _ignored(""),
    "context": _refused("earlier reasoning is left out", "auto", "current_turn"),
    "mode": _refused("there is one", "standard"),
}


def sift(body: Any, rules: Mapping[str, Rule], where: str = "") -> Any:
    """The honoured fields of a body, and unknown ones, which the schema refuses. Raises `Fault` for refused ones.

    `where` the body stands in the request is put before their names."""
    if not isinstance(body, dict):
        return body
    kept = {}
    for name, value in body.items():
        rule = rules.get(name)
        if rule is None or rule.treatment == "honoured":
            kept[name] = value
        elif rule.treatment == "refused" and value is not None and value not in rule.neutral:
            param = where + name
            raise Fault(
                400, f"'{param}' is not supported here: {rule.note}.", param=param, code="unsupported_parameter"
            )
    return kept


def table(rules: Mapping[str, Rule]) -> str:
    """The rules as the table of docs/serving.md."""
    rows = [f"| `{name}` | {rule.treatment} | {rule.note} |" for name, rule in sorted(rules.items())]
    return "\n".join(["| field | | |", "|---|---|---|", *rows])
