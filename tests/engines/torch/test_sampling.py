"""Tokens are drawn from exactly the distribution that Hugging Face's own processors give."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engines.torch.runs import GREEDY, make_engine, prompts, reference, write
from reflective import InputError
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import sampling as module
from reflective.engines.torch.sampling import BROKEN, SamplingRows, draw, uniforms

V = 40
DRAWS = 10_000
SEEN = [0, 3, 5, 8, 13, 21, 34]
SETTINGS = {
    "plain": Sampling(),
    "cold": Sampling(temperature=0.5),
    "hot": Sampling(temperature=1.7),
    "top-k": Sampling(top_k=5),
    "top-k of one": Sampling(top_k=1),
    "top-k beyond the vocabulary": Sampling(top_k=1000),
    "top-p": Sampling(top_p=0.7),
    "top-p close to 1": Sampling(top_p=0.99),
    "top-p of almost nothing": Sampling(top_p=1e-6),
    "min-p": Sampling(min_p=0.1),
    "penalty": Sampling(repetition_penalty=1.5),
    "reward": Sampling(repetition_penalty=0.7),
    "temperature and top-p": Sampling(temperature=0.6, top_p=0.95),
    "top-k and top-p": Sampling(top_k=12, top_p=0.8),
    "top-p and min-p": Sampling(top_p=0.9, min_p=0.05),
    "all": Sampling(temperature=1.4, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.3),
}


def processors(sampling):
    """Hugging Face's, in the order of its `generate`."""
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain


def exact(logits, sampling, seen):
    """The distribution of the next token after the tokens `seen`, (V,) float64."""
    scores = processors(sampling)(torch.tensor([list(seen)]), logits.unsqueeze(0).clone())
    return scores[0].double().softmax(-1)


@pytest.fixture(scope="module")
def logits():
    """Logits of both signs, the least likely token at about 1 in 5,000."""
    return torch.randn(V, generator=torch.Generator().manual_seed(5)) * 1.5


@pytest.fixture(scope="module")
def first_uniforms():
    """The first number of the streams of many seeds, as the engine takes them."""
    return torch.cat([uniforms(seed, 0, 1) for seed in range(DRAWS)])


def draw_many(logits, sampling, uniform):
    """A token for each number, all rows with the same logits and settings."""
    n = len(uniform)
    seen = torch.zeros(V, dtype=torch.bool)
    seen[SEEN] = True
    rows = SamplingRows.of([sampling] * n, V, torch.device("cpu"))
    return draw(logits.expand(n, V), rows, uniform, seen.expand(n, V))


def chi_square(counts, probabilities):
    """Pearson's statistic in units of its critical value at p = 1e-5; rare outcomes are pooled."""
    expected = probabilities * counts.sum()
    common = expected >= 5
    pairs = [*zip(counts[common].tolist(), expected[common].tolist(), strict=True)]
    if (rest := expected[~common].sum().item()) > 0:
        pairs.append((counts[~common].sum().item(), max(rest, 1.0)))
    df = len(pairs) - 1
    if df == 0:
        return 0.0
    statistic = sum((got - want) ** 2 / want for got, want in pairs)
    z = 4.265  # the normal quantile of 1 - 1e-5, in Wilson and Hilferty's approximation
    return statistic / (df * (1 - 2 / (9 * df) + z * math.sqrt(2 / (9 * df))) ** 3)


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name, logits, first_uniforms):
    probabilities = exact(logits, SETTINGS[name], SEEN)
    tokens, _ = draw_many(logits, SETTINGS[name], first_uniforms)
    counts = torch.bincount(tokens, minlength=V).double()
    assert chi_square(counts, probabilities) < 1
    assert not counts[probabilities == 0].any()


def test_the_chi_square_test_sees_a_wrong_temperature(logits, first_uniforms):
    tokens, _ = draw_many(logits, Sampling(temperature=1.1), first_uniforms)
    counts = torch.bincount(tokens, minlength=V).double()
    assert chi_square(counts, exact(logits, Sampling(), SEEN)) > 1


@pytest.mark.parametrize("name", SETTINGS)
def test_evenly_spaced_numbers_give_each_token_its_exact_share(name, logits):
    # inverting a cumulative distribution at (i + 1/2)/n gives a token of probability p either ⌊n·p⌋ or ⌈n·p⌉ times,
    # so a token that the filters should have left out, or in, shows at once
    n = 8192
    probabilities = exact(logits, SETTINGS[name], SEEN)
    tokens, _ = draw_many(logits, SETTINGS[name], (torch.arange(n) + 0.5) / n)
    counts = torch.bincount(tokens, minlength=V)
    assert not counts[probabilities == 0].any()
    assert counts[probabilities > 1.1 / n].all()
    assert (counts - n * probabilities).abs().max() < 1.01


