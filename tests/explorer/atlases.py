"""Small atlases for the tests: of models that never trained, but whose hearts are lively."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from cvae_utils.analysis.latent_priors import Prior
from cvae_utils.explorer.atlas import TABLE_COLUMNS, Atlas, Effects
from cvae_utils.model.encoding import Posterior, decode
from cvae_utils.model.network import build_model
from cvae_utils.model.runs import Run


def lively_model(size=32, latent_dim=6, channels=4, network="conv"):
    """Each step of 0.1 in any dimension changes its heart, which has all classes; its weights are
    float16 exactly."""
    torch.manual_seed(0)
    model = build_model({"size": size, "base_channels": channels, "latent_dim": latent_dim,
                         "network": network})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any():  # a residual block that is not yet used
                parameter.normal_(std=0.1)
            if not name.startswith("to_logvar"):
                parameter.mul_(2.5)
    return model.half().float().eval()


def small_atlas(table, size=32, latent_dim=6, channels=4, beta=10.0, **changed):
    """An atlas of a lively model: of dimensions 3, 1, 0, 5, 4, 2, the strongest first, 3, 0 and 5
    are active, and the training slices, those of `table`, lie anywhere."""
    draw = np.random.default_rng(0)
    table = table[[name for name in TABLE_COLUMNS if name in table]].reset_index(drop=True)
    table[["umap_1", "umap_2"]] = draw.normal(size=(len(table), 2)).astype(np.float32)
    mu = draw.normal(size=(len(table), latent_dim)).astype(np.float16).astype(np.float32)
    order = [d for d in (3, 1, 0, 5, 4, 2) if d < latent_dim]
    made = Atlas(
        name="small", posterior=Posterior(mu, np.zeros_like(mu)), table=table,
        run=Run(lively_model(size, latent_dim, channels), {"beta": beta}, None, None, {}),
        effects=effects(order, [f"effect {d}" for d in range(latent_dim)]),
        active=[d for d in (5, 0, 3) if d < latent_dim],
        umap={"error_median": 0.1, "error_p90": 0.5}, source="phantom", stamp="Data: small hearts",
        validity={"along": {"dimensions": 0.75}, "samples": {"standard": 0.25},
                  "temperature": {"standard": 1.0}},
        sizes={"LV": [0.0, 500.0], "wall": [0.0, 100.0]})
    return replace(made, **changed)


def effects(order, names):
    """Of coordinates in this order, the strongest first."""
    dice = np.linspace(0.3, 0.9, len(order))
    return Effects(pd.DataFrame({"dimension": order, "mean_dice": dice, "variance": 0.0}), names)


#: Axes of the fitted priors in columns: half of dimension 4, one of 1, two of 0 and one of 5, ...
TURN = np.array([[0, 0, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, -1, 1, 0],
                 [0.5, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 3]])
CENTRE = np.array([0.5, -0.5, 0.25, 0, 0.5, 0])


def with_priors(atlas, kinds=("gaussian", "mixture"), **changed):
    """The atlas with fitted priors: axes TURN around CENTRE, the first three tell something. The
    mixture is of two points, 1 to either side along the first dimension."""
    signal, step = np.array([0.9, 0.8, 0.5, 0.1, 0.05, 0]), np.eye(6)[0]
    made = {"gaussian": Prior("gaussian", np.ones(1), CENTRE[None], (TURN @ TURN.T)[None], TURN,
                              signal),
            "mixture": Prior("mixture", np.full(2, 0.5), CENTRE + [step, -step],
                             np.stack([1e-8 * np.eye(6)] * 2), TURN, signal)}
    shares = {"standard": 0.25} | dict.fromkeys(kinds, 0.95)
    validity = {"along": {"dimensions": 0.75, "axes": 0.5}, "samples": shares,
                "temperature": dict.fromkeys(shares, 1.0)}
    return replace(atlas, priors={kind: made[kind] for kind in kinds}, axes=effects(
        [2, 0, 1, 3, 4, 5], [f"deed {k}" for k in range(6)]), validity=validity, **changed)


def halved(slices):
    """The same slices with half as many pixels a side."""
    return replace(slices, aligned=np.ascontiguousarray(slices.aligned[:, ::2, ::2]))


def heart(model, z):
    return decode(model, np.asarray(z, dtype=np.float32)[None])[0]
