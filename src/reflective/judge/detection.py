"""The format of a model, found from its tokenizer and chat template: where its reasoning lies, where its steps end.

A chat template that mentions marks such as `<think>` belongs to a model that reasons between them; so does a tokenizer
without a template that has them as tokens. Every other model reasons in its response. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from reflective.errors import CheckpointError, InputError
from reflective.judge.format import Format, Mark, between_marks, whole_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RuleName = Literal["reference", "paper", "chinese", "paragraph", "line"]

STEP_TEXT: Final = ".\n\n"  # the mark that both the paper and the reference use
CHINESE_MAX_CHARS: Final = 3  # reference, Chinese mode: "short" tokens that hold a newline or a full stop
BLANK_LINE: Final = re.compile(r"\n[ \t\r]*\n")
LINE_END: Final = re.compile(r"\n[ \t\r]*\Z")
LINE_START: Final = re.compile(r"[ \t\r]*\n")

# marks that models are known to reason between, the usual ones first
KNOWN_MARKS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
WHOLE: Final = "whole"  # in place of marks: the model reasons in its response
SWITCHES: Final = ("enable_thinking", "thinking")  # variables of chat templates that turn the reasoning on or off


def detect_format(
    tokenizer: PreTrainedTokenizerBase,
    *,
    marks: tuple[str, str] | Literal["whole"] | None = None,
    rule: RuleName | None = None,
    step_token_ids: Iterable[int] | None = None,
    end_ids: Iterable[int] = (),
) -> Format:
    """The format of responses that a model with this tokenizer and chat template writes.

    `marks` names the opening and the closing mark, or is "whole"; None finds them. Steps end at `step_token_ids`, or
    else where `rule` says; without either at `.\\n\\n` for reasoning between marks where that is one token, and at
    blank lines otherwise. `end_ids` end a response.
    """
    found = detect_marks(tokenizer) if marks is None else None if marks == WHOLE else marks
    steps = _Steps.of(tokenizer, rule, step_token_ids, between=found is not None)
    turns = turn_ids(tokenizer)
    if found is None:
        ends = set(end_ids)
        if tokenizer.eos_token_id is not None:
            ends.add(int(tokenizer.eos_token_id))
        return whole_response(
            steps.ids - ends,
            ends,
            turn_ids=turns,
            line_end_ids=steps.line_ends - ends,
            line_start_ids=steps.line_starts - ends,
        )
    opening, closing = (mark_ids(tokenizer, text) for text in found)
    single = {token for mark in (opening, closing) if len(mark) == 1 for token in mark[0]}
    template = getattr(tokenizer, "chat_template", None)
    return between_marks(
        steps.ids - single,
        opening,
        closing,
        turn_ids=turns - single,
        plain_turns=bool(template) and not turns - single,
        line_end_ids=steps.line_ends - single,
        line_start_ids=steps.line_starts - single,
    )


def detect_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """The marks around the model's reasoning; None where it reasons in its response."""
    template = _template(tokenizer)
    if template:
        # a template that only closes the reasoning, as one that drops it from earlier turns, tells of it, too
        return next((pair for pair in KNOWN_MARKS if any(mark in template for mark in pair)), None)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return next((pair for pair in KNOWN_MARKS if set(pair) <= added), None)


def template_switches(tokenizer: PreTrainedTokenizerBase, *, reasons: bool) -> dict[str, bool]:
    """Variables of the chat template that turn reasoning between marks on or off, with the value for this format."""
    template = _template(tokenizer)
    return {name: reasons for name in SWITCHES if re.search(rf"(?<![\w'\".]){name}\b", template)}


def mark_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Mark:
    """The tokens of a mark: its own token, or the pieces that it is written in.

    Of several pieces the first may be the end of a longer token, and the last the beginning of one.
    """
    if not text.strip():
        raise InputError("a mark is empty; give a text such as <think>.")
    for i, token in tokenizer.added_tokens_decoder.items():
        if token.content == text:  # encoding it alone may put a space before it
            return (frozenset({int(i)}),)
    ids = _encode(tokenizer, text)
    if len(ids) == 1:
        return (frozenset(ids),)
    texts = token_texts(tokenizer)
    pieces = [texts.get(i, "").strip(" ") for i in ids]
    while pieces and not pieces[0]:  # the space that SentencePiece writes first
        del ids[0], pieces[0]
    if len(pieces) < 2 or "".join(pieces) != text:
        return tuple(frozenset({i}) for i in ids)
    first = frozenset(i for i, piece in texts.items() if piece.endswith(pieces[0]))
    last = frozenset(i for i, piece in texts.items() if piece.startswith(pieces[-1]))
    return (first, *(frozenset({i}) for i in ids[1:-1]), last)