def test_rows_with_different_settings_do_not_touch_each_other(logits):
    settings = [*SETTINGS.values(), GREEDY, Sampling(temperature=0.0, top_k=3, repetition_penalty=1.5)]
    n, many = 97, len(settings)
    uniform = (torch.arange(n) + 0.5) / n
    seen = torch.zeros(V, dtype=torch.bool)
    seen[SEEN] = True
    rows = SamplingRows.of(settings * n, V, torch.device("cpu"))
    mixed, mixed_logprobs = draw(
        logits.expand(n * many, V), rows, uniform.repeat_interleave(many), seen.expand(n * many, V)
    )
    for i, sampling in enumerate(settings):
        alone, logprobs = draw_many(logits, sampling, uniform)
        assert mixed[i::many].equal(alone)
        assert torch.allclose(mixed_logprobs[i::many], logprobs, atol=1e-5)


def test_the_log_probability_is_the_models_own_whatever_the_settings(logits):
    for sampling in (*SETTINGS.values(), GREEDY):
        tokens, logprobs = draw_many(logits, sampling, torch.linspace(0.01, 0.99, 20))
        assert torch.allclose(logprobs, logits.log_softmax(-1)[tokens], atol=1e-5)


def test_logits_equal_to_the_kth_stay_in_as_in_hugging_face():
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0] + [-9.0] * (V - 6))
    tokens, _ = draw_many(logits, Sampling(top_k=2), (torch.arange(1000) + 0.5) / 1000)
    assert set(tokens.tolist()) == {1, 2, 3, 4}
    assert exact(logits, Sampling(top_k=2), SEEN).nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_top_p_of_1_leaves_nothing_out_even_beside_rows_that_filter():
    # the likeliest token holds all but 1e-6: a cumulative sum that is compared with 1 would cut the others off
    logits = torch.full((V,), math.log(1e-6 / (V - 1)))
    logits[7] = math.log(1 - 1e-6)
    rows = SamplingRows.of([Sampling(top_p=1.0), Sampling(top_p=0.5)], V, torch.device("cpu"))
    top = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    tokens, _ = draw(logits.expand(2, V), rows, top.expand(2))
    assert tokens[0] != 7 and tokens[1] == 7
    assert not SamplingRows.of([Sampling(top_p=1.0)], V, torch.device("cpu")).filtered


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.2}, {"repetition_penalty": 2.0}])
def test_temperature_0_takes_the_likeliest_token_whatever_the_number(logits, filters):
    sampling = Sampling(temperature=0.0, **filters)
    tokens, _ = draw_many(logits, sampling, torch.linspace(0, 0.999, 7))
    penalized = Sampling(repetition_penalty=sampling.repetition_penalty)
    assert set(tokens.tolist()) == {exact(logits, penalized, SEEN).argmax().item()}


def test_the_ends_of_the_unit_interval_draw_tokens_that_may_be_drawn():
    logits = torch.full((4, V), -math.inf)
    logits[:, 10] = logits[:, 20] = 0.0
    below_1 = 1 - 2**-24
    rows = SamplingRows.of([Sampling(), Sampling(), Sampling(top_k=5), Sampling(temperature=0.1)], V, logits.device)
    tokens, _ = draw(logits, rows, torch.tensor([0.0, below_1, below_1, 0.0]))
    assert tokens.tolist() == [10, 20, 20, 10]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=3, top_p=0.5), Sampling(temperature=0.1)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_give_no_token(logits, sampling, bad):
    spoilt = logits.repeat(3, 1)
    spoilt[1, 4] = bad
    rows = SamplingRows.of([sampling] * 3, V, torch.device("cpu"))
    tokens, _ = draw(spoilt, rows, torch.full((3,), 0.5))
    assert tokens[1] == BROKEN and BROKEN not in (tokens[0], tokens[2])
    tokens, _ = draw(torch.full((3, V), -math.inf), rows, torch.full((3,), 0.5))
    assert (tokens == BROKEN).all()


# ---- random streams


