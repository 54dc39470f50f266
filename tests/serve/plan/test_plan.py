"""The simulation against results that are known, and the rates by hand."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace

import pytest

from reflective.errors import InputError
from reflective.models.shape import KNOWN, Shape
from reflective.nano import EXAMPLES
from reflective.serve.plan import rates as rates_module
from reflective.serve.plan.outcome import plan, work_s
from reflective.serve.plan.rates import GPUS, Rates, assumed_rates, read_rates
from reflective.serve.plan.simulate import Load, Outcome, simulate

FLAT = Rates(((1, 0.01),), 1000.0, 64, "a test", True)
SERIAL = Rates(((1, 0.01),), 1e9, 1, "a test", True)


def fixed(**options):
    return Load(**{"k": 1, "tokens": 100, "spread": 0, "answer_tokens": 0, "prompt_tokens": 0, **options})


def test_a_request_alone_takes_its_prompt_its_longest_trajectory_and_its_answer():
    outcome = simulate(fixed(per_minute=0.01, k=4, answer_tokens=20, prompt_tokens=50, requests=20), FLAT)
    assert outcome.latency == pytest.approx([50 / 1000 + 100 * 0.01 + 20 * 0.01] * 16)
    assert outcome.delay == pytest.approx([0.0] * 16)


def test_a_trajectory_has_to_wait_where_there_is_no_row_and_then_a_request_takes_longer():
    two_rows = Rates(((1, 0.01),), 1e9, 2, "a test", True)
    outcome = simulate(fixed(per_minute=0.01, k=4, requests=20), two_rows)
    assert outcome.latency == pytest.approx([2.0] * 16)  # two after two


def test_steps_with_more_rows_take_longer():
    rates = Rates(((1, 0.01), (4, 0.04)), 1e9, 64, "a test", True)
    assert simulate(fixed(per_minute=0.01, k=3, requests=20), rates).latency == pytest.approx([100 * 0.03] * 16)


@pytest.mark.timeout(60)  # it went on for ever
@pytest.mark.parametrize("step_s", [1e-3, 1e-6])
def test_steps_far_shorter_than_the_clock_tells_late_in_a_long_simulation_end(step_s):
    rates = Rates(((1, step_s), (4, 1.3 * step_s)), 1e9, 4, "a test", True)
    outcome = simulate(
        fixed(per_minute=0.001, k=4, lengths=((107, 105, 189, 28),), answer_tokens=7.3, requests=500), rates
    )
    assert len(outcome.latency) == 400 and max(outcome.latency) < 1


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_row_and_equal_trajectories_are_an_m_d_1_queue(busy):
    load = fixed(per_minute=60 * busy, requests=20_000)  # a second each
    outcome = simulate(load, SERIAL)
    # Pollaczek and Khinchine: the mean wait of M/D/1 is ρ s / (2 (1 - ρ))
    assert statistics.mean(outcome.delay) == pytest.approx(busy / (2 * (1 - busy)), rel=0.12)
    assert outcome.busy == pytest.approx(busy, rel=0.05)


def test_waiting_requests_take_turns():
    load = fixed(per_minute=6000, k=8, requests=10)  # all at once, a row for one at a time
    outcome = simulate(load, SERIAL)
    assert max(outcome.latency) == pytest.approx(80, rel=0.02)
    assert min(outcome.latency) > 70  # nobody is served to the end before the others are


def test_two_replicas_take_half_of_the_load_each():
    one = simulate(fixed(per_minute=48, requests=5000), SERIAL)
    two = simulate(fixed(per_minute=96, requests=5000), SERIAL, 2)
    assert two.busy == pytest.approx(one.busy, rel=0.05)
    assert statistics.mean(two.delay) < statistics.mean(one.delay)  # the emptier one is chosen


def test_the_same_seed_gives_the_same_and_lengths_have_the_mean_and_the_spread():
    load = Load(per_minute=60, requests=100)
    assert simulate(load, FLAT) == simulate(load, FLAT)
    import random

    drawn = [tokens for i in range(2500) for tokens in load.draw(random.Random(i))]
    assert statistics.mean(drawn) == pytest.approx(4096, rel=0.02)
    assert statistics.stdev(drawn) == pytest.approx(0.6 * 4096, rel=0.05)


def test_a_request_waits_for_the_longest_of_one_problems_trajectories():
    alike = fixed(per_minute=0.01, k=4, lengths=((10, 10), (100, 100)), requests=400)
    assert {round(seconds, 9) for seconds in simulate(alike, FLAT).latency} == {0.1, 1.0}
    assert alike.mean_tokens == 55
    mixed = Outcome.quantile(simulate(replace(alike, lengths=((10, 100),)), FLAT).latency, 0.5)
    assert mixed == pytest.approx(1.0)  # of four from both, one is nearly always long
    with pytest.raises(InputError, match="a problem without any"):
        replace(alike, lengths=((10,), ()))


def test_quantiles_lie_between_the_values():
    assert [Outcome.quantile([4.0, 1.0, 2.0], q) for q in (0, 0.25, 0.5, 1)] == [1.0, 1.5, 2.0, 4.0]


def test_a_step_is_linear_between_what_was_measured_and_goes_on_behind_it():
    rates = Rates(((2, 0.2), (4, 0.6)), 1.0, 8, "a test", True)
    assert [rates.step_s(n) for n in (1, 2, 3, 4, 5)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8])


def test_assumed_rates_of_a_small_shape_by_hand(monkeypatch):
    shape = Shape(hidden=4, layers=2, inner=8, heads=2, kv_heads=1, head_size=2, vocabulary=10, tied=True)
    assert (shape.parameters, shape.head_parameters, shape.kv_bytes) == (364, 49, 16)
    monkeypatch.setitem(GPUS, "abacus", rates_module.Gpu(1e4, 2 * 2**31, 1e3, "a test"))
    rates = assumed_rates(shape, "abacus", 100, most_rows=4)
    assert rates.max_rows == 4 and rates.gpus == 1 and not rates.measured
    # weights 2·413 bytes, keys and values 4 rows · 50 tokens · 16 bytes, at 0.6 · 1,000 bytes a second
    assert rates.step_s(4) == pytest.approx(0.002 + (826 + 3200) / 600)
    assert rates.prompt_tokens_per_s == pytest.approx(0.4 * 1e4 / (2 * 364))


def test_a_model_that_leaves_no_room_gets_more_gpus_or_is_refused():
    assert [assumed_rates(KNOWN[name], "h100", 4096).gpus for name in ("1.5b", "7b", "32b")] == [1, 1, 2]
    assert assumed_rates(KNOWN["32b"], "h200", 4096, most_rows=128).gpus == 1
    with pytest.raises(InputError, match="don't fit into 1 of l40s"):
        assumed_rates(KNOWN["32b"], "l40s", 4096, gpus=1)


def test_a_plan_keeps_the_delay_and_prices_the_replicas():
    rates = assumed_rates(KNOWN["7b"], "h100", 4596)
    load = Load(per_minute=100)
    planned = plan(load, rates, delay_s=5, cost_per_hour=2.0)
    with pytest.raises(InputError, match="cost_per_hour is nan; it must be 0 or more"):
        plan(load, rates, replicas=1, cost_per_hour=math.nan)
    assert planned["queueing_s"]["p95"] <= 5
    needed = 100 / 60 * work_s(load, rates)
    assert needed < planned["replicas"] <= 1.5 * needed + 1
    assert planned["per_1000_answers"]["cost"] == pytest.approx(2.0 * planned["replicas"] / 6, abs=0.01)
    assert plan(load, rates, replicas=planned["replicas"])["latency_s"] == planned["latency_s"]
    crowded = plan(Load(per_minute=100, requests=500), rates, replicas=2)
    assert crowded["queueing_s"]["p95"] > 60  # too few


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no", "holds no rates"),
        ('{"steps": []}', "holds no rates"),
        (
            '{"steps": [[4, 1], [2, 1]], "prompt_tokens_per_s": 1, "max_rows": 1, "source": "", "measured": true}',
            "by rows",
        ),
        ('{"stepz": []}', "stepz"),
    ],
)
def test_a_bad_file_of_rates_is_refused(tmp_path, content, told):
    file = tmp_path / "rates.json"
    file.write_text(content)
    with pytest.raises(InputError, match=told):
        read_rates(file)


@pytest.mark.parametrize("options", [{"per_minute": 0}, {"per_minute": float("nan")}, {"per_minute": 1, "k": 0}])
def test_a_load_that_cannot_be_is_refused(options):
    with pytest.raises(InputError):
        Load(**options)


@pytest.mark.parametrize(
    "options",
    [
        *(("--delay", "-1"), ("--delay", "nan"), ("--replicas", "0"), ("--replicas", "-1")),
        *(("--gpus", "0"), ("--max-rows", "0"), ("--users", "0"), ("--tokens", "nan")),
    ],
    ids=" ".join,
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(run, options):
    code, out, err = run("plan", "serve", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_command_prints_the_plan_and_its_rates_can_be_read_again(run, tmp_path):
    asked = ("plan", "serve", "--shape", "1.5b", "--users", "100", "--cost-hour", "2", "--json")
    code, out, _ = run(*asked)
    planned = json.loads(out)
    assert code == 0 and planned["load"]["per_minute"] == 10 and planned["per_1000_answers"]["cost"] == 3.33
    file = tmp_path / "plan.json"
    file.write_text(out)
    code, again, _ = run(*asked, "--rates", str(file))
    assert code == 0 and json.loads(again) == planned
    code, out, _ = run("plan", "serve", "--shape", "1.5b", "--users", "100")
    assert code == 0 and "not run on such a machine" in out
    code, _, err = run("plan", "serve", "--users", "1", "--per-minute", "1")
    assert code == 2 and "not both" in err


@pytest.mark.slow
def test_the_rates_of_nano_are_measured():
    from reflective import Reflective
    from reflective.serve.plan.measure import measured_rates

    with Reflective.from_pretrained("nano") as model:
        rates = measured_rates(model.engine, list(EXAMPLES.values()), most_rows=4)
    assert [rows for rows, _ in rates.steps] == [1, 2, 4] and rates.measured
    assert 1e-5 < rates.step_s(1) < 1 and rates.tokens_per_s > 1 / rates.step_s(1) / 2
