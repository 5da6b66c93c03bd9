"""How much memory training takes, and how that grows with the data set.

    python benchmarks/training_memory.py

The phantom of 60 patients is 1x; 100x is links to its files under other names. Each is trained in
a process of its own for as many optimiser steps, as `python scripts/train.py` does it: from the
list of the files and the aligned slices, which are made before, to the evaluated run on the disk.
The peak is the most that the process held in memory; how much of it was the process's own, and not
pages of files, is sampled meanwhile. Written to benchmarks/mine. For Linux.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import results
from preprocess import PATIENTS, multiply

from cvae_utils import sweep
from cvae_utils.data import phantom, sources, splits
from cvae_utils.data.slices import load_or_align
from cvae_utils.files import machine
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import RunConfig
from cvae_utils.profiles import PROFILES

SCALES, SAMPLES, PAUSE_SECONDS = (1, 100), 100, 0.01


def measure(root: Path, work: Path, epochs: int) -> dict:
    """Train in this process: steps, seconds, and the peaks of memory in MB."""
    sampler = Sampler()
    sampler.start()
    shape = replace(PROFILES["quick"], epochs=epochs, patience=epochs, samples=SAMPLES)
    slices = load_or_align(sources.open_source("phantom", root), shape.size, work / "processed",
                           progress=False)
    run = sweep.train(sweep.Job(RunConfig(shape, 1000.0, data=slices.fingerprint), slices,
                                splits.split(slices.table), work / "runs"), Compute())
    return {"slices": len(slices.table), "epochs": epochs, "steps": len(run.steps),
            "seconds": run.environment["seconds"], "size": shape.size,
            "peak_mb": status_mb("VmHWM"), "peak_anonymous_mb": sampler.most}


class Sampler(threading.Thread):
    """Looks at this process's anonymous memory, in MB, until it ends."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(PAUSE_SECONDS):
            self.most = max(self.most, status_mb("RssAnon"))


def status_mb(name: str) -> float:
    """Of this process alone; ru_maxrss would begin with what the parent process had."""
    return int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def run_apart(*arguments) -> dict:
    """Call this script for one measurement, in a fresh process."""
    found = subprocess.run([sys.executable, __file__, "measure", *map(str, arguments)], check=True,
                           stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    parser = results.command_line(__doc__)
    parser.add_argument("--scales", type=int, nargs=2, default=SCALES, metavar=("SMALL", "LARGE"))
    parser.add_argument("--epochs", type=int, default=1, help="of the larger data set")
    chosen = parser.parse_args()
    small, large = chosen.scales
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = phantom.write_phantom(work / "phantom", patients=PATIENTS, images=False)
        for scale in (small, large):
            larger = multiply(root, work / f"x{scale}", scale)
            load_or_align(sources.open_source("phantom", larger), PROFILES["quick"].size,
                          work / "processed")
            found = run_apart(larger, work, chosen.epochs * large // scale)
            rows.append({"scale": scale} | found)
            print("{scale:4d}x: {slices} slices, {steps} steps in {seconds:.0f} s, peak "
                  "{peak_mb:.0f} MB, own {peak_anonymous_mb:.0f} MB".format(**rows[-1]), flush=True)
    ratios = {name: rows[1][name] / rows[0][name] for name in ("peak_mb", "peak_anonymous_mb")}
    results.record(chosen, "training_memory", {
        "machine": machine(), "rows": rows, "ratio": ratios["peak_mb"],
        "ratio_anonymous": ratios["peak_anonymous_mb"]})
    print(f"{large}x over {small}x: peak {ratios['peak_mb']:.2f}, own "
          f"{ratios['peak_anonymous_mb']:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
