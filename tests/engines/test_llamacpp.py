"""The engine llamacpp: over a model that stands in for llama.cpp everywhere, over llama.cpp where it is installed.

The stand-in refuses what llama.cpp would: tokens that don't follow what their sequence holds, more tokens at once than
fit into a pass, more positions than there are. Its numbers are those of the embedded engine, so the two must agree.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.torch.runs import GREEDY, finished, judge_of, make_engine, make_head, prompts, run, write
from reflective import files
from reflective.engines import serve_engine
from reflective.engines.base import Request, Sampling
from reflective.engines.llamacpp.engine import LlamaCppEngine, _layer
from reflective.engines.llamacpp.session import BATCH, SEQUENCES, NoRoomError, Session
from reflective.errors import CheckpointError, DependencyError, EngineError, InputError
from reflective.judge.sidecar import write_judge
from reflective.models.metadata import Metadata
from tiny import CONTEXT, VOCABULARY, tiny_checkpoint, tiny_model, tiny_tokenizer

HAS_LLAMA = importlib.util.find_spec("llama_cpp") is not None
NEEDS_LLAMA = pytest.mark.skipif(not HAS_LLAMA, reason="llama-cpp-python is not installed; .ci/run builds it")
PROMPT, OTHER = prompts(20, 12)
WARM = Sampling(temperature=0.8)


class StandIn:
    """A `Session` over a Hugging Face model."""

    def __init__(self, model: Any, positions: int = 4096, layer: int = -2) -> None:
        self.model, self.positions, self.layer = model, positions, layer
        self.hidden_size, self.vocabulary = 64, VOCABULARY
        self.held: dict[int, list[list[int]]] = {}  # cells of each sequence; a cell is a list, to be told apart
        self.computed = 0
        self.dtype, self.closed = "F32", False

    @property
    def taken(self) -> int:
        return len({id(cell) for cells in self.held.values() for cell in cells})

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert 0 < len(tokens) == len(positions) == len(sequences) == len(wanted) <= BATCH
        assert all(0 <= sequence < SEQUENCES for sequence in sequences)
        if self.taken + len(tokens) > self.positions:
            raise NoRoomError
        self.computed += len(tokens)
        for token, position, sequence in zip(tokens, positions, sequences):
            cells = self.held.setdefault(sequence, [])
            assert position == len(cells), "a token that does not follow what its sequence holds"
            cells.append([token])
        logits, states = {}, {}
        for sequence in set(sequences):
            out = self.model(torch.tensor([[c[0] for c in self.held[sequence]]]), output_hidden_states=True)
            logits[sequence], states[sequence] = out.logits[0], out.hidden_states[self.layer][0]
        places = list(zip(sequences, positions))
        chosen = [logits[s][p] for (s, p), is_wanted in zip(places, wanted) if is_wanted]
        return torch.stack(chosen) if chosen else torch.empty(0, VOCABULARY), torch.stack(
            [states[s][p] for s, p in places]
        )

    def share(self, source: int, target: int, length: int) -> None:
        assert not self.held.get(target) and len(self.held[source]) >= length
        self.held[target] = self.held[source][:length]

    def drop(self, sequence: int, start: int = 0) -> None:
        self.held[sequence] = self.held.get(sequence, [])[:start]

    def close(self) -> None:
        self.closed = True


def metadata(judge: Any = None, **changes: Any) -> Metadata:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    judge = judge or judge_of(make_head(model))
    eos = frozenset([tokenizer.eos_token_id])
    return replace(Metadata("tiny", Path("tiny"), tokenizer, model.config, judge, eos, CONTEXT), **changes)


def make(positions: int = 4096, *, judge: Any = None, **options: Any) -> tuple[LlamaCppEngine, StandIn]:
    session = StandIn(tiny_model(), positions)
    return LlamaCppEngine(metadata(judge), session, positions=positions, **options), session  # type: ignore[arg-type]


def requests(count: int, **settings: Any) -> list[Request]:
    return [
        Request((PROMPT, OTHER)[i % 3 == 2], WARM, seed=i, index=i, max_tokens=14, **settings) for i in range(count)
    ]


def assert_alike(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.token_ids, mine.finish_reason, mine.index) == (other.token_ids, other.finish_reason, other.index)
        assert [s.position for s in mine.steps] == [s.position for s in other.steps]
        assert [s.logit for s in mine.steps] == pytest.approx([s.logit for s in other.steps], abs=1e-3)
        assert mine.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-3)


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, WARM, Sampling(top_p=0.7, top_k=20, min_p=0.02), Sampling(repetition_penalty=1.3)],
    ids=["greedy", "warm", "filtered", "penalized"],
)
def test_writes_draws_and_scores_as_the_embedded_engine_does(sampling: Sampling) -> None:
    engine, _ = make(max_rows=4)
    asked = [replace(request, sampling=sampling) for request in requests(7)]
    ours = write(engine, asked)
    assert_alike(ours, write(make_engine(max_rows=4), asked))
    assert any(t.steps for t in ours) and engine.scored


def test_a_head_that_reads_log_probabilities_scores_alike() -> None:
    head = make_head(tiny_model(), logprob_features=True)
    engine, _ = make(judge=judge_of(head))
    assert_alike(write(engine, requests(3)), write(make_engine(logprob_features=True), requests(3)))


def test_a_prompt_is_computed_once_for_all_its_trajectories_and_held_once() -> None:
    engine, session = make()
    ids = [engine.submit(Request(PROMPT, WARM, seed=i, max_tokens=2, until="eos")) for i in range(8)]
    engine.step()
    assert session.computed == len(PROMPT) + 8, "the prompt, and the first token of each"
    assert session.taken == len(PROMPT) + 8
    run(engine)
    again = engine.submit(Request(PROMPT, WARM, seed=9, max_tokens=1, until="eos"))
    before = session.computed
    run(engine)
    assert session.computed == before + 1, "a later one recomputes the prompt's last position alone"
    for id in (*ids, again):
        engine.cancel(id)
    assert session.taken == 0, "what is forgotten takes no positions"


def test_a_continuation_and_a_fork_compute_what_they_add() -> None:
    engine, session = make()
    parent = engine.submit(Request(PROMPT, GREEDY, max_tokens=8, until="eos"))
    run(engine)
    before = session.computed
    child = engine.submit(Request((), GREEDY, parent=parent, max_tokens=4, until="eos"))
    run(engine)
    assert session.computed == before + 4
    fork = engine.fork(parent, 3, Request((), GREEDY, max_tokens=4, until="eos"))
    done = finished(run(engine))
    assert session.computed == before + 8
    whole = write(make_engine(), [Request(PROMPT, GREEDY, max_tokens=12, until="eos")])[0].token_ids
    assert engine._finished[child].token_ids == list(whole) and done[fork].token_ids == whole[:7]


def test_a_running_trajectory_is_forked_and_a_cancelled_one_leaves() -> None:
    engine, session = make()
    parent = engine.submit(Request(PROMPT, GREEDY, max_tokens=12, until="eos"))
    sibling = engine.submit(Request(PROMPT, WARM, seed=3, max_tokens=12, until="eos"))
    for _ in range(5):
        engine.step()
    before = session.computed
    fork = engine.fork(parent, 4, Request((), GREEDY, max_tokens=8, until="eos"))
    engine.cancel(sibling)
    engine.step()
    assert session.computed == before + 2, "a token of the parent and one of the fork"
    done = finished(run(engine))
    assert done[fork].token_ids == done[parent].token_ids and len(done[parent].token_ids) == 12


def test_without_room_fewer_are_written_at_once_and_none_is_another() -> None:
    asked = requests(6, until="eos")
    engine, _ = make(len(PROMPT) + len(OTHER) + 40, max_rows=6)
    assert_alike(write(engine, asked), write(make_engine(), asked))
    assert engine.max_rows < 6


def test_finished_trajectories_give_way_and_are_computed_again_when_they_go_on() -> None:
    engine, session = make(60, max_rows=1)
    first = engine.submit(Request(PROMPT, GREEDY, max_tokens=16, until="eos"))
    run(engine)
    for seed in range(3):
        engine.submit(Request(OTHER, WARM, seed=seed, max_tokens=20, until="eos"))
    run(engine)
    before = session.computed
    child = engine.submit(Request((), GREEDY, parent=first, max_tokens=4, until="eos"))
    done = finished(run(engine))
    assert session.computed > before + len(PROMPT), "it had been forgotten"
    whole = write(make_engine(), [Request(PROMPT, GREEDY, max_tokens=20, until="eos")])[0]
    assert done[child].token_ids == whole.token_ids


def test_more_than_there_is_room_for_even_alone_is_refused() -> None:
    engine, _ = make(16)
    with pytest.raises(InputError, match="at most 16"):
        engine.submit(Request(PROMPT, GREEDY, max_tokens=8))


def test_given_text_is_scored_as_by_the_embedded_engine_and_leaves_nothing_in_the_way() -> None:
    engine, session = make(80)
    head = make_head(tiny_model(), logprob_features=True)
    reader, _ = make(judge=judge_of(head))
    responses = [tuple(range(30, 60)), tuple(range(90, 170, 3)), (1, 2)]
    for ours, theirs in ((engine, make_engine()), (reader, make_engine(logprob_features=True))):
        found, right = ours.score_many(PROMPT, responses), theirs.score_many(PROMPT, responses)
        assert [[s.position for s in steps] for steps in found] == [[s.position for s in steps] for steps in right]
        flat = [[s.logit for steps in each for s in steps] for each in (found, right)]
        assert flat[0] == pytest.approx(flat[1], abs=1e-3) and len(flat[0]) > 6
    write(engine, requests(2, until="eos"))
    assert not session.held.get(0), "the text that was read gave its positions back"


def test_closing_frees_the_model_and_a_search_goes_on_after_a_refused_request() -> None:
    engine, session = make()
    with pytest.raises(InputError, match="does not exist"):
        engine.submit(Request((VOCABULARY,), GREEDY))
    assert write(engine, requests(1))[0].token_ids
    engine.close()
    assert session.closed and session.taken == 0


# ---- refusals


def test_what_the_engine_can_not_do_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="reads GGUF files, and 'nano' is none"):
        serve_engine("llamacpp", "nano")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="dtype is 'int8'"):
        serve_engine("llamacpp", file, dtype="int8")
    with pytest.raises(InputError, match="at most 255 trajectories"):
        make(max_rows=256)
    other = tiny_model(vocab_size=301).config
    with pytest.raises(EngineError, match="llama.cpp finds 300 token ids in 'tiny', and transformers 301"):
        LlamaCppEngine(metadata(model_config=other), StandIn(tiny_model()), positions=64)  # type: ignore[arg-type]
    last = metadata(judge_of(make_head(tiny_model(), -1), layer=-1))
    with pytest.raises(EngineError, match="reads hidden states -1, and llama.cpp hands out those between two layers"):
        _layer(last)
    assert _layer(metadata()) == 2


def test_without_the_library_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf = pytest.importorskip("gguf_files").write_gguf
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(DependencyError, match=r"needs llama-cpp-python .*pip install '.\[llamacpp\]'"):
        serve_engine("llamacpp", write_gguf(tmp_path / "tiny.gguf"), require_head=False)


# ---- llama.cpp itself


@pytest.fixture
def tiny_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    path: Path = pytest.importorskip("gguf_files").write_gguf(tmp_path / "tiny.gguf")
    return path


@NEEDS_LLAMA
def test_llama_cpp_writes_and_scores_as_the_embedded_engine_does(tiny_file: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    judge = judge_of(make_head(checkpoint.model))
    (tmp_path / "head").mkdir()
    write_judge(tmp_path / "head", judge)
    engine = serve_engine("llamacpp", tiny_file, head=tmp_path / "head", positions=1024)
    try:
        embedded, asked = make_engine(), requests(6, until="eos")
        ours, theirs = write(engine, asked), write(embedded, asked)  # type: ignore[arg-type]
        # llama.cpp keeps keys and values in 16 bits: a draw at the edge between two tokens may fall on the other one
        assert sum(a.token_ids[:2] == b.token_ids[:2] for a, b in zip(ours, theirs, strict=True)) >= 5
        for request, written in zip(asked, ours, strict=True):
            right = embedded.score(request.prompt_ids, written.token_ids)
            assert [s.position for s in written.steps] == [s.position for s in right]
            assert [s.logit for s in written.steps] == pytest.approx([s.logit for s in right], abs=0.05)
        read, right = (e.score(PROMPT, tuple(range(30, 90))) for e in (engine, embedded))
        assert [s.logit for s in read] == pytest.approx([s.logit for s in right], abs=0.05) and len(read) > 6
        (whole,) = write(engine, [Request(PROMPT, GREEDY, max_tokens=8, until="eos")])  # type: ignore[arg-type]
        parent = engine.submit(Request(PROMPT, GREEDY, max_tokens=5, until="eos"))
        run(engine)  # type: ignore[arg-type]
        child = engine.submit(Request((), GREEDY, parent=parent, max_tokens=3, until="eos"))
        fork = engine.fork(parent, 2, Request((), GREEDY, max_tokens=6, until="eos"))
        done = finished(run(engine))  # type: ignore[arg-type]
        assert done[child].token_ids == done[fork].token_ids == whole.token_ids
        assert engine.dtype == "all F32"
    finally:
        engine.close()
        engine.close()  # the second time there is nothing to free


@NEEDS_LLAMA
def test_llama_cpp_writes_the_same_without_a_head(tiny_file: Path) -> None:
    engine = serve_engine("llamacpp", tiny_file, require_head=False, head="none", positions=1024)
    try:
        ours, theirs = (write(e, requests(3, until="eos")) for e in (engine, make_engine()))  # type: ignore[arg-type]
        assert [len(a.token_ids) for a in ours] == [len(b.token_ids) for b in theirs] and not ours[0].steps
    finally:
        engine.close()


@NEEDS_LLAMA
def test_a_graph_that_hands_out_no_states_is_said_to(tiny_file: Path) -> None:
    session = Session(tiny_file, positions=512, layer=99, threads=1)
    with pytest.raises(EngineError, match=r"hands out no states of 'l_out-98' .*--head none"):
        session.decode([1], [0], [1], [True])
    session.close()


@NEEDS_LLAMA
def test_llama_cpp_says_why_it_refuses_a_file(tiny_file: Path, tmp_path: Path) -> None:
    engine = serve_engine("llamacpp", tiny_file, require_head=False, positions=512)
    assert not engine.scored
    engine.close()
    data = tiny_file.read_bytes()
    tiny_file.write_bytes(data[: len(data) // 2])
    with pytest.raises((CheckpointError, EngineError), match=r"tiny\.gguf"):
        serve_engine("llamacpp", tiny_file, require_head=False, positions=512)
