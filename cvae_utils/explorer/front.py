"""The explorer's front end: its scripts and style, and what it is told of each run.

One program draws both the widget and the page. It is the files in front/, one after another, and
one block of JSON. Arrays in that are base64 of little-endian numbers: float16 as in the files of a
run, so nothing is lost, and float32 where a place is exact.
"""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.data.download import CITATION, LICENCE
from cvae_utils.data.file_names import PHASES
from cvae_utils.explorer.atlas import Atlas, Coordinates
from cvae_utils.figures.colours import COLOURS, GROUP_COLOURS
from cvae_utils.labels import GROUP_TITLES, Label, groups_of
from cvae_utils.model.network import VAE, FieldVAE, Residual, Upsample

FOLDER = Path(__file__).with_name("front")
SCRIPTS = ("decoder.js", "heart.js", "latent.js", "drawing.js", "files.js", "explorer.js")
#: What must be said beside a picture that derives from a data set.
LICENCES = {
    "ACDC": f"Derived from the ACDC database: {LICENCE}; cite {CITATION}",
    "phantom": "Synthetic hearts",
}
LAYERS = {nn.Linear: "linear", Residual: "residual", Upsample: "up", nn.Conv2d: "conv"}
#: Decoders of more weights than this stay in the kernel: a browser would take too long.
MOST_WEIGHTS = 3_000_000


def script() -> str:
    """The program; it defines explore(element, data, kernel)."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)


def style() -> str:
    return (FOLDER / "explorer.css").read_text(encoding="utf-8")


def describe(atlases: Sequence[Atlas], decoders: bool = False, whole: int | None = None) -> dict:
    """What the front end knows of these runs, in this order; the first one opens.

    Of a model only the decoder goes in, and of the training slices mu, what is known of them and
    their place in the UMAP plane. A large decoder is left out (its layers are null), unless all
    `decoders` are asked for. whole: of how many runs all of that goes in, all of them if None; of
    the others only the label, and `describe_run` gives the rest. Raises ValueError if there is no
    run.
    """
    if not atlases:
        raise ValueError("expected at least one atlas, found none")
    groups, phases = _groups(atlases), _phases(atlases)
    labels = [_label(each) for each in atlases]
    runs = [{"label": label + (f" ({each.name})" if labels.count(label) > 1 else "")}
            for each, label in zip(atlases, labels)]
    for n, run in enumerate(runs[:whole]):
        run |= describe_run(atlases, n, decoders)
    return {"classes": [{"name": label.name, "colour": COLOURS[label]} for label in Label],
            "groups": [{"name": group, "title": GROUP_TITLES[group], "colour": GROUP_COLOURS[group]}
                       for group in groups],
            "phases": phases, "limit": LIMIT, "runs": runs}


def _groups(atlases: Sequence[Atlas]) -> list[str]:
    return groups_of(group for each in atlases for group in each.groups)


def _phases(atlases: Sequence[Atlas]) -> list[str]:
    return [phase for phase in PHASES if any(phase in each.phases for each in atlases)]


def _label(source: Atlas) -> str:
    return f"beta {source.beta:g}" + ", sharp" * isinstance(source.run.model, FieldVAE)


def describe_run(atlases: Sequence[Atlas], number: int, decoders: bool = False) -> dict:
    """All but the label of one of these runs; see `describe`."""
    source, groups, phases = atlases[number], _groups(atlases), _phases(atlases)
    model, table = source.run.model, source.table
    layers, weights = _decoder(model)
    if not decoders and sum(map(len, weights)) > MOST_WEIGHTS:
        layers, weights = None, [np.empty(0)]
    median_mm = float(table["crop_mm"].median())
    found = {
        "name": source.name, "source": source.source,
        "stamp": source.stamp, "licence": LICENCES.get(source.source, ""),
        "size": model.size, "latent_dim": model.latent_dim, "crop_mm": round(median_mm, 2),
        "layers": layers, "weights": encoded(np.concatenate(weights), "<f2"),
        "mu": encoded(source.posterior.mu, "<f2"), "plane": encoded(source.plane, "<f4"),
        "group": [groups.index(name) for name in table["group"]],
        # -1: not known
        "phase": [phases.index(name) if name in phases else -1 for name in table["phase"]],
        "level": [-1 if math.isnan(level) else min(int(3 * level), 2) for level in table["level"]],
        "slice_mm": [round(mm, 1) for mm in table["crop_mm"].fillna(median_mm)],
        "dimensions": _coordinates(source.coordinates("standard")),
        "priors": [_prior(source, kind) for kind in source.priors],
        "sizes": source.sizes, "valid_along": source.validity["along"],
        "error_p90": source.umap["error_p90"]}
    if source.axes is not None and len(source.priors) > 1:
        kind = list(source.priors)[-1]
        prior = source.priors[kind]
        found["axes"] = _coordinates(source.coordinates(kind)) | {
            "mean": encoded(prior.mean, "<f4"), "from": encoded(prior.axes, "<f4"),
            "to": encoded(np.linalg.inv(prior.axes), "<f4")}
    return found


def _coordinates(coordinates: Coordinates) -> dict:
    ranking = coordinates.effects.ranking
    # Dice is undefined where the mean shape and all of a traversal are empty.
    dice = {d: None if math.isnan(score) else round(score, 4)
            for d, score in zip(ranking["dimension"], ranking["mean_dice"])}
    return {"order": coordinates.order, "active": coordinates.active,
            "names": coordinates.effects.names,
            "dice": [dice[d] for d in range(len(dice))]}


def _prior(source: Atlas, kind: str) -> dict:
    prior = source.priors[kind]
    found = {"kind": kind, "title": prior.title, "valid": source.validity["samples"][kind],
             "temperature": source.validity["temperature"][kind]}
    if kind != "standard":
        found |= {"weights": prior.weights.tolist(), "means": encoded(prior.means, "<f2"),
                  "roots": encoded(np.linalg.cholesky(prior.covariances), "<f2")}
    return found


def _decoder(model: VAE) -> tuple[list, list[np.ndarray]]:
    """The layers of a decoder, [kind, what goes in, what comes out, activation], and their weights
    in the same order. It ends at class scores of any size: the front end enlarges them."""
    layers, weights = [], []
    start = model.from_z if isinstance(model.from_z, nn.Sequential) else [model.from_z]
    for module in (*start, *model.decoder):
        if type(module) not in LAYERS:
            layers[-1][-1] = type(module).__name__
            continue
        sizes = ((module.in_features, module.out_features) if isinstance(module, nn.Linear) else
                 (module.width, module.width) if isinstance(module, Residual) else
                 (module.in_channels, module.out_channels))
        layers.append([LAYERS[type(module)], *sizes, "none"])
        weights += [weight.detach().cpu().numpy().ravel() for weight in module.parameters()]
    return layers, weights


def encoded(values: np.ndarray, dtype: str) -> str:
    """An array as base64 of its little-endian numbers."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()
