"""The vLLM engine and its plugin on one shared instance: nano, with all that requests can ask for."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from llguidance.hf import from_tokenizer

from engines.serving import write
from engines.vllm_runs import (
    NEEDS_VLLM,
    assert_same,
    embedded,
    features_of,
    greedy_requests,
    raw,
    sampling,
    serving,
    step_logits,
)
from reflective.engines.base import Finished, Request, Sampling, StepScored, Text
from reflective.engines.vllm import engine as vllm_engine
from reflective.engines.vllm import plugin as vllm_plugin
from reflective.engines.vllm.engine import CPU_BLOCK, CPU_CONTEXT
from reflective.errors import ContextError, EngineError, InputError
from reflective.models.metadata import read_metadata
from reflective.serve.forms import JsonForm

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, NEEDS_VLLM]

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=1.8)  # nano is sure of simple sums
LONG = (
    "Find the Greatest Common Divisor (GCD) of these numbers: 105, 192. Give only the GCD as your final answer.",
    "Find the Least Common Multiple (LCM) of these numbers: 30, 7",
    "Find the Greatest Common Divisor (GCD) of these numbers: 26, 59. Give only the GCD as your final answer.",
)


@pytest.fixture(scope="module")
def engine():
    with serving("nano") as made:
        yield made


def params(engine, **settings):
    ids = list(engine.slots.ids)
    return sampling(**{"temperature": 0.0, "max_tokens": 60, "logprob_token_ids": ids, **settings})


def problem(engine, text="What is 12 * 17 + 5?"):
    return list(engine.encode_prompt(text))


@pytest.mark.parametrize(
    ("context", "options", "want"),
    [(32768, {}, CPU_CONTEXT), (CPU_CONTEXT, {}, None), (2048, {}, None), (32768, {"max_model_len": 16384}, 16384)],
)
def test_a_long_context_is_not_warmed_up_on_the_cpu(monkeypatch, context, options, want):
    from vllm.v1.engine.llm_engine import LLMEngine

    started = []
    monkeypatch.setattr(vllm_engine, "_check", lambda args: None)
    monkeypatch.setattr(LLMEngine, "from_engine_args", started.append)
    model = replace(read_metadata("nano"), context_length=context)
    vllm_engine._start(model, "float32", 2, options)
    assert started[0].max_model_len == want


def test_the_handshake_compared_the_scores_with_the_checkpoint(engine):
    assert engine.scored and engine.verified


def test_greedy_tokens_and_scores_are_those_of_the_embedded_engine(engine):
    requests = greedy_requests(engine)
    assert_same(write(engine, requests), write(embedded("nano"), requests))


def test_log_probabilities_are_those_of_the_embedded_engine(engine):
    requests = greedy_requests(engine, 2)
    for got, want in zip(write(engine, requests), write(embedded("nano"), requests), strict=True):
        assert got.token_logprobs == pytest.approx(want.token_logprobs, abs=1e-3)


def test_a_trajectory_depends_on_its_seed_and_not_on_its_company(engine):
    prompt = engine.encode_prompt("What is 3 * 14 + 9?")
    requests = [Request(prompt, WARM, seed=i, max_tokens=30, index=i) for i in range(4)]
    alone = [write(engine, [request])[0].token_ids for request in requests]
    assert [t.token_ids for t in write(engine, requests)] == alone
    assert len(set(alone)) > 1


def test_events_tell_the_trajectory_as_it_is_written(engine):
    engine.submit(greedy_requests(engine, 1)[0])
    events = []
    while engine.busy:
        events += engine.step()
    (done,) = [e.trajectory for e in events if isinstance(e, Finished)]
    assert [e.score for e in events if isinstance(e, StepScored)] == [s.score for s in done.steps]
    assert done.thinking.startswith("".join(e.delta for e in events if isinstance(e, Text))[: len(done.thinking)])


def test_a_continuation_goes_on_from_its_parent_and_finds_its_prefix_in_the_cache(engine, monkeypatch):
    prompt, thinking = long_thinking(engine)
    length = thinking.tokens - 1  # so that it is cut, however well nano knows its end
    whole = Request(prompt, GREEDY, max_tokens=length)
    first = engine.submit(Request(prompt, GREEDY, max_tokens=40))
    while engine.busy:
        engine.step()
    cached = cached_tokens(engine, monkeypatch)
    (got,) = write(engine, [Request(prompt, GREEDY, max_tokens=length - 40, parent=first)])
    assert got.finish_reason == "length" and got.tokens == length
    assert max(cached) >= (len(prompt) + 39) // CPU_BLOCK * CPU_BLOCK > len(prompt)  # whole blocks, thinking in them
    assert_same([got], write(embedded("nano"), [whole]))


def test_a_fork_of_a_running_trajectory_finds_whole_blocks_of_its_prefix_in_the_cache(engine, monkeypatch):
    prompt, thinking = long_thinking(engine)
    length = thinking.tokens - 1
    parent = engine.submit(Request(prompt, GREEDY, max_tokens=length))
    while len(engine._held(parent).token_ids) < 45:
        engine.step()
    cached = cached_tokens(engine, monkeypatch)
    child = engine.fork(parent, 40, Request((), GREEDY, max_tokens=length - 40))
    ends = {}
    while engine.busy:
        ends.update({e.id: e.trajectory for e in engine.step() if isinstance(e, Finished)})
    assert max(cached) >= (len(prompt) + 39) // CPU_BLOCK * CPU_BLOCK > len(prompt)
    assert_same([ends[child]], [ends[parent]])


def cached_tokens(engine, monkeypatch):
    """What vLLM says, output by output, of how many positions it found in its cache."""
    found, step = [], engine._engine.step

    def watched():
        outputs = step()
        found.extend(output.num_cached_tokens or 0 for output in outputs)
        return outputs

    monkeypatch.setattr(engine._engine, "step", watched)
    return found


def long_thinking(engine):
    """A problem on which nano thinks for more than 60 tokens and five steps, and what it thinks."""
    requests = [Request(engine.encode_prompt(text), GREEDY, max_tokens=200) for text in LONG]
    for request, found in zip(requests, write(embedded("nano"), requests), strict=True):
        if found.tokens > 60 and sum(step.position < found.tokens - 1 for step in found.steps) >= 5:
            return request.prompt_ids, found
    raise AssertionError("nano thinks briefly of all of these: choose other problems")


def test_a_thinking_ends_at_its_mark_and_an_answer_at_the_end_of_text(engine):
    prompt = engine.encode_prompt("What is 12 * 17 + 5?")
    first = engine.submit(Request(prompt, GREEDY, max_tokens=200))
    (thought,) = _finished(engine)
    second = engine.submit(Request(prompt, GREEDY, max_tokens=40, until="eos", parent=first))
    (answered,) = _finished(engine)
    assert (thought.finish_reason, answered.finish_reason) == ("think_end", "eos")
    assert thought.token_ids[-1] in engine.judge.format.closing[0] and answered.answer_text
    assert second > first and answered.steps == thought.steps


def test_an_answer_in_a_form_is_that_of_the_embedded_engine_behind_scored_reasoning(engine):
    parts = {"name": {"enum": ["sum", "product"]}, "value": {"type": "integer"}, "sure": {"type": "boolean"}}
    schema = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    prompt = engine.encode_prompt("What is 12 * 17 + 5?")
    found = []
    for one in (engine, embedded("nano")):
        form = JsonForm(schema, "response_format", one, from_tokenizer(one.tokenizer))
        parent = one.submit(Request(prompt, GREEDY, max_tokens=200))
        (thought,) = _finished(one)
        one.submit(Request(prompt, GREEDY, max_tokens=60, until="eos", parent=parent, constraint=form))
        one.submit(Request(prompt, GREEDY, max_tokens=30, index=1))  # beside it one that is free
        held, free = sorted(_finished(one), key=lambda t: t.index)
        answer = json.loads(held.answer_text)
        assert list(answer) == list(parts) and answer["name"] in ("sum", "product") and type(answer["sure"]) is bool
        assert held.finish_reason == "eos" and held.steps == thought.steps and held.score == thought.score
        assert free.token_ids == thought.token_ids[:30]
        found.append(held)
    assert found[0].token_ids == found[1].token_ids


def test_a_schema_that_vllm_refuses_leaves_nothing_behind(engine):
    schema = {}
    for _ in range(70):  # levels, of which vLLM takes 64
        schema = {"properties": {"a": schema}}
    with pytest.raises(InputError, match="vLLM refuses a request"):
        engine.submit(Request(problem(engine), GREEDY, constraint=SimpleNamespace(schema=schema)))
    assert not engine.busy


def _finished(engine):
    done = []
    while engine.busy:
        done += [e.trajectory for e in engine.step() if isinstance(e, Finished)]
    return done


def test_a_cancelled_trajectory_ends_with_what_is_there(engine):
    id = engine.submit(Request(engine.encode_prompt("What is 5 + 5?"), WARM, max_tokens=300))
    for _ in range(8):
        engine.step()
    engine.cancel(id)
    (end,) = [e for e in engine.step() if isinstance(e, Finished)]
    assert end.trajectory.finish_reason == "cancelled" and not engine.busy


def test_requests_that_can_not_be_written_are_refused(engine):
    with pytest.raises(ContextError, match="reads at most 512"):
        engine.submit(Request((5,) * 512))
    with pytest.raises(InputError, match="token id 99999 does not exist"):
        engine.submit(Request((99999,)))
    with pytest.raises(InputError, match="at most 2"):
        engine.submit(Request((5,), Sampling(temperature=2.5)))


# ---- what other clients of vLLM may ask for


def test_several_samples_of_one_request_are_scored_each(engine):
    prompt = problem(engine)
    (outputs,) = raw(engine, [prompt], [params(engine, n=4, temperature=1.8, seed=3)])
    assert len(outputs) == 4 and len({tuple(o.token_ids) for o in outputs}) > 1
    for output in outputs:
        want = features_of("nano", prompt, output.token_ids)
        assert step_logits(engine, prompt, output) == pytest.approx(want, abs=2e-3)


def test_a_batch_may_mix_requests_with_and_without_scores(engine):
    prompt = problem(engine)
    plain = sampling(temperature=0.0, max_tokens=60)
    likely = sampling(temperature=0.0, max_tokens=60, logprobs=2)
    got = raw(engine, [prompt] * 4, [plain, params(engine), likely, params(engine)])
    assert len({tuple(outputs[0].token_ids) for outputs in got}) == 1
    assert got[0][0].logprobs is None
    want = features_of("nano", prompt, got[1][0].token_ids)
    assert len(want) >= 2
    for outputs in (got[1], got[3]):
        assert step_logits(engine, prompt, outputs[0]) == pytest.approx(want, abs=2e-3)


def test_stop_strings_leave_scores_where_they_are(engine):
    prompt = problem(engine)
    (free,), (cut,) = raw(engine, [prompt] * 2, [params(engine), params(engine, stop=[" = "])])
    assert cut.finish_reason == "stop" and 0 < len(cut.token_ids) < len(free.token_ids)
    count = len(step_logits(engine, prompt, cut))
    assert step_logits(engine, prompt, cut) == pytest.approx(step_logits(engine, prompt, free)[:count], abs=1e-4)


@pytest.mark.parametrize("counted", [0, 1000])
def test_slots_read_at_once_are_those_that_vllm_reads_row_by_row(engine, monkeypatch, counted):
    import torch
    from vllm.v1.sample.sampler import Sampler

    at_once = Sampler.gather_specific_token_logprobs
    row_by_row = at_once.__wrapped__
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    drawn = torch.tensor([3, 39, 0, 7, 7])
    monkeypatch.setattr(vllm_plugin, "COUNTED_AT_ONCE", counted)
    for asked in ({i: [9, 30, 8] for i in range(5)}, {0: [9, 30, 8], 3: [1]}, {i: [i] for i in range(5)}):
        got, want = (how(Sampler(), values, asked, drawn) for how in (at_once, row_by_row))
        assert torch.equal(got.logprob_token_ids, want.logprob_token_ids)
        assert torch.equal(got.logprobs, want.logprobs)
        assert torch.equal(got.selected_token_ranks, want.selected_token_ranks)


def test_texts_that_are_remembered_are_those_that_vllm_decodes(engine):
    from vllm.v1.engine import logprobs

    remembered = logprobs.convert_ids_list_to_tokens
    ids = [*range(len(engine.tokenizer)), *engine.slots.ids, 7, 7]
    want = remembered.__wrapped__(engine.tokenizer, ids)
    for _ in range(2):
        assert remembered(engine.tokenizer, ids) == want
    assert remembered(engine.tokenizer, []) == []


# ---- what is refused, in one line, before anything is loaded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"logprobs_mode": "processed_logprobs"}, "processed_logprobs .* would distort"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative decoding"),
        ({"tensor_paralel_size": 2}, "Did you mean 'tensor_parallel_size'"),
    ],
)
def test_settings_under_which_scores_would_be_wrong_are_refused(options, words):
    with pytest.raises((EngineError, InputError), match=words), serving("nano", **options):
        pass


def test_a_plugin_that_is_kept_out_is_named(monkeypatch):
    from vllm import ModelRegistry

    from reflective.engines.vllm.engine import check_loaded

    monkeypatch.setattr(ModelRegistry, "models", {})
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    with pytest.raises(EngineError, match="VLLM_PLUGINS='other' keeps reflective"):
        check_loaded()
    monkeypatch.delenv("VLLM_PLUGINS")
    with pytest.raises(EngineError, match="entry point .* is not installed"):
        check_loaded()


# ---- what deployments and documents say to vLLM


def commands():
    """Where vLLM is given arguments, and which."""
    yaml = pytest.importorskip("yaml")
    deploy = REPOSITORY / "deploy"
    yield "Dockerfile", json.loads(re.search(r"^CMD (\[.*\])$", (deploy / "Dockerfile").read_text(), re.MULTILINE)[1])
    yield "compose.yaml", yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["vllm-0"]["command"]
    for part in yaml.safe_load_all((deploy / "kubernetes.yaml").read_text()):
        if part["kind"] == "Deployment":
            yield "kubernetes.yaml", part["spec"]["template"]["spec"]["containers"][0]["args"]
    page = (REPOSITORY / "docs" / "vllm.md").read_text()
    for words in re.findall(r"vllm serve ([^`\n]+)", page):
        yield "vllm.md", ["--model", *shlex.split(words)]
    for words in re.findall(r"api_server (--model[^`\n]+)", page) + re.findall(r"`(--[a-z][a-z-]*(?: \S+)?)`", page):
        yield "vllm.md", shlex.split(words)


def test_the_flags_that_deployments_and_documents_give_are_vllms():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    ours, numbers = {"--engine", "--strategy"}, {"--max-num-seqs", "--stream-interval", "--pipeline-parallel-size"}
    seen = []
    for where, words in commands():
        if words[0] in ours or words == ["--model"]:  # named alone, it is ours
            continue
        seen.append(where)
        try:
            parser.parse_args([*words, "8"] if len(words) == 1 and words[0] in numbers else words)
        except SystemExit as stop:
            raise AssertionError(f"{where}: {words}") from stop
    assert len(seen) > 12 and set(seen) == {"Dockerfile", "compose.yaml", "kubernetes.yaml", "vllm.md"}


def test_the_variables_that_deployments_set_are_vllms():
    from vllm import envs

    for file in ("Dockerfile", "compose.yaml", "kubernetes.yaml"):
        for name in re.findall(r"\b(VLLM_[A-Z_]+)\b", (REPOSITORY / "deploy" / file).read_text()):
            assert name in envs.environment_variables, f"{file}: {name}"
