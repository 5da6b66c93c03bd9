"""Train one run from a shell, as `begin(...).run(beta)` of a notebook would.

    python scripts/train.py --profile report --beta 1000
    torchrun --standalone --nproc_per_node 2 scripts/train.py --profile report --beta 1000

Stop it with Ctrl-C; the same line goes on.
"""

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import profiles  # before accelerate, which imports NumPy: see rounding

# isort: split
import accelerate

from cvae_utils.analysis import run_results
from cvae_utils.data import sources, splits
from cvae_utils.data.slices import load_or_align
from cvae_utils.files import REPOSITORY, output_root
from cvae_utils.model import hardware, losses, progress, runs
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import PRECISIONS, RunConfig


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description="Train one VAE and keep it in data/runs. Stop it with Ctrl-C; the same line "
        "goes on. For several GPUs: torchrun --standalone --nproc_per_node N scripts/train.py ...")
    found.add_argument("--profile", choices=profiles.PROFILES,
                       help="default: CVAE_PROFILE, else quick")
    found.add_argument("--beta", type=float, default=profiles.REPORT_BETA,
                       help="weight of the KL term (default: %(default)g)")
    found.add_argument("--schedule", choices=losses.SCHEDULES, default="constant",
                       help="how beta changes during training (default: %(default)s)")
    found.add_argument("--rate", type=float, default=0.0, metavar="NATS",
                       help="target KL that beta is moved to hold; 0 leaves beta fixed")
    found.add_argument("--sharp", action="store_true",
                       help="the network of smooth fields, on augmented slices")
    found.add_argument("--seed", type=int, default=0, help="of weights, noise and split")
    found.add_argument("--split-by", choices=splits.WAYS, default="patient")
    found.add_argument("--precision", choices=PRECISIONS, default="",
                       help="default: the fastest that the device has")
    found.add_argument("--compile", action="store_true", help="torch.compile: pays in long runs")
    found.add_argument("--micro-batch", type=int, default=0, metavar="N",
                       help="images at a time, where memory is short; same result")
    return found


@hardware.own_settings()
def main(arguments: list[str] | None = None) -> None:
    reader = parser()
    chosen = reader.parse_args(arguments)
    if chosen.compile and not hardware.can_compile():
        reader.error("--compile: expected a C++ compiler and the headers of Python; leave it out")
    if chosen.profile:
        os.environ["CVAE_PROFILE"] = chosen.profile
    profile, data = profiles.active_profile(), output_root() / "data"
    profile = profile.sharp if chosen.sharp else profile
    try:
        config = RunConfig(profile, chosen.beta, chosen.schedule, chosen.rate, chosen.seed,
                           chosen.split_by)
        compute = Compute(precision=chosen.precision, compiled=chosen.compile,
                          micro_batch=chosen.micro_batch)
    except ValueError as error:  # begins with the name of the setting
        name, colon, rest = str(error).partition(":")
        reader.error(f"--{name.replace('_', '-')}{colon}{rest}")
    # With several processes, the first one makes what is missing and the others wait for it.
    with accelerate.PartialState(cpu=hardware.best_device().type == "cpu").main_process_first():
        source = sources.find_source(data, profile, REPOSITORY, chosen.seed)
        slices = load_or_align(source, profile.size, data / "processed")
    config = replace(config, data=slices.fingerprint)
    split = splits.split(slices.table, chosen.split_by, chosen.seed)
    is_main, folder = accelerate.PartialState().is_main_process, data / "runs"
    bar = contextlib.nullcontext()
    if is_main and not runs.place(config, folder).is_dir():
        bar = progress.bars([runs.place(config, folder, progress.SUFFIX)], [config.title],
                            [profile.epochs])
    with bar:
        run = runs.load_or_train(config, slices, split, folder, compute)
    if is_main:
        found = run_results.measured(run, slices, split).results
        print(f"{run.folder}\n{source.name}, {source.patients} patients, split by "
              f"{chosen.split_by}, seed {chosen.seed}: test Dice {found['test_dice']:.3f}, not "
              f"rotated {found['unrotated_dice']:.3f}, KL {found['test_kl']:.1f} nats, "
              f"{found['active_dimensions']} active dimensions, "
              f"{100 * found['valid_prior']:.1f} % of samples valid")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