def step_ids_by_rule(
    rule: RuleName, encode: Callable[[str], Sequence[int]], vocabulary: Mapping[int, str]
) -> frozenset[int]:
    """Token ids that end a step, each for itself.

    `encode` maps text to ids without special tokens; `vocabulary` maps each id to the text that it decodes to.
    "reference": the ids of ".\\n\\n" (it must be one token). "paper": every token that contains ".\\n\\n".
    "chinese": tokens of at most three characters that contain a newline or "。". "paragraph": every token that holds a
    blank line. "line": every token that holds a newline. Raises `CheckpointError` when the rule finds no token, except
    for "paragraph", where two newline tokens may make the blank line.
    """
    if rule == "reference":
        ids = list(encode(STEP_TEXT))
        if len(ids) != 1:
            raise CheckpointError(
                f"the tokenizer writes {STEP_TEXT!r} as {len(ids)} tokens, so it can't mark the end of a step. "
                "Use the rule 'paper' or 'paragraph', or name step token ids yourself."
            )
        return frozenset(ids)
    tests: Mapping[str, Callable[[str], bool]] = {
        "paper": lambda text: STEP_TEXT in text,
        "chinese": lambda text: len(text) <= CHINESE_MAX_CHARS and ("\n" in text or "。" in text),
        "paragraph": lambda text: BLANK_LINE.search(text) is not None,
        "line": lambda text: "\n" in text,
    }
    if rule not in tests:
        raise InputError(f"unknown step rule {rule!r}; known are {', '.join(get_args(RuleName))}.")
    found = frozenset(i for i, text in vocabulary.items() if tests[rule](text))
    if not found and rule != "paragraph":
        raise CheckpointError(
            f"the step rule {rule!r} finds no token in this vocabulary. Name step token ids yourself."
        )
    return found


class _Steps:
    """Where steps end, as sets of ids."""

    def __init__(self, ids: Iterable[int], texts: Mapping[int, str] | None = None) -> None:
        self.ids = frozenset(ids)
        pairs = (texts or {}).items()
        self.line_ends = frozenset(i for i, text in pairs if LINE_END.search(text))
        self.line_starts = frozenset(i for i, text in pairs if LINE_START.match(text))

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        rule: RuleName | None,
        step_token_ids: Iterable[int] | None,
        *,
        between: bool,
    ) -> _Steps:
        if step_token_ids is not None:
            return cls(step_token_ids)
        if rule is None:
            one_token = len(_encode(tokenizer, STEP_TEXT)) == 1
            rule = "reference" if between and one_token else "paragraph"
        texts = {} if rule == "reference" else token_texts(tokenizer)
        # no rule looks at a token without one of these, and few have one
        texts = {i: text for i, text in texts.items() if "\n" in text or "。" in text}
        ids = step_ids_by_rule(rule, lambda text: _encode(tokenizer, text), texts)
        steps = cls(ids, texts if rule == "paragraph" else None)
        if not steps.ids and not (steps.line_ends and steps.line_starts):
            raise CheckpointError("the tokenizer has no token with a newline, so no step ends. Name step token ids.")
        return steps


def turn_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens, and of the added tokens that the chat template writes around a message.

    The second half is needed since some models mark turns by added tokens that don't count as special.
    """
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    if not getattr(tokenizer, "chat_template", None):
        return special
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )
    except Exception:  # a template is a program of the model's author: whatever it raises, it tells us nothing
        return special
    return special | (set(_encode(tokenizer, str(text))) & set(added))


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What each ordinary token decodes to."""
    added = tokenizer.added_tokens_decoder
    ids = [i for i in tokenizer.get_vocab().values() if i not in added]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # all at once, in compiled code
        return dict(zip(ids, backend.decode_batch([[i] for i in ids], skip_special_tokens=False), strict=True))
    return {i: str(tokenizer.decode([i])) for i in ids}


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template: Any = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(template.values()) if isinstance(template, dict) else str(template)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
