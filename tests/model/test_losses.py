"""Each term of the loss against its definition, and the schedules of beta."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from cvae_utils.model import encoding, losses
from cvae_utils.model.losses import beta_at, kl_divergence, loss_terms, soft_dice
from cvae_utils.model.network import one_hot


@pytest.fixture
def batch():
    """Scores (3, 4, 8, 8), label maps (3, 8, 8), mu and logvar (3, 5)."""
    draw = torch.Generator().manual_seed(0)
    return (torch.randn(3, 4, 8, 8, generator=draw) * 3,
            torch.randint(0, 4, (3, 8, 8), generator=draw),
            torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw))


def test_kl_is_summed_over_dimensions_and_averaged_over_the_batch(batch):
    assert kl_divergence(torch.zeros(4, 32), torch.zeros(4, 32)) == 0
    mu = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert kl_divergence(mu, torch.zeros(2, 3)) == pytest.approx(3 * 0.5 / 2)
    _, _, mu, logvar = batch
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mu, torch.exp(logvar / 2)), normal(0, 1))
    assert kl_divergence(mu, logvar) == pytest.approx(theirs.sum(dim=1).mean().item(), rel=1e-5)
    per_dimension = encoding.kl_per_dimension(mu.numpy(), logvar.numpy())
    assert kl_divergence(mu, logvar) == pytest.approx(per_dimension.sum(), rel=1e-5)


def test_cross_entropy_is_the_mean_over_pixels(batch):
    scores, maps, mu, logvar = batch
    found = loss_terms(scores, one_hot(maps), mu, logvar).cross_entropy
    assert found == pytest.approx(functional.cross_entropy(scores, maps).item(), rel=1e-5)


def test_terms_are_those_of_the_softmax_even_from_bfloat16(batch):
    scores, maps, mu, logvar = batch
    terms = loss_terms(scores.bfloat16(), one_hot(maps), mu.bfloat16(), logvar.bfloat16())
    assert all(term.dtype == torch.float32 for term in terms)
    expected = soft_dice(torch.softmax(scores, dim=1), one_hot(maps))
    assert terms.soft_dice.numpy() == pytest.approx(expected.numpy(), abs=0.01)


def test_soft_dice_by_hand():
    # Four pixels. RV: p = .5 .5 0 0, t = 1 0 0 0. MYO: absent and not predicted. LV: perfect, 2.
    p, t = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    p[0, 1] = torch.tensor([[0.5, 0.5], [0, 0]])
    t[0, 1, 0, 0] = 1
    p[0, 3, 1] = t[0, 3, 1] = 1
    expected = [(2 * 0.5 + 1) / (1 + 1 + 1), 1, 1]
    assert soft_dice(p, t).tolist() == pytest.approx(expected)
    # predicted where it is absent: (0 + 1) / (2 + 0 + 1)
    assert soft_dice(p, torch.zeros_like(t))[2] == pytest.approx(1 / 3)


def test_soft_dice_is_averaged_over_images_and_not_pooled():
    p, t = torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4, 4)
    p[0, 3] = t[0, 3] = 1  # perfect, 16 pixels
    t[1, 3, 0, 0] = 1  # missed, one pixel: (0 + 1) / (0 + 1 + 1)
    assert soft_dice(p, t)[2] == pytest.approx((1 + 0.5) / 2)


def test_total_divides_the_kl_by_the_pixels_of_the_report():
    terms = losses.Terms(torch.tensor(0.25), torch.tensor([0.9, 0.6, 0.6]), torch.tensor(6.0))
    assert terms.total(0) == pytest.approx(0.25 + 0.3)
    assert terms.total(1000) == pytest.approx(0.25 + 0.3 + 1000 * 6 / 256**2)


@pytest.mark.parametrize(("schedule", "beta", "rise", "progress", "expected"), [
    ("constant", 100, 0.4, [0, 0.2, 0.4, 1], [100, 100, 100, 100]),
    ("linear", 100, 0.4, [0, 0.2, 0.4, 1], [1, 50.5, 100, 100]),
    ("exponential", 100, 0.4, [0, 0.2, 0.4, 1], [1, 10, 100, 100]),  # the geometric mean
    ("exponential", 0.01, 0.5, [0, 0.25, 0.5], [1, 0.1, 0.01]),  # beta may fall
    # A late rise waits for a ninth of the training.
    ("late-exponential", 100, 1 / 3, [0, 1 / 9, 2 / 9, 1 / 3, 1], [1, 1, 10, 100, 100]),
    # Cycles of a quarter of the training start again, and the last one ends at beta.
    ("cyclical", 100, 0.5, [0, 0.0625, 0.2, 0.25, 0.3125, 1], [1, 50.5, 100, 1, 50.5, 100]),
])
def test_beta_rises_as_its_schedule_says(schedule, beta, rise, progress, expected):
    found = [beta_at(p, beta, schedule, start=1.0, rise=rise) for p in progress]
    assert found == pytest.approx(expected)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="constant.*found 'cosine'"):
        beta_at(0, 1.0, "cosine")


@pytest.mark.parametrize(("kl", "factor"), [(6, 1), (7, np.exp(0.02 / 6)), (3, np.exp(-0.01)),
                                            (600, np.exp(0.02))])
def test_beta_moves_against_the_distance_of_kl_from_its_rate(kl, factor):
    assert losses.towards_rate(500.0, kl, rate=6.0, steps=2000) == pytest.approx(500 * factor)
