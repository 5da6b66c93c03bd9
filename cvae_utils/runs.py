"""Trained runs on disk: folders that appear only when complete.

    data/runs/quick-beta1000-seed0-<hash>/
        model.safetensors   weights of the epoch with the lowest validation loss
        config.json         everything that the run depends on
        history.csv         one row an epoch: loss terms and Dice, training and validation
        steps.csv           one row an optimiser step: loss terms and soft Dice
        results.json        what evaluation.evaluate measures
        environment.json    versions, device, precision, seconds
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvae_utils import checkpoint
from cvae_utils.hardware import best_device
from cvae_utils.model import ConvVAE
from cvae_utils.storage import complete_folder, read_json, write_json

RUN_FILES = ("model.safetensors", "config.json", "history.csv", "steps.csv", "results.json",
             "environment.json")


@dataclass(frozen=True)
class Run:
    """A trained VAE and what is known of it."""

    model: ConvVAE
    config: dict
    history: pd.DataFrame
    steps: pd.DataFrame
    results: dict
    environment: dict
    folder: Path | None = None


def save_run(folder: Path, vae: ConvVAE, config: dict, history: pd.DataFrame, steps: pd.DataFrame,
             results: dict, environment: dict) -> None:
    """Write a run folder, whole or not at all. One that is there stays as it is: it is of the same
    run, trained by another process, and may hold fitted priors and an atlas by now."""
    with complete_folder(folder, replace=False) as partial:
        weights = {k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        write_json(partial / "config.json", config)
        history.to_csv(partial / "history.csv", index=False)
        steps.to_csv(partial / "steps.csv", index=False)
        write_json(partial / "results.json", results)
        write_json(partial / "environment.json", environment)


def load_run(folder: Path, device: torch.device | None = None) -> Run:
    """Read a run folder.

    Raises FileNotFoundError if a file of it is missing, ValueError if its weights are not those of
    the model as it is now, each with the remedy.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run folder, but there is none. Train it "
                                "with notebook 02 or 03.")
    if lacking := [name for name in RUN_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: expected a complete run, but {', '.join(lacking)} "
                                "is missing. Delete the folder: it is then trained again.")
    config = read_json(folder / "config.json")
    vae = build_model(config["profile"])
    try:
        vae.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{folder}: expected weights of ConvVAE({vae.size}, {vae.base_channels}, "
                         f"{vae.latent_dim}), found others ({first}). Train the run again with "
                         "notebook 02 or 03.") from error
    vae.to(device or best_device()).eval()
    return Run(vae, config, pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "steps.csv"),
               read_json(folder / "results.json"), read_json(folder / "environment.json"), folder)


def build_model(profile: dict) -> ConvVAE:
    return ConvVAE(profile["size"], profile["base_channels"], profile["latent_dim"])


def load_unfinished(path: Path | str, device: torch.device | None = None) -> ConvVAE:
    """The best weights so far of a training that is not finished (a file *.checkpoint).

    Raises DataError if the file is damaged, ValueError if no epoch with the final beta is done.
    """
    saved = checkpoint.load(Path(path))
    vae, best = build_model(saved["config"]["profile"]), saved["progress"]["best"]
    if best is None:
        raise ValueError(f"{path}: expected an epoch that is done, with beta at its final value; "
                         f"{saved['epoch']} epochs are done. Let it train on.")
    vae.load_state_dict(best["weights"])
    return vae.to(device or best_device()).eval()
