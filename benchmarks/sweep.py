"""Whether several runs are trained faster side by side than one after another, with equal results.

    python benchmarks/sweep.py                 five betas at 64 x 64, on the phantom
    ACDC_ROOT=/path/to/acdc python benchmarks/sweep.py --epochs 40

Both ways train and measure the same runs, in turns, each in a folder that is empty before. The
processes that train side by side are started anew in each turn, and that counts. Written to
benchmarks/mine.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import joblib
import results
import torch
from joblib.externals.loky import get_reusable_executor

from cvae_utils import sweep
from cvae_utils.data import sources, splits
from cvae_utils.data.slices import load_or_align
from cvae_utils.files import REPOSITORY, machine, output_root
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import RunConfig
from cvae_utils.profiles import BETAS, PROFILES, Profile

WAYS = {"side by side": True, "one after another": False}


def jobs_in(folder: Path, profile: Profile) -> dict[float, sweep.Job]:
    data = output_root() / "data"
    source = sources.find_source(data, profile, REPOSITORY)
    slices = load_or_align(source, profile.size, data / "processed", progress=False)
    return {beta: sweep.Job(RunConfig(profile, beta, data=slices.fingerprint), slices,
                            splits.split(slices.table), folder) for beta in BETAS}


def measure(profile: Profile, side_by_side: bool) -> dict:
    """Seconds that all runs take, and the validation Dice of each."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = jobs_in(Path(folder), profile)
        get_reusable_executor().shutdown()
        started = time.perf_counter()
        compute = Compute(torch.device("cpu"),
                          threads=0 if side_by_side else torch.get_num_threads())
        found = sweep.complete(jobs, compute, progress=False, side_by_side=side_by_side)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "data": jobs[BETAS[0]].slices.source,
                "dice": [run.results["validation_dice"] for run in found.values()]}


def main() -> None:
    parser = results.command_line(__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    chosen = parser.parse_args()
    if not os.environ.get("ACDC_ROOT"):
        os.environ["CVAE_DATA"] = "phantom"
    profile = replace(PROFILES[chosen.profile], epochs=chosen.epochs, patience=chosen.epochs)
    found = {way: [] for way in WAYS}
    for turn in range(chosen.turns):
        for way in (list(WAYS), list(WAYS)[::-1])[turn % 2]:
            found[way].append(measure(profile, WAYS[way]))
            print(f"{way}: {found[way][-1]['seconds']:.1f} s", flush=True)
    apart, in_turn = ([turn["seconds"] for turn in found[way]] for way in WAYS)
    difference = max(abs(a - b) for ours in found["side by side"]
                     for theirs in found["one after another"]
                     for a, b in zip(ours["dice"], theirs["dice"]))
    ratio = median(in_turn) / median(apart)
    results.record(chosen, "sweep", {
        "machine": machine(), "workers": min(len(BETAS), joblib.cpu_count()),
        "threads": torch.get_num_threads(), "data": found["side by side"][0]["data"],
        "profile": profile.name, "size": profile.size, "epochs": profile.epochs, "betas": BETAS,
        "seconds": {"side by side": apart, "one after another": in_turn}, "ratio": ratio,
         "largest_dice_difference": difference})
    print(f"side by side is {ratio:.2f} times as fast; largest difference of validation Dice "
          f"{difference:.1e}")


if __name__ == "__main__":
    main()
