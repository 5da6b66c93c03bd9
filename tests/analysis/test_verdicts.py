"""From scores of slices to what holds, does not hold, or cannot be told."""

import numpy as np
import pytest

from cvae_utils.analysis import verdicts


@pytest.mark.parametrize(("a", "b", "patients", "mean", "error"), [
    # Each patient counts once: differences 0.3, 0 and 0.2; the last is left out.
    ([0.9, 0.7, 0.5, 0.8, np.nan], [0.5, 0.5, 0.5, 0.6, 0.1], list("ppqrs"),
     0.5 / 3, np.std([0.3, 0, 0.2], ddof=1) / np.sqrt(3)),
    ([0.9, 0.7], [0.5, 0.5], list("pp"), 0.3, np.nan),
    ([np.nan], [0.5], ["p"], np.nan, np.nan),
])
def test_difference_is_over_patients(a, b, patients, mean, error):
    found = verdicts.patient_difference(np.array(a), np.array(b), patients)
    assert found == pytest.approx((mean, error), nan_ok=True)


@pytest.mark.parametrize(("value", "error", "mark", "is_above"), [
    (0.5, 0.1, 0.2, True), (0.5, 0.1, 0.8, False), (0.5, 0.1, 0.4, None), (0.5, 0.1, 0.6, None),
    (0.5, 0, 0.4, True), (0.5, np.nan, 0, None), (np.nan, 0.1, 0, None)])
def test_number_is_above_a_mark_by_two_standard_errors(value, error, mark, is_above):
    assert verdicts.above(value, error, mark) is is_above


@pytest.mark.parametrize(("answers", "together"), [
    ([True, True], True), ([True, False, None], False), ([True, None], None), ([], True)])
def test_all_hold_unless_one_does_not_or_cannot_be_told(answers, together):
    assert verdicts.all_of(answers) is together
