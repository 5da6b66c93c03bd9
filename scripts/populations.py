"""Run the notebooks on populations other than ACDC, and print what came of each.

    python scripts/populations.py                             all of them, notebooks 01 to 05
    python scripts/populations.py "no RV" "two groups"        these populations
    python scripts/populations.py "no RV" --notebooks 02 03   and these notebooks

Each population is made of phantom hearts in a temporary folder and studied in the profile `smoke`:
two to five minutes each on two CPU cores. A notebook that fails is named with its cell, and the
next one runs. A population whose data must be refused passes if the first cell does so.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils.data import acdc, phantom
from cvae_utils.labels import Label
from scripts.run_notebooks import choose, client_of

#: From slice to slice of an oblique stack, in R, A, S: to the right, to the back and down.
NORMAL = np.array([0.68, -0.56, -0.47])


@dataclass(frozen=True)
class Population:
    """How to make one: write(folder) writes its files and returns the settings (CVAE_...) that it
    needs. edits: {text of a notebook's first code cell: what replaces it}. refused: whether the
    data must be refused."""

    write: Callable[[Path], dict[str, str]]
    edits: dict[str, str] = field(default_factory=dict)
    refused: bool = False


def hearts(folder: Path, patients: int = 15) -> Path:
    """Labels of phantom hearts in the layout of ACDC."""
    phantom.write_phantom(folder, patients=patients, images=False, progress=False)
    return folder


def rewritten(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The same, with each label array (X, Y, Z) changed."""
    for frame in acdc.list_frames(hearts(folder)):
        image = nib.load(frame.label_path)
        save(frame.label_path, change(np.asanyarray(image.dataobj)), image.affine)
    return folder


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)


def plain(folder: Path, name: Callable[[acdc.Frame], str], pattern: str) -> dict[str, str]:
    """A plain folder of label volumes with such names, without Info.cfg."""
    for frame in acdc.list_frames(hearts(folder / "made")):
        target = folder / name(frame)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(frame.label_path, target)
    shutil.rmtree(folder / "made")
    return {"CVAE_PATTERN": pattern}


def regrouped(folder: Path, groups: Callable[[list[str]], list[str]], patients: int = 15) -> None:
    """Patients in other groups: groups(those of Info.cfg); a patient of group "" is left out."""
    files = sorted(hearts(folder, patients).rglob("Info.cfg"))
    texts = [path.read_text(encoding="utf-8") for path in files]
    given = groups([re.search(r"Group: (\w+)", text)[1] for text in texts])
    for path, text, group in zip(files, texts, given):
        path.write_text(re.sub(r"Group: \w+", f"Group: {group}", text), encoding="utf-8")
        if not group:
            shutil.rmtree(path.parent)


