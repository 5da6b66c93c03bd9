"""Augmentation that keeps anatomy: small rotations, changes of size and smooth deformations.

No reflection, because the RV of a mirrored heart lies on the wrong side, and nothing that tears: a
deformation is smooth on the scale of the whole heart, so parts stay connected and walls closed.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvae_utils.model.encoding import batch_size
from cvae_utils.model.network import bicubic, one_hot

#: Standard deviations at strength 1: angle in radians; size, and its ratio of width to height, as
#: logarithms; displacement of the elastic grid's nodes as a share of the picture's side.
ANGLE, SIZE, ASPECT, ELASTIC = 0.05, 0.05, 0.05, 0.02
#: Nodes a side of the grid whose displacements are interpolated to every pixel.
NODES = 5
#: Random numbers that one warp takes.
COUNT = 3 + 2 * NODES**2


def deformed(maps: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Label maps (N, S, S) uint8, each deformed at random."""
    numbers = torch.randn(len(maps), COUNT, generator=torch.Generator().manual_seed(seed))
    step = batch_size(maps.shape[-1])
    parts = [warp(one_hot(torch.from_numpy(np.ascontiguousarray(maps[start:start + step]))),
                  numbers[start:start + step], strength).argmax(dim=1).to(torch.uint8).numpy()
             for start in range(0, len(maps), step)]
    return np.concatenate(parts)


def warp(target: Tensor, numbers: Tensor, strength: float = 1.0) -> Tensor:
    """Label maps (N, 4, S, S), one-hot, each deformed by its own numbers (N, COUNT) ~ N(0, 1).

    The result is one-hot again: classes are interpolated linearly and the largest one is taken,
    so that no other value than a label can come out. At strength 0, or with all numbers 0, it is
    the input.
    """
    count, classes, side, _ = target.shape
    angle, size, aspect = (strength * numbers[:, :3]).unbind(dim=1)
    angle, width, height = (ANGLE * angle, torch.exp(SIZE * size + ASPECT / 2 * aspect),
                            torch.exp(SIZE * size - ASPECT / 2 * aspect))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # grid_sample wants to know where each pixel comes from: the inverse, rotated back, then shrunk.
    matrix = torch.stack([torch.stack([cos / width, sin / width, zero], dim=1),
                          torch.stack([-sin / height, cos / height, zero], dim=1)], dim=1)
    source = functional.affine_grid(matrix, [count, 1, side, side], align_corners=False)
    # The coordinates run from -1 to 1, so a share of the side is twice as much there.
    nodes = 2 * ELASTIC * strength * numbers[:, 3:].reshape(count, 2, NODES, NODES)
    shift = bicubic(nodes, side, align_corners=True)
    source = source + shift.permute(0, 2, 3, 1)
    mixed = functional.grid_sample(target, source, padding_mode="border", align_corners=False)
    chosen = mixed.max(dim=1).indices  # (N, S, S); argmax is several times slower on a CPU
    return (chosen[..., None] == torch.arange(classes, device=chosen.device)).permute(
        0, 3, 1, 2).to(target.dtype)
