"""Distributions of latent values beside N(0, 1)."""

import numpy as np
import pytest
from scipy.stats import norm

from cvae_utils.analysis import latent_values


def test_distance_to_normal_is_the_shift_of_a_shifted_normal():
    quantiles = norm.ppf((np.arange(1000) + 0.5) / 1000)
    z = np.random.default_rng(0).permutation(quantiles)[:, None] + np.array([[0.0, 1.0, -2.0]])
    assert latent_values.distance_to_normal(z) == pytest.approx([0, 1, 2])
    assert latent_values.distance_to_normal(np.zeros((1000, 1))) == pytest.approx(
        np.sqrt(2 / np.pi), abs=0.01)  # a collapsed dimension: the mean of |N(0, 1)|


def test_modes_are_apart_and_a_skewed_dimension_has_one():
    normal = norm.ppf((np.arange(900) + 0.5) / 900)
    halves = np.where(np.arange(900) % 2, 2.0, -2.0)
    few = np.where(np.arange(900) % 30, 0.0, 6.0)  # one in thirty is no mode
    z = np.column_stack([normal, 0.5 * normal + halves, np.exp(0.7 * normal), normal**3,
                         0.5 * normal + few])
    assert latent_values.modes_apart(z).tolist() == [False, True, False, False, False]
    assert not latent_values.modes_apart(z[:1]).any()