def one_slice(array: np.ndarray) -> np.ndarray:
    """The middle slice that has an LV, (X, Y, 1)."""
    levels = np.flatnonzero((array == Label.LV).any(axis=(0, 1)))
    return array[:, :, [levels[len(levels) // 2]]]


def oblique(folder: Path) -> dict[str, str]:
    """Stacks with the affine of a true short axis, and the label values of M&Ms."""
    across = np.cross(NORMAL, [0, 0, 1])
    axes = np.stack([v / np.linalg.norm(v) for v in (across, np.cross(NORMAL, across), NORMAL)], 1)
    for frame in acdc.list_frames(hearts(folder / "made")):
        image = nib.load(frame.label_path)
        affine = np.eye(4)
        affine[:3, :3] = axes * image.header.get_zooms()[:3]
        swapped = np.array([0, 3, 2, 1], dtype=np.uint8)[np.asanyarray(image.dataobj)]
        save(folder / f"{frame.patient}_SA_{frame.phase}_gt.nii.gz", swapped, affine)
    shutil.rmtree(folder / "made")
    return {"CVAE_LABELS": "MNMS", "CVAE_PATTERN": "**/*_gt.nii.gz"}


def layout(write: Callable[[Path], object]) -> Callable[[Path], dict[str, str]]:
    """A population in ACDC's own layout, which needs no settings."""
    def make(folder: Path) -> dict[str, str]:
        write(folder)
        return {}
    return make


def by_phase(frame: acdc.Frame) -> str:
    return f"{frame.patient}_{frame.phase}.nii.gz"


def by_frame(frame: acdc.Frame) -> str:
    return "labelsTr/" + frame.label_path.name.replace("_gt", "")


def shuffled(groups: list[str]) -> list[str]:
    return np.random.default_rng(0).permutation(groups).tolist()


def only(*kept: str) -> Callable[[list[str]], list[str]]:
    return lambda groups: [group if group in kept else "" for group in groups]


TWO_DIMENSIONS = """from dataclasses import replace
from cvae_utils import profiles
profiles.PROFILES["smoke"] = replace(profiles.PROFILES["smoke"], latent_dim=2)
study = begin("""

POPULATIONS = {
    "phantom": Population(layout(hearts)),
    "five patients": Population(layout(lambda folder: hearts(folder, 5))),
    "no RV": Population(layout(lambda folder: rewritten(
        folder, lambda a: np.where(a == Label.RV, 0, a).astype(a.dtype)))),
    "no MYO": Population(layout(lambda folder: rewritten(
        folder, lambda a: np.where(a == Label.MYO, 0, a).astype(a.dtype))), refused=True),
    "ED alone": Population(lambda folder: plain(folder, by_phase, "*_ED.nii.gz")),
    "unknown groups": Population(lambda folder: plain(folder, by_phase, "*.nii.gz")),
    "one group": Population(layout(lambda folder: regrouped(folder, only("NOR"), 50))),
    "two groups": Population(layout(lambda folder: regrouped(folder, only("NOR", "DCM"), 35))),
    "shuffled groups": Population(layout(lambda folder: regrouped(folder, shuffled))),
    "nnU-Net names": Population(lambda folder: plain(folder, by_frame, "labelsTr/*.nii.gz")),
    "oblique M&Ms": Population(oblique),
    "one slice a volume": Population(layout(lambda folder: rewritten(folder, one_slice))),
    "two dimensions": Population(layout(hearts), {"study = begin(": TWO_DIMENSIONS}),
    "seed 5": Population(layout(hearts), {"seed=0": "seed=5"}),
}


def run(path: Path, population: Population, environment: dict[str, str]) -> str:
    """Execute one notebook in memory: "ok", or the cell that failed and with what."""
    book = nbformat.read(path, as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    for old, new in population.edits.items():
        first.source = first.source.replace(old, new)
    try:
        client_of(book, path).execute(env=environment)
    except CellExecutionError as error:
        number, cell = next((n, c) for n, c in enumerate(book.cells) if c.cell_type == "code"
                            and any(o.output_type == "error" for o in c.outputs))
        reason = f"cell {number}: {error.ename}: {error.evalue.splitlines()[0]}"
        return f"refused: {error.evalue}" if population.refused and cell is first else reason
    if population.refused:
        return "not refused"
    warned = {line.strip() for cell in book.cells if cell.cell_type == "code"
              for output in cell.outputs if output.get("name") == "stderr"
              for line in output.text.splitlines() if "Warning:" in line}
    return " | ".join(["ok", *sorted(warned)])


def study(name: str, notebooks: list[str], out: Path) -> dict[str, str]:
    """What came of each notebook on one population."""
    population, folder = POPULATIONS[name], out / name.replace(" ", "-")
    settings = population.write(folder / "hearts")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CVAE_")}
    environment |= settings | {"ACDC_ROOT": str(folder / "hearts"), "CVAE_PROFILE": "smoke",
                               "CVAE_OUT": str(folder / "out"), "TQDM_DISABLE": "1"}
    paths = choose(notebooks)
    return {path.name[:2]: run(path, population, environment)
            for path in (paths[:1] if population.refused else paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("populations", nargs="*", metavar="population",
                        help=f"any of: {', '.join(POPULATIONS)}")
    parser.add_argument("--notebooks", nargs="+", default=[],
                        help="the starts of their names; default: 01 to 05")
    parser.add_argument("--out", type=Path, help="keep hearts, runs and figures in this folder")
    asked = parser.parse_args()
    chosen = asked.populations or list(POPULATIONS)
    if unknown := set(chosen) - set(POPULATIONS):
        parser.error(f"expected populations of {', '.join(POPULATIONS)}, found {unknown}")
    came = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in tqdm(chosen, unit="population"):
            came[name] = study(name, asked.notebooks, asked.out or Path(temporary))
            for notebook, result in came[name].items():
                tqdm.write(f"{name}, notebook {notebook}: {result}")
    shown = pd.DataFrame(came).T.fillna("").map(lambda text: re.split("[:|]", text)[0].strip())
    with pd.option_context("display.width", 200, "display.max_columns", 40):
        print(f"\n{shown}")


if __name__ == "__main__":
    main()
