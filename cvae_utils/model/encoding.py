"""Label maps to latent values and back, a block at a time."""

from typing import NamedTuple

import numpy as np
import torch

from cvae_utils.model.network import VAE, FieldVAE, bicubic, one_hot

#: A latent dimension is active when its mean KL over the training slices exceeds this (nats).
ACTIVE_KL = 0.1
#: Pixels of label maps that pass the model at a time: 256 slices of 64 x 64, 16 of 256 x 256.
BATCH_PIXELS = 2**20


def kl_per_dimension(mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """Mean KL(q(z|x) || N(0, 1)) of each latent dimension in nats, (Z,); mu, logvar: (N, Z).

    Kingma and Welling 2014, appendix B: (mu^2 + sigma^2 - 1 - log sigma^2) / 2.
    """
    return 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).mean(axis=0)


def batch_size(side: int) -> int:
    """Slices of so many pixels a side that are encoded or decoded at a time."""
    return max(1, BATCH_PIXELS // side**2)


class Posterior(NamedTuple):
    """q(z|x) of N slices: mean and log-variance, each (N, Z)."""

    mu: np.ndarray
    logvar: np.ndarray

    def sample(self, seed: int = 0) -> np.ndarray:
        """One z a slice, (N, Z)."""
        noise = np.random.default_rng(seed).standard_normal(self.mu.shape, dtype=np.float32)
        return self.mu + np.exp(0.5 * self.logvar) * noise


@torch.inference_mode()
def encode(model: VAE, maps: np.ndarray) -> Posterior:
    """Label maps (N, S, S) -> q(z|x)."""
    device = next(model.parameters()).device
    parts, step = [], batch_size(model.size)
    for start in range(0, len(maps) or 1, step):  # no maps make one empty batch
        batch = torch.from_numpy(np.ascontiguousarray(maps[start:start + step])).to(device)
        parts.append([t.float().cpu().numpy() for t in model.encode(one_hot(batch))])
    return Posterior(*(np.concatenate(part) for part in zip(*parts)))


@torch.inference_mode()
def decode(model: VAE, z: np.ndarray) -> np.ndarray:
    """Latent points (N, Z) -> arg-max label maps (N, S, S) uint8."""
    device = next(model.parameters()).device
    parts, step = [], batch_size(model.size)
    for start in range(0, len(z) or 1, step):
        batch = torch.as_tensor(z[start:start + step], dtype=torch.float32, device=device)
        parts.append(model.decode(batch).max(dim=1).indices.to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


@torch.inference_mode()
def decode_scores(model: VAE, z: np.ndarray, size: int) -> np.ndarray:
    """Latent points (N, Z) -> class scores (N, 4, size, size) float32, for smooth outlines."""
    z = torch.as_tensor(z, dtype=torch.float32, device=next(model.parameters()).device)
    scores = (model.decode(z, size) if isinstance(model, FieldVAE) else
              bicubic(model.decode(z), size))
    return scores.float().cpu().numpy()


def reconstruct(model: VAE, maps: np.ndarray) -> np.ndarray:
    """Label maps (N, S, S) -> their reconstructions from mu, without sampling."""
    return decode(model, encode(model, maps).mu)


def sample_prior(count: int, latent_dim: int, seed: int = 0) -> np.ndarray:
    """z ~ N(0, I), (count, Z)."""
    return np.random.default_rng(seed).standard_normal((count, latent_dim), dtype=np.float32)
