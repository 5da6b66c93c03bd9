"""How fast slices are aligned, how that and memory grow with the data set, and the plain way.

    python benchmarks/preprocess.py

The phantom of 60 patients is 1x; 10x and 100x are links to its files under other names. Each
measurement is a process of its own. The plain way loads all volumes, turns every slice with
scikit-image on its whole grid, crops it, resizes it to 128 x 128, and stacks the results: once as
here, by linear interpolation of one map per class, and once by nearest neighbours, which is less
work and tears thin walls. All are measured in turns. Written to benchmarks/mine.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import results

from cvae_utils.data import acdc, alignment, phantom, sources
from cvae_utils.data.slices import align_all
from cvae_utils.files import machine
from cvae_utils.labels import Label

PATIENTS, SCALES, SCALE_SIZE, PLAIN_SIZE, TURNS = 60, (1, 10, 100), 64, 128, 3


def multiply(root: Path, target: Path, times: int) -> Path:
    """A data set of so many times the patients, made of links."""
    for copy in range(times):
        for folder in sorted((root / "training").iterdir()):
            number = copy * PATIENTS + int(folder.name[-3:])
            linked = target / "training" / f"patient{number:05d}"
            linked.mkdir(parents=True)
            for file in folder.iterdir():
                os.link(file, linked / file.name.replace(folder.name, linked.name))
    return target


def measure(root: Path, size: int, workers: int) -> dict:
    """Align a data set in this process: seconds, slices, and the peak of memory in MB."""
    source = sources.open_source("phantom", root)
    _warm_up(source, size)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        align_all(source, size, Path(folder), progress=False, workers=workers)
        seconds = time.perf_counter() - start
        slices = len(np.load(Path(folder) / "aligned.npy", mmap_mode="r"))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "slices": slices, "peak_mb": kilobytes / 1024}


def _warm_up(source: sources.Source, size: int) -> None:
    volume = acdc.read_frame(source.frames[0])  # compiles, or loads what was compiled before
    alignment.align_volume(volume.data, volume.spacing_mm, size)


def compare(root: Path) -> dict:
    """Milliseconds a slice, reading included, of this package and of the plain ways, in turns."""
    source = sources.open_source("phantom", root)
    _warm_up(source, PLAIN_SIZE)
    slices = len(plain(source.frames, turn_by_nearest)[0])
    seconds = {"here": [], "linear": [], "nearest": []}
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            align_all(source, PLAIN_SIZE, Path(folder), progress=False, workers=1)
            seconds["here"].append(time.perf_counter() - start)
        for name, turn in (("linear", turn_by_class), ("nearest", turn_by_nearest)):
            start = time.perf_counter()
            plain(source.frames, turn)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * np.median(times) / slices for name, times in seconds.items()}


def turn_by_nearest(label_map, angle, centre, half, order=0) -> np.ndarray:
    """One slice turned, cropped and resized, (128, 128)."""
    from skimage.transform import resize, rotate

    turned = rotate(label_map, angle, center=centre, order=order,
                    preserve_range=True) if angle else label_map
    column, row = np.round(centre).astype(int)
    crop = np.pad(turned, half)[row:row + 2 * half, column:column + 2 * half]
    return resize(crop, (PLAIN_SIZE,) * 2, order=order, preserve_range=True, anti_aliasing=False)


def turn_by_class(label_map, angle, centre, half) -> np.ndarray:
    """The same, by linear interpolation of a map per class; the largest wins."""
    return np.stack([turn_by_nearest((label_map == label).astype(float), angle, centre, half, 1)
                     for label in Label]).argmax(axis=0)


def plain(frames: list[acdc.Frame], turn_one) -> tuple[np.ndarray, np.ndarray]:
    """Aligned and unrotated slices of all volumes, held in memory, slice by slice."""
    volumes = [acdc.read_frame(frame) for frame in frames]
    stacks = [], []
    for volume in volumes:
        spacing, maps = volume.spacing_mm[:2], volume.data.T
        maps = maps[(maps == Label.LV).any(axis=(1, 2))]
        angles = alignment.slice_angles(maps, spacing)
        centres = np.array([alignment.centroid_mm(m == Label.LV, spacing) for m in maps])
        for stack, turns in zip(stacks, (angles, 0 * angles)):
            half = int(np.ceil(alignment.half_side_mm(maps, centres, turns, spacing) / spacing[0]))
            for label_map, centre, turn in zip(maps, centres / spacing, turns):
                stack.append(turn_one(label_map, -np.degrees(turn), centre, half).astype(np.uint8))
    return tuple(map(np.stack, stacks))


def run_apart(*arguments) -> dict:
    """Call this script for one measurement, in a fresh process on one thread."""
    found = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True,
                           capture_output=True, text=True,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads(found.stdout)


def main() -> None:
    chosen = results.command_line(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.write_phantom(Path(folder) / "phantom", patients=PATIENTS, images=False)
        rows = []
        for scale in SCALES:
            larger = multiply(root, Path(folder) / f"x{scale}", scale)
            for workers in (1, 2):
                row = run_apart("measure", larger, SCALE_SIZE, workers)
                rows.append({"scale": scale, "workers": workers} | row)
                print(f"{scale:4d}x, {workers} worker(s): {row['slices'] / row['seconds']:6.0f} "
                      f"slices/s, peak {row['peak_mb']:.0f} MB", flush=True)
        beside = run_apart("compare", root)
    alone = {row["scale"]: row for row in rows if row["workers"] == 1}
    ms = {scale: 1000 * row["seconds"] / row["slices"] for scale, row in alone.items()}
    found = {"machine": machine(), "rows": rows, "size": SCALE_SIZE, "plain_size": PLAIN_SIZE,
             "ms_a_slice": ms, "time_100x_over_10x": ms[100] / ms[10],
             "memory_100x_over_10x": alone[100]["peak_mb"] / alone[10]["peak_mb"],
             "plain_ms": beside, "ratio": beside["linear"] / beside["here"],
             "ratio_nearest": beside["nearest"] / beside["here"]}
    results.record(chosen, "preprocess", found)
    print(f"100x over 10x: time a slice {found['time_100x_over_10x']:.2f}, peak memory "
          f"{found['memory_100x_over_10x']:.2f}; {beside['here']:.2f} ms a slice, plain way "
          f"{beside['linear']:.2f} ({found['ratio']:.1f} times), by nearest neighbours "
          f"{beside['nearest']:.2f} ({found['ratio_nearest']:.1f} times)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    elif sys.argv[1:2] == ["compare"]:
        print(json.dumps(compare(Path(sys.argv[2]))))
    else:
        main()
