"""Confidence: the equation by hand, fits that find what made the data, and the calibration error by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reflective.nano
from reflective.errors import CheckpointError, InputError
from reflective.judge.calibrate import Calibration, Coefficients, Informed, Sample, ece, fit_calibration
from reflective.judge.config import read_config


def test_confidence_by_hand() -> None:
    calibration = Calibration({"best_of_n": Coefficients(a=2.0, b=-0.5, c=0.25)})
    # logit(0.75) = ln 3; log2(8) = 3; σ(2·ln 3 − 1.5 + 0.25)
    want = 1 / (1 + math.exp(-(2 * math.log(3) - 1.25)))
    assert calibration.confidence("best_of_n", 0.75, 8) == pytest.approx(want)


def test_identity_coefficients_give_the_evidence_back() -> None:
    calibration = Calibration({"majority": Coefficients(1.0, 0.0, 0.0)})
    assert calibration.confidence("majority", 0.3, 32) == pytest.approx(0.3)


def test_certain_evidence_is_clipped() -> None:
    calibration = Calibration({"majority": Coefficients(1.0, 0.0, 0.0)})
    assert calibration.confidence("majority", 1.0, 1) == pytest.approx(1 - 1e-4)
    assert calibration.confidence("majority", 0.0, 1) == pytest.approx(1e-4)


def test_what_was_not_calibrated_or_not_scored_has_no_confidence() -> None:
    calibration = Calibration({"majority": Coefficients(1.0, 0.0, 0.0)})
    assert calibration.confidence("best_of_n", 0.5, 2) is None
    assert calibration.confidence("majority", None, 2) is None


@pytest.mark.parametrize(("evidence", "k"), [(1.5, 2), (-0.1, 2), (math.nan, 2), (0.5, 0)])
def test_impossible_evidence_is_refused(evidence: float, k: int) -> None:
    with pytest.raises(InputError):
        Calibration({"single": Coefficients(1.0, 0.0, 0.0)}).confidence("single", evidence, k)


finite = st.floats(-1e6, 1e6)


@given(st.dictionaries(st.text(max_size=5), st.builds(Coefficients, finite, finite, finite), max_size=3))
def test_json_there_and_back_is_the_identity(strategies: dict[str, Coefficients]) -> None:
    calibration = Calibration(strategies)
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


@pytest.mark.parametrize(
    "data",
    [[], {"x": 1}, {"x": {"a": 1, "b": 2}}, {"x": {"a": 1, "b": 2, "c": "3"}}, {"x": {"a": 1, "b": 2, "c": math.inf}}],
)
def test_malformed_json_is_refused(data: object) -> None:
    with pytest.raises(CheckpointError, match="calibrat"):
        Calibration.from_json(data)


def samples(a: float, b: float, c: float, n: int) -> list[tuple[str, float | None, int, bool]]:
    rng = random.Random(0)
    made: list[tuple[str, float | None, int, bool]] = []
    for _ in range(n):
        evidence, k = rng.uniform(0.02, 0.98), rng.choice([2, 8, 32])
        z = a * math.log(evidence / (1 - evidence)) + b * math.log2(k) + c
        made.append(("best_of_n", evidence, k, rng.random() < 1 / (1 + math.exp(-z))))
    return made


def test_the_fit_finds_the_coefficients_that_made_the_data() -> None:
    fitted = fit_calibration(samples(0.6, -0.3, 1.0, 20_000)).strategies["best_of_n"]
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((0.6, -0.3, 1.0), abs=0.12)


def test_fitted_confidences_are_calibrated() -> None:
    data = samples(0.5, -0.4, 0.2, 4_000)
    calibration = fit_calibration(data)
    fitted = [calibration.confidence(s, e, k) or 0.0 for s, e, k, _ in data]
    outcomes = [right for *_, right in data]
    raw = ece([e or 0.0 for _, e, _, _ in data], outcomes)
    assert raw is not None and raw > 0.15
    assert (ece(fitted, outcomes) or 0.0) < 0.03
    # the gradient of the likelihood in c is zero up to the ridge: mean confidence is the share of right ones
    assert sum(fitted) / len(data) == pytest.approx(sum(outcomes) / len(data), abs=1e-3)


def test_the_fit_is_at_the_optimum_of_its_objective() -> None:
    data = samples(0.6, -0.3, 1.0, 200)
    w = fit_calibration(data, ridge=2.0).strategies["best_of_n"]
    gradient = [2.0 * (w.a - 1.0), 2.0 * w.b, 2.0 * w.c]
    for _, e, k, right in data:
        assert e is not None
        x = (math.log(e / (1 - e)), math.log2(k), 1.0)
        p = 1 / (1 + math.exp(-(w.a * x[0] + w.b * x[1] + w.c)))
        gradient = [g + (p - right) * value for g, value in zip(gradient, x)]
    assert gradient == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_without_evidence_a_strategy_is_not_calibrated() -> None:
    assert fit_calibration([("best_of_n", None, 2, False)]) == Calibration()
    assert fit_calibration([]) == Calibration()


def test_one_sided_data_have_a_finite_fit() -> None:
    calibration = fit_calibration([("single", 0.999999, 1, True)] * 50)
    confidence = calibration.confidence("single", 0.999999, 1)
    assert confidence is not None and 0.9 < confidence < 1.0


def test_no_data_leave_evidence_as_it_is() -> None:
    """One sample moves the fit little: the ridge holds it at "evidence is the probability"."""
    calibration = fit_calibration([("majority", 0.5, 1, True)])
    assert calibration.confidence("majority", 0.8, 1) == pytest.approx(0.8, abs=0.1)


def test_a_fit_without_ridge_is_refused() -> None:
    with pytest.raises(InputError, match="ridge"):
        fit_calibration([("single", 0.5, 1, True)], ridge=0.0)


def test_calibration_error_by_hand() -> None:
    # bins of 0.5: (0.1, 0.3 | wrong, right) gap |0.4 − 1|; (0.8, 0.8 | right, right) gap |1.6 − 2|
    assert ece([0.1, 0.3, 0.8, 0.8], [False, True, True, True], bins=2) == pytest.approx((0.6 + 0.4) / 4)


def test_calibration_error_at_the_borders() -> None:
    assert ece([1.0, 0.0], [True, False]) == 0.0
    assert ece([], []) is None
    with pytest.raises(InputError, match="0\\.\\.1"):
        ece([1.2], [True])
    with pytest.raises(InputError, match="1 confidences for 2"):
        ece([0.5], [True, False])
    with pytest.raises(InputError, match="bins"):
        ece([0.5], [True], bins=0)


INFORMED = Informed(a=2.0, b=-0.5, c=0.25, s=0.5, w=-1.0)


def test_informed_confidence_by_hand() -> None:
    calibration = Calibration({"majority": Coefficients(1.0, 0.0, 0.0)}, {"majority": INFORMED})
    # logit(0.75) = ln 3; log2(8) = 3; logit(0.9) = ln 9; ℓ = −0.5: 2·ln 3 − 1.5 + 0.25 + 0.5·ln 9 − ln 0.5
    want = 1 / (1 + math.exp(-(3 * math.log(3) - 1.25 - math.log(0.5))))
    assert calibration.confidence("majority", 0.75, 8, score=0.9, mean_logprob=-0.5) == pytest.approx(want)


@pytest.mark.parametrize("known", [{}, {"score": 0.5}, {"mean_logprob": -0.5}])
def test_where_something_is_unknown_the_plain_equation_holds(known: dict[str, float]) -> None:
    calibration = Calibration({"majority": Coefficients(1.0, 0.0, 0.0)}, {"majority": INFORMED})
    assert calibration.confidence("majority", 0.3, 8, **known) == pytest.approx(0.3)


def test_a_trajectory_without_surprise_has_a_finite_confidence() -> None:
    calibration = Calibration({}, {"single": INFORMED})
    confidence = calibration.confidence("single", 0.5, 1, score=0.5, mean_logprob=0.0)
    assert confidence == calibration.confidence("single", 0.5, 1, score=0.5, mean_logprob=-1e-4)
    with pytest.raises(InputError, match="log-probability is nan"):
        calibration.confidence("single", 0.5, 1, score=0.5, mean_logprob=math.nan)


def test_informed_coefficients_there_and_back() -> None:
    calibration = Calibration({"single": Coefficients(1.0, 2.0, 3.0)}, {"single": INFORMED})
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_the_plain_coefficients_of_format_1_are_read() -> None:
    old = {"best_of_n": {"a": 1.0, "b": 2.0, "c": 3.0}}
    assert Calibration.from_json(old) == Calibration({"best_of_n": Coefficients(1.0, 2.0, 3.0)})


@pytest.mark.parametrize("informed", [[], {"x": {"a": 1, "b": 2, "c": 3}}, {"x": 5}])
def test_malformed_informed_coefficients_are_refused(informed: object) -> None:
    with pytest.raises(CheckpointError, match="calibrat"):
        Calibration.from_json({"plain": {}, "informed": informed})


def easy_and_hard(n: int) -> list[Sample]:
    """Problems that ℓ tells apart, P(right) = σ(−2 · ln(−ℓ) − 4), and the score does not."""
    rng = random.Random(1)
    made = []
    for _ in range(n):
        score, log_surprise = rng.uniform(0.3, 0.7), rng.uniform(-4.0, 0.0)
        right = rng.random() < 1 / (1 + math.exp(2 * log_surprise + 4))
        made.append(Sample("best_of_n", score, 8, right, score, -math.exp(log_surprise)))
    return made


def test_the_informed_fit_tells_easy_problems_from_hard_ones() -> None:
    calibration, unseen = fit_calibration(easy_and_hard(1_000)), easy_and_hard(4_000)[1_000:]
    plain = [calibration.confidence("best_of_n", r.evidence, r.k) or 0.0 for r in unseen]
    assert all(0.35 < p < 0.65 for p in plain)
    told = [
        calibration.confidence(r.strategy, r.evidence, r.k, score=r.score, mean_logprob=r.mean_logprob) for r in unseen
    ]
    assert (ece([p or 0.0 for p in told], [r.right for r in unseen]) or 1.0) < 0.04
    assert min(p or 0.0 for p in told) < 0.05 and max(p or 0.0 for p in told) > 0.95


def test_a_weight_counts_as_so_many_samples() -> None:
    data = easy_and_hard(60)
    weighted = fit_calibration([r._replace(weight=3.0) for r in data])
    thrice = fit_calibration(data * 3)
    for one, other in zip(
        (weighted.strategies["best_of_n"], weighted.informed["best_of_n"]),
        (thrice.strategies["best_of_n"], thrice.informed["best_of_n"]),
    ):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-6)


def test_the_shipped_confidence_falls_with_surprise_and_rises_with_the_score() -> None:
    config = read_config(Path(reflective.nano.__file__).parent / "weights" / "sprm" / "config.json")
    calibration = config.calibration
    assert calibration is not None and set(calibration.informed) == set(calibration.strategies)
    for strategy in calibration.informed:
        by_surprise = []
        for surprise in (0.01, 0.1, 0.5, 2, 9):
            score = min(0.6, math.exp(-config.probability_exponent * surprise))  # σ(s) · p^v is not more
            evidence = score if strategy in ("single", "best_of_n") else 0.6
            found = calibration.confidence(strategy, evidence, 8, score=score, mean_logprob=-surprise)
            by_surprise.append(found or 0.0)
        assert by_surprise == sorted(by_surprise, reverse=True) and by_surprise[-1] < 0.1 < 0.75 < by_surprise[0]
        by_score = [calibration.confidence(strategy, s, 8, score=s, mean_logprob=-0.1) or 0.0 for s in (0.3, 0.6, 0.9)]
        assert by_score == sorted(by_score)
