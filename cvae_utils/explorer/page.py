"""The explorer as one HTML file: its sliders decode in the browser, with no kernel or network.

page.html is the page with a place for the data, which are one block of JSON. Arrays in it are
base64 of little-endian numbers: float16 as in the files of a run, so nothing is lost, and float32
for the UMAP plane.
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.data.download import CITATION, LICENCE
from cvae_utils.data.file_names import PHASES
from cvae_utils.explorer.atlas import Atlas, load, pretrained_folders
from cvae_utils.figures.colours import COLOURS, GROUP_COLOURS, LONG_NAMES
from cvae_utils.files import write_text
from cvae_utils.labels import Label, groups_of
from cvae_utils.model.network import (
    FIELD,
    VAE,
    FieldVAE,
    Residual,
    Upsample,
    bicubic_matrix,
)

TEMPLATE = Path(__file__).with_name("page.html")
PLACE_OF_DATA = "{{data}}"
#: What must be said beside a picture that derives from a data set.
LICENCES = {
    "ACDC": f"Derived from the ACDC database: {LICENCE}; cite {CITATION}",
    "phantom": "Synthetic hearts",
}
LAYERS = {nn.Linear: "linear", Residual: "residual", Upsample: "up", nn.Conv2d: "conv"}
NEIGHBOURS = 15  # as projections.place


def runs_of_repository() -> list[Atlas]:
    """The runs of figures/explorer.html: all that come with the repository. The last one, which
    the page opens on, is the sharp one."""
    return [load(folder) for folder in reversed(pretrained_folders())]


def build(atlases: Sequence[Atlas]) -> str:
    """The page of these runs, in this order, as HTML text; the same runs make the same text.

    It opens on the last one. Of a model only the decoder goes into the page, and of the training
    slices mu, group, phase and place in the UMAP plane. Raises ValueError if there is no run.
    """
    if not atlases:
        raise ValueError("expected at least one atlas, found none")
    groups = groups_of(group for each in atlases for group in each.groups)
    phases = [phase for phase in PHASES if any(phase in each.phases for each in atlases)]
    runs = [_describe(each, groups, phases) for each in atlases]
    count = Counter(run["label"] for run in runs)
    for run in runs:
        if count[run["label"]] > 1:
            run["label"] += f" ({run['name']})"
    data = {
        "classes": [{"name": label.name, "long": LONG_NAMES[label], "colour": COLOURS[label]}
                    for label in Label],
        "groups": [{"name": group, "colour": GROUP_COLOURS[group]} for group in groups],
        "phases": phases, "limit": LIMIT, "neighbours": NEIGHBOURS, "runs": runs}
    # A "<" might end the script element in which the block lies.
    block = json.dumps(data, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE_OF_DATA, block)


def write(atlases: Sequence[Atlas], path: Path) -> Path:
    """Write the page of these runs; the file appears only when complete. Returns the path.

    Raises ValueError if there is no run.
    """
    text = build(atlases)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _describe(source: Atlas, groups: Sequence[str], phases: Sequence[str]) -> dict:
    model = source.run.model
    layers, weights = _decoder(model)
    ranking, names = source.effects
    return {
        "name": source.name, "source": source.source,
        "label": f"beta {source.beta:g}" + (", sharp" if isinstance(model, FieldVAE) else ""),
        "stamp": source.stamp, "licence": LICENCES.get(source.source, ""),
        "size": model.size, "channels": model.base_channels, "latent_dim": model.latent_dim,
        "layers": layers,
        "weights": _base64(np.concatenate(weights), "<f2"),
        "mu": _base64(source.posterior.mu, "<f2"), "plane": _base64(source.plane, "<f4"),
        "group": [groups.index(name) for name in source.table["group"]],
        # -1: not known
        "phase": [phases.index(name) if name in phases else -1 for name in source.table["phase"]],
        # Dice is undefined where the mean shape and all of a traversal are empty.
        "ranking": [[dimension, None if math.isnan(dice) else round(dice, 4)]
                    for dimension, dice in zip(ranking["dimension"], ranking["mean_dice"])],
        "names": names, "active": source.active,
        "error_median": source.umap["error_median"], "error_p90": source.umap["error_p90"]}


def _decoder(model: VAE) -> tuple[list, list[np.ndarray]]:
    """The layers of a decoder, [kind, what goes in, what comes out, activation], and their weights
    in the same order."""
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
    if isinstance(model, FieldVAE):
        layers.append(["enlarge", FIELD, model.size, "none"])
        weights.append(bicubic_matrix(FIELD, model.size).numpy().ravel())
    return layers, weights


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()
