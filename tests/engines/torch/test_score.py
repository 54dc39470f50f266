"""A response that somebody else wrote gets the scores that it would have got while it was written."""

import pytest
import torch

from engines.torch.runs import RULE, STEP_IDS, THINK, THINK_END, count_calls, make_engine, prompts, reference, write
from reflective import CheckpointError, ContextError, EngineError, InputError
from reflective.engines.base import Request, Sampling
from reflective.engines.torch.backbones import hf
from reflective.judge.format import between_marks
from reflective.judge.logprobs import step_logprobs, times_probability

(PROMPT,) = prompts(9)
STEP, OTHER = 3, 4  # ids that end a step and that don't


@pytest.fixture(scope="module")
def engine():
    return make_engine()


@torch.inference_mode()
def by_hand(engine, prompt, response, positions):
    """Scores from a separate full forward."""
    hidden = reference()(torch.tensor([[*prompt, *response]]), output_hidden_states=True).hidden_states[-2][0]
    return engine.head(hidden[[len(prompt) + p - 1 for p in positions]]).sigmoid().tolist()


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi"])
def test_scores_of_a_given_response_equal_those_of_its_generation(family):
    engine = make_engine(family)
    sampling = Sampling(temperature=0.8, repetition_penalty=1.2)
    requests = [Request(PROMPT, sampling, seed, 24, until="eos") for seed in range(3)]
    written = write(engine, requests)
    assert sum(len(trajectory.steps) for trajectory in written) > 5
    for trajectory in written:
        steps = engine.score(PROMPT, trajectory.token_ids)
        assert [(s.position, s.text) for s in steps] == [(s.position, s.text) for s in trajectory.steps]
        assert [s.score for s in steps] == pytest.approx([s.score for s in trajectory.steps], abs=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi"])
@pytest.mark.parametrize("kind", ["last position", "log-probabilities", "means"])
def test_responses_to_one_prompt_score_as_each_alone_and_the_prompt_is_read_once(family, kind, monkeypatch):
    engine = make_engine(family, logprob_features=kind == "log-probabilities")
    engine._reads_means = kind == "means"
    responses = [[OTHER, STEP, OTHER, OTHER, STEP], [OTHER], [STEP, OTHER, STEP, OTHER], [], [OTHER] * 7 + [STEP]]
    prompt = (*PROMPT, OTHER)
    alone = [engine.score(prompt, response) for response in responses]
    read, lengths = engine._backbone.read, []

    def counted(ids, *args, start=0, **options):
        lengths.append(len(ids) - start)
        return read(ids, *args, start=start, **options)

    monkeypatch.setattr(engine._backbone, "read", counted)
    together = engine.score_many(prompt, responses)
    for got, want in zip(together, alone, strict=True):
        assert [(s.position, s.text) for s in got] == [(s.position, s.text) for s in want]
        assert [s.score for s in got] == pytest.approx([s.score for s in want], abs=1e-5)
    more = kind == "log-probabilities"  # the last step token itself is read then
    # two have no step; behind the first, the prompt's last position is all that is read of it again
    assert lengths == [len(prompt) + 4 + more, 1 + 2 + more, 1 + 7 + more]


def test_a_response_is_read_in_chunks_like_a_prompt(engine, monkeypatch):
    response = [OTHER, STEP, OTHER, OTHER, STEP] * 4
    whole = engine.score(PROMPT, response)
    monkeypatch.setattr(hf, "PREFILL_CHUNK", 5)
    assert [s.score for s in engine.score(PROMPT, response)] == pytest.approx([s.score for s in whole], abs=1e-5)
    assert len(whole) == 8


def test_a_step_token_that_comes_first_is_scored_from_the_prompts_last_position(engine):
    prompt = (*PROMPT, OTHER)  # behind <think> itself a step token would not count
    response = [STEP, OTHER, STEP]
    steps = engine.score(prompt, response)
    assert [s.position for s in steps] == [0, 2]
    assert [s.score for s in steps] == pytest.approx(by_hand(engine, prompt, response, [0, 2]), abs=1e-5)


def test_the_last_token_may_end_a_step(engine):
    response = [OTHER, OTHER, STEP]
    assert [s.score for s in engine.score(PROMPT, response)] == pytest.approx(
        by_hand(engine, PROMPT, response, [2]), abs=1e-5
    )


@pytest.mark.parametrize(
    "response",
    [[], [OTHER] * 5, [STEP, STEP], [THINK_END, STEP, OTHER, STEP]],
    ids=["empty", "no step token", "right after <think>", "after </think>"],
)
def test_a_response_without_a_step_has_no_scores_and_costs_no_forward(engine, response):
    reads = count_calls(engine._backbone, "read")
    assert engine.score(PROMPT, response) == ()
    assert reads == []


def test_a_thinking_that_the_response_opens_is_scored_without_a_prompt(engine):
    response = [THINK, OTHER, STEP, OTHER, STEP]
    steps = engine.score((), response)
    assert [s.position for s in steps] == [2, 4]
    assert [s.score for s in steps] == pytest.approx(by_hand(engine, (), response, [2, 4]), abs=1e-5)


def test_what_follows_the_last_step_changes_nothing(engine):
    response = [OTHER, STEP, OTHER, STEP]
    assert engine.score(PROMPT, response) == engine.score(PROMPT, [*response, OTHER, THINK_END, *range(50)])


def test_a_rule_that_closes_last_reads_finished_texts_to_their_last_think_end():
    engine = make_engine(rule=between_marks(STEP_IDS, THINK, THINK_END, closes="last"))
    response = [OTHER, STEP, THINK_END, OTHER, STEP, THINK_END, OTHER, STEP]
    assert [s.position for s in engine.score(PROMPT, response)] == [1, 4]


def test_scoring_between_steps_disturbs_no_trajectory(engine):
    requests = [Request(PROMPT, seed=s, max_tokens=10, until="eos") for s in range(2)]
    undisturbed = write(engine, requests)
    ids, done = [engine.submit(r) for r in requests], {}
    while engine.busy:
        done |= {e.id: e.trajectory for e in engine.step() if hasattr(e, "trajectory")}
        engine.score(PROMPT, [OTHER, STEP])
    assert [done[id].token_ids for id in ids] == [t.token_ids for t in undisturbed]


# ---- heads with log-probability features


def test_log_probabilities_of_a_step_are_the_mean_and_the_lowest_with_its_token():
    assert step_logprobs([-1.0, -3.0, -2.0, -0.5, -9.0], [1, 3]) == [(-2.0, -3.0), (-1.25, -2.0)]
    assert step_logprobs([-1.0], []) == []


def finished(s, c, head):
    s = s + c @ head.logprob_weight.detach()
    return [
        times_probability(logit, mean, head.probability_exponent)
        for logit, mean in zip(s.tolist(), c[:, 0].tolist(), strict=True)
    ]


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_head_that_reads_log_probabilities_scores_alike_in_both_ways(family, monkeypatch):
    engine, plain = make_engine(family, logprob_features=True), make_engine(family)
    requests = [Request(PROMPT, Sampling(temperature=0.7), seed, 24, until="eos") for seed in range(4)]
    trajectory = max(write(engine, requests), key=lambda t: len(t.steps))
    logits = [s.logit for s in trajectory.steps]
    assert len(logits) > 1
    for chunk in (512, 7):
        monkeypatch.setattr(hf, "PREFILL_CHUNK", chunk)
        steps = engine.score(PROMPT, trajectory.token_ids)
        assert [s.logit for s in steps] == pytest.approx(logits, abs=1e-4)
    # s = MLP(h) + w · c, and σ(s) · p^v, with c from the log-probabilities that the trajectory carries
    positions = [s.position for s in trajectory.steps]
    c = torch.tensor(step_logprobs(trajectory.token_logprobs, positions))
    without = torch.tensor([s.logit for s in plain.score(PROMPT, trajectory.token_ids)])
    by_formula = finished(without, c, engine.head)
    assert logits == pytest.approx(by_formula, abs=1e-4)
    assert (without - torch.tensor(logits)).abs().min() > 1e-3


def test_a_head_that_reads_log_probabilities_needs_no_prompt():
    engine, plain = make_engine(logprob_features=True), make_engine()
    response = [THINK, OTHER, STEP, OTHER, STEP]
    with torch.inference_mode():
        logprobs = reference()(torch.tensor([response])).logits[0].log_softmax(-1)
    own = [logprobs[i - 1, response[i]].item() for i in range(1, 5)]  # of the first token there is none
    c = torch.tensor(step_logprobs(own, [1, 3]))
    expected = finished(torch.tensor([s.logit for s in plain.score((), response)]), c, engine.head)
    assert [s.logit for s in engine.score((), response)] == pytest.approx(expected, abs=1e-4)


# ---- refusals


def test_a_response_longer_than_the_context_is_refused(engine):
    assert engine.score(PROMPT, [OTHER] * (engine.context_length - len(PROMPT) - 1) + [STEP])
    with pytest.raises(ContextError, match="513"):
        engine.score(PROMPT, [OTHER] * (engine.context_length - len(PROMPT)) + [STEP])


@pytest.mark.parametrize(("prompt", "response"), [((300,), [STEP]), (PROMPT, [OTHER, -1]), (PROMPT, [10**9])])
def test_an_id_that_the_model_does_not_know_is_refused(engine, prompt, response):
    with pytest.raises(InputError, match="does not exist"):
        engine.score(prompt, response)


def test_an_engine_without_a_head_can_not_score():
    with pytest.raises(CheckpointError, match="no SPRM head"):
        make_engine(scored=False).score(PROMPT, [OTHER, STEP])
    assert RULE.step_ids


def test_out_of_memory_while_reading_is_one_line(engine, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(engine._backbone, "read", full)
    with pytest.raises(EngineError, match="out of memory while reading") as caught:
        engine.score(PROMPT, [OTHER, STEP])
    assert "\n" not in str(caught.value)
