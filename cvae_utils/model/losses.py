"""The loss, its terms, and beta as a function of the training's progress.

    loss = cross-entropy + soft Dice loss + beta * KL / 256^2

Cross-entropy is the mean over pixels and the Dice loss a mean over structures, so the KL term is
divided by the report's pixel count, at every working size, for beta to mean the same everywhere.
At beta = 1 and 256 x 256 the cross-entropy and KL terms are the negative ELBO per pixel.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

KL_DIVISOR = 256**2
SMOOTHING = 1.0
SCHEDULES = ("constant", "linear", "exponential", "late-exponential", "cyclical")
#: Share of the training for which late-exponential waits: 20 of the report's 180 epochs.
WAIT = 1 / 9
CYCLES = 4
#: Above it, the squares of gradients leave the range of float32, and nothing is learnt.
LARGEST_BETA = torch.finfo(torch.float32).max ** 0.5
#: How fast beta follows the rate: what its logarithm would change by over a whole training in which
#: KL stays at twice the rate.
GAIN = 40.0


class Terms(NamedTuple):
    """Terms of the loss, averaged over the batch: scalars, and soft Dice of RV, MYO, LV (3,)."""

    cross_entropy: Tensor
    soft_dice: Tensor
    kl: Tensor  # nats

    def total(self, beta: float) -> Tensor:
        return self.cross_entropy + (1 - self.soft_dice.mean()) + beta * self.kl / KL_DIVISOR


def loss_terms(scores: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Terms:
    """scores (N, 4, S, S) before the soft-max; target (N, 4, S, S) one-hot; mu, logvar (N, Z)."""
    log_p = functional.log_softmax(scores.float(), dim=1)
    cross_entropy = -(target * log_p).sum() / target[:, 0].numel()
    return Terms(cross_entropy, soft_dice(log_p.exp(), target), kl_divergence(mu, logvar))


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of RV, MYO and LV, (3,), per image and structure, then averaged over images.

    (2 sum p t + 1) / (sum p + sum t + 1) over pixels (Milletari et al. 2016, first power in the
    denominator); the 1 makes a structure that is rightly absent count 1 and not 0 / 0.
    """
    overlap = (probability * target).sum(dim=(2, 3))  # (N, 4)
    total = probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    dice = ((2 * overlap + SMOOTHING) / (total + SMOOTHING)).mean(dim=0)
    return dice[1:]  # background is no structure; to leave it out above would be slower


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp logvar) || N(0, I)) in nats, summed over dimensions, averaged over the batch.

    Kingma and Welling 2014, appendix B. mu, logvar: (N, Z); returns a scalar.
    """
    mu, logvar = mu.float(), logvar.float()
    return 0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar).sum(dim=1).mean()


def beta_at(progress: float, beta: float, schedule: str = "constant", start: float = 1.0,
            rise: float = 0.5) -> float:
    """Weight of the KL term at `progress` in [0, 1] of the training.

    constant: beta. linear, exponential: from `start` to beta over the first `rise` of the
    training, then constant. late-exponential: the same, but `start` stays for a ninth of the
    training first. cyclical: four times in turn, from `start` linearly to beta over the first
    `rise` of a quarter, then constant until its end (Fu et al. 2019). Raises ValueError for another
    schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {SCHEDULES}, found {schedule!r}")
    if schedule == "constant":
        return beta
    if schedule == "cyclical" and progress < 1:
        progress = progress * CYCLES % 1
    if schedule == "late-exponential":
        progress, rise = max(progress - WAIT, 0.0), rise - WAIT
    share = min(progress / rise, 1.0)
    if schedule in ("linear", "cyclical"):
        return start + (beta - start) * share
    return start * (beta / start) ** share


def towards_rate(beta: float, kl: float, rate: float, steps: int) -> float:
    """Beta for the next of `steps` steps, so that in the long run KL is `rate`; both in nats.

    beta exp(GAIN / steps (kl / rate - 1)), with the bracket bounded to -1..1: beta as the Lagrange
    multiplier of the constraint KL = rate, which takes multiplicative steps (Rezende and Viola
    2018).
    """
    return beta * math.exp(GAIN / steps * max(-1.0, min(kl / rate - 1, 1.0)))