def test_a_stream_can_be_entered_anywhere():
    assert uniforms(11, 3, 5).equal(uniforms(11, 0, 8)[3:])
    assert uniforms(11, 0, 8).unique().numel() == 8


def test_streams_lie_in_the_unit_interval_and_differ_by_seed():
    seeds = [0, 1, 2, -1, 2**31, 2**63 - 1, 2**64 + 5]
    streams = torch.stack([uniforms(seed, 0, 64) for seed in seeds])
    assert ((streams >= 0) & (streams < 1)).all()
    assert streams.unique(dim=0).shape == streams.shape
    assert streams[0].any(), "seed 0 is a seed like any other"


def test_the_first_numbers_of_consecutive_seeds_are_uniform_and_independent(first_uniforms):
    bins = torch.full((64,), 1 / 64, dtype=torch.float64)
    assert chi_square(torch.bincount((first_uniforms * 64).long(), minlength=64).double(), bins) < 1
    pairs = (first_uniforms[0::2] * 8).long() * 8 + (first_uniforms[1::2] * 8).long()
    assert chi_square(torch.bincount(pairs, minlength=64).double(), bins) < 1


# ---- through the engine


@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=3), Sampling(temperature=1.5, top_k=8, top_p=0.8, min_p=0.05, repetition_penalty=2.0)],
    ids=["top-k", "all"],
)
def test_two_tokens_of_the_engine_follow_their_exact_joint_distribution(sampling):
    # the second token's distribution depends on the first by the model and by the repetition penalty
    (prompt,), model, n = prompts(6), reference(), 1500
    joint = {}
    with torch.inference_mode():
        first = exact(model(torch.tensor([prompt])).logits[0, -1], sampling, prompt)
        for a in first.nonzero().flatten().tolist():
            ids = (*prompt, a)
            second = exact(model(torch.tensor([ids])).logits[0, -1], sampling, ids)
            joint.update({(a, b): (first[a] * second[b]).item() for b in second.nonzero().flatten().tolist()})
    engine = make_engine(max_rows=100)
    drawn = write(engine, [Request(prompt, sampling, seed=seed, max_tokens=2, until="eos") for seed in range(n)])
    counts = dict.fromkeys(joint, 0)
    for trajectory in drawn:
        counts[trajectory.token_ids] += 1  # a KeyError: a token that the filters leave out
    assert len(joint) >= 6
    assert chi_square(torch.tensor([*counts.values()]).double(), torch.tensor([*joint.values()]).double()) < 1


def test_seed_0_is_a_seed():
    engine, (prompt,) = make_engine(), prompts(6)
    a, b, c = write(engine, [Request(prompt, seed=seed, max_tokens=12, until="eos") for seed in (0, 0, 1)])
    assert a.token_ids == b.token_ids != c.token_ids
    assert (a.seed, c.seed) == (0, 1)


def test_temperature_0_does_not_depend_on_the_seed():
    engine, (prompt,) = make_engine(), prompts(5)
    a, b = write(engine, [Request(prompt, GREEDY, seed=seed, max_tokens=12) for seed in (0, 77)])
    assert a.token_ids == b.token_ids


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-300},  # 0 in float32: one request would end everybody's
        {"repetition_penalty": math.nan},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


# ---- filters over a large vocabulary, which look at the likeliest tokens first

FILTERS = st.builds(
    Sampling,
    top_k=st.sampled_from([0, 1, 3, 7, 50, 299, 300]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.2, 0.99]),
)


@given(settings_=st.lists(FILTERS, min_size=1, max_size=4), seed=st.integers(0, 999), flat=st.booleans())
@settings(max_examples=150, deadline=None)
def test_filters_leave_the_same_whether_all_tokens_are_sorted_or_the_likeliest(settings_, seed, flat):
    logits = torch.randn(len(settings_), 300, generator=torch.Generator().manual_seed(seed)) * (0.1 if flat else 4)
    weights = (logits.mul(2).round() / 2).exp()  # many are equal
    rows = SamplingRows.of(settings_, 300, torch.device("cpu"))
    before = module.CANDIDATES
    try:
        found = []
        for module.CANDIDATES in (300, 2, 40):
            found.append(module._filter(weights, rows))
    finally:
        module.CANDIDATES = before
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    for i, setting in enumerate(settings_):  # and a row alone is as it is among the others
        alone = SamplingRows.of([setting], 300, torch.device("cpu"))
        assert torch.equal(module._filter(weights[i : i + 1], alone)[0], found[0][i])
