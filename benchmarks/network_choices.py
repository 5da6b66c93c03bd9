"""What each choice in the sharper network brings: Dice and valid samples without it, or with more.

    ACDC_ROOT=/path/to/acdc python benchmarks/network_choices.py

Every variant is trained alike, one thread each, and differs from the profile `sharp` in one thing.
Test patients take no part: training and validation are those of the official split. Written to
benchmarks/mine.
"""

import multiprocessing
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import joblib
import results
import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae_utils import shape_metrics
from cvae_utils.analysis import latent_priors, refinement
from cvae_utils.analysis.principal_components import signed_distances
from cvae_utils.analysis.run_results import judged, rebuilt_results
from cvae_utils.data import sources, splits
from cvae_utils.data.slices import load_or_align
from cvae_utils.files import REPOSITORY, machine, output_root
from cvae_utils.model import encoding, hardware, losses, network, training
from cvae_utils.model.runs import Run
from cvae_utils.profiles import PROFILES, SHARP_BETA, Profile

CLIP = 8.0  # of distance maps, pixels


def distances(target: Tensor) -> Tensor:
    """Label maps (N, 4, S, S), one-hot -> signed distance maps, clipped, (N, 4, S, S)."""
    maps = signed_distances(target.max(dim=1).indices.byte().numpy(), CLIP)
    return torch.from_numpy(maps).permute(0, 3, 1, 2)


class DistanceInput(network.FieldVAE):
    def encode(self, one_hot):
        return super().encode(distances(one_hot))


class WithoutResidualBlocks(network.FieldVAE):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for layers in (self.encoder, self.from_z):
            for number, layer in enumerate(layers):
                if isinstance(layer, network.Residual):
                    layers[number] = nn.SiLU() if number % 2 else nn.Identity()


class CoordinateConv(nn.Conv2d):
    """Convolution whose input has two channels more: x and y from -1 to 1 (Liu et al. 2018)."""

    def forward(self, x):
        line = torch.linspace(-1, 1, x.shape[-1])
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        return super().forward(torch.cat([x, grid.expand(len(x), -1, -1, -1)], dim=1))


class CoordinateChannels(network.FieldVAE):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for number, layer in enumerate(self.decoder):
            if isinstance(layer, nn.Conv2d):
                self.decoder[number] = CoordinateConv(layer.in_channels + 2, layer.out_channels, 3,
                                                      padding=1)


def distance_terms(scores: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> losses.Terms:
    """In place of losses.loss_terms: scores are distance maps of normal errors, whose variance is
    the best one for the batch."""
    error = functional.mse_loss(scores, distances(target))
    return losses.Terms(0.5 * error.log(), torch.ones(3), losses.kl_divergence(mu, logvar))


#: {title: what differs: settings of the profile, or the model, the loss, or the points of a field}.
VARIANTS = {
    "as it is": {}, "no augmentation": {"augment": 0.0},
    "a third of the augmentation": {"augment": 1.0},
    "the report's network": {"network": "conv"},
    "as many points in a field as pixels": {"points": 64},
    "no residual blocks": {"model": WithoutResidualBlocks},
    "coordinate channels": {"model": CoordinateChannels},
    "distance maps as input": {"model": DistanceInput},
    "distance maps as target, no soft-max": {"loss": distance_terms},
}


def load(profile: Profile, seed: int) -> tuple:
    """The data set, its slices, their split and how they are split."""
    source = sources.find_source(output_root() / "data", profile, REPOSITORY)
    slices = load_or_align(source, profile.size, output_root() / "data" / "processed",
                           progress=False)
    by = "official" if splits.has_testing_part(slices.table) else "patient"
    return source, slices, splits.split(slices.table, by, seed), by


def measure(title: str, epochs: int, seed: int) -> dict:
    """Train one variant on one thread, and measure it on the validation slices."""
    torch.set_num_threads(1)
    changes = dict(VARIANTS[title])
    network.NETWORKS["field"] = changes.pop("model", network.FieldVAE)
    losses.loss_terms = changes.pop("loss", losses.loss_terms)
    network.FIELD = changes.pop("points", network.FIELD)
    profile = replace(PROFILES["quick"].sharp, epochs=epochs, patience=epochs, **changes)
    source, slices, split, by = load(profile, seed)
    config = training.RunConfig(profile, SHARP_BETA, seed=seed, split_by=by,
                                data=slices.fingerprint)
    accelerator = hardware.make_accelerator(torch.device("cpu"), "no")
    model, history, steps, environment = training.fit(config, slices, split, accelerator)
    run = Run(model, asdict(config), history, steps, environment)
    gaussian, mixture = (latent_priors.fit_to_run(run, kind, slices, split)
                         for kind in latent_priors.FITTED)
    maps = slices.aligned[split["validation"]]
    z = {"mu": encoding.encode(model, maps).mu,
         "refined": refinement.refine(model, maps, gaussian, SHARP_BETA, progress=False)}
    found = {name: rebuilt_results("", judged(encoding.decode(model, points), maps))
             for name, points in z.items()}
    drawn = encoding.decode(model, mixture.sample(1000, seed))
    return {"title": title, "dice": found["mu"]["_dice"], "refined_dice": found["refined"]["_dice"],
            "valid_samples": float(shape_metrics.is_valid(drawn).mean()),
            "valid_real": float(shape_metrics.is_valid(maps).mean()),
            "kl": float(history["validation_kl"].iloc[-1]), "minutes": environment["seconds"] / 60,
            "weights": sum(weight.numel() for weight in model.parameters()),
            "data": slices.source, "patients": source.patients, "split": by}


def main() -> None:
    parser = results.command_line(__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if not os.environ.get("ACDC_ROOT"):
        os.environ["CVAE_DATA"] = "phantom"
    load(PROFILES["quick"].sharp, chosen.seed)  # once, before the processes want it
    # A process for each, since a variant changes what is imported.
    with multiprocessing.get_context("spawn").Pool(joblib.cpu_count(), maxtasksperchild=1) as pool:
        rows = pool.starmap(measure, [(title, chosen.epochs, chosen.seed) for title in VARIANTS],
                            chunksize=1)
    results.record(chosen, "network_choices", {
        "machine": machine(), "epochs": chosen.epochs, "seed": chosen.seed, "beta": SHARP_BETA,
        "size": PROFILES["quick"].sharp.size, "rows": rows})
    for row in rows:
        print(f"{row['title']}: Dice {row['dice']:.4f}, refined {row['refined_dice']:.4f}, "
              f"{100 * row['valid_samples']:.1f} % valid, {row['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
