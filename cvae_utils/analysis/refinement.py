"""The z of a slice by optimisation: what the encoder gives in one pass is a first guess.

An encoder is trained to be right for all slices at once, and leaves a gap to the best z of each
one (the amortisation gap: Cremer et al. 2018). Some steps of gradient descent on z alone, with the
decoder as it is, close most of it.
"""

import numpy as np
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from tqdm.auto import tqdm

from cvae_utils.analysis import latent_priors
from cvae_utils.analysis.run_results import judged, key_for, rebuilt_results
from cvae_utils.cache import kept_json
from cvae_utils.data.slices import Slices, read_rows
from cvae_utils.model import encoding, hardware, losses
from cvae_utils.model.network import VAE, one_hot
from cvae_utils.model.runs import Run

#: Steps of Adam, and the first one's length in standard deviations of the prior; it falls to 0.
STEPS, LENGTH = 30, 0.1


@hardware.freed_memory_is_reused()
def refine(model: VAE, maps: np.ndarray, prior: latent_priors.Prior, beta: float,
           steps: int = STEPS, progress: bool = True) -> np.ndarray:
    """Label maps (N, S, S) -> the most probable z of each, (N, Z) float32.

    Maximum a posteriori: the least of cross-entropy + soft Dice loss - beta log p(z) / 256^2, which
    is the loss of the training with z in place of q(z|x) and the prior in place of N(0, I). Starts
    at mu and takes `steps` steps of Adam (0 leaves mu as it is).
    """
    device = next(model.parameters()).device
    weights, means, covariances = (torch.as_tensor(values, dtype=torch.float32, device=device)
                                   for values in (prior.weights, prior.means, prior.covariances))
    density = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
    length = LENGTH * covariances.diagonal(dim1=1, dim2=2).mean().sqrt().item()
    found, step = [encoding.encode(model, maps).mu], encoding.batch_size(model.size)
    for start in tqdm(range(0, len(maps), step), desc="refining z", unit="batch", leave=False,
                      disable=not progress):
        part = torch.from_numpy(np.ascontiguousarray(maps[start:start + step]))
        target = one_hot(part.to(device))
        z = torch.from_numpy(found[0][start:start + step].copy()).to(device).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=length)
        decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, max(steps, 1))
        for _ in range(steps):
            terms = losses.loss_terms(model.decode(z), target, z, torch.zeros_like(z))
            loss = len(z) * terms.total(0.0) - beta * density.log_prob(z).sum() / losses.KL_DIVISOR
            z.grad, = torch.autograd.grad(loss, z)  # of z alone, and not of the weights
            optimiser.step()
            decay.step()
        found.append(z.detach().cpu().numpy())
    return np.concatenate(found[1:] or found)


def refined(run: Run, slices: Slices, split: dict[str, np.ndarray], steps: int = STEPS) -> dict:
    """run_results.rebuilt_results of the test slices, rebuilt from their refined z, with the
    Gaussian fitted to the run's codes as prior; measured once, and kept with the run."""
    def make() -> dict:
        prior = latent_priors.of(run, "gaussian", slices, split)
        maps = read_rows(slices.aligned, split["test"])
        z = refine(run.model, maps, prior, run.config["beta"], steps)
        return rebuilt_results("test", judged(encoding.decode(run.model, z), maps))

    key = key_for(slices, split, steps, code=[refined])
    return kept_json(run.folder, "refined", key, make)
