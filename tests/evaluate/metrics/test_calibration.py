"""The expected calibration error against its other definition."""

import numpy as np
import pytest

from reflective.evaluate.metrics.calibration import Reliability
from reflective.judge.calibrate import ece


def test_the_error_is_that_of_the_definition_used_in_training():
    rng = np.random.default_rng(0)
    p, y = rng.random(200), (rng.random(200) < 0.4).astype(float)
    p[:2] = 0.0, 1.0
    assert Reliability.of(p, y).error == pytest.approx(ece(p.tolist(), y.astype(bool).tolist()))


def test_unknown_ones_are_left_out_and_nothing_is_undefined():
    nan = float("nan")
    assert Reliability.of(np.array([0.5, nan, 0.5]), np.array([1.0, 1.0, nan])).error == 0.5
    assert np.isnan(Reliability.of(np.array([nan]), np.array([1.0])).error)
