"""The numbers that the notebooks write in the smoke profile, against those of the golden file.

`pytest --nbval notebooks` compares them at its end. After a change that is meant to move numbers:

    CVAE_DATA=phantom CVAE_PROFILE=smoke CVAE_OUT=/tmp/smoke python scripts/run_notebooks.py 0
    python notebooks/golden.py /tmp/smoke/figures/results.json
"""

import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden_smoke.json"

#: What is compared, and how far it may be off: counts not at all; what depends on training by as
#: much as another processor's rounding moves it in so short a training.
TOLERANCES = {
    "01_download_preprocess/counts": 0,
    "01_download_preprocess/slices_per_part": 0,
    "01_download_preprocess/no_rv": 0,
    "01_download_preprocess/angle_sd_deg": 0.1,
    "01_download_preprocess/angle_left_p95_deg": 0.1,
    "01_download_preprocess/ef_percent": 0.1,
    "01_download_preprocess/resampling": 0.1,
    "02_train_vae/test_dice": 0.1,
    "02_train_vae/unrotated_dice": 0.1,
    "02_train_vae/valid_real": 0.001,
    "02_train_vae/valid_prior": 0.35,
    "02_train_vae/active_dimensions": 4,
    "03_beta_study/table/0/test_dice": 0.1,
    "03_beta_study/table/4/test_dice": 0.1,
    "03_beta_study/table/4/test_kl": 0.5,
    "03_beta_study/linear/0/test_dice": 0.01,
    "03_beta_study/linear/1/test_dice": 0.1,
    "04_latent_exploration/power_top3": 0.25,
    "06_sharper_hearts/real/0": 0.001,
    "06_sharper_hearts/latents/0/test_dice": 0.01,
    "06_sharper_hearts/answer/2/test_dice": 0.1,
    "06_sharper_hearts/answer/2/refined_dice": 0.1,
    "06_sharper_hearts/rows/0/valid": 0.2,
    "05_dimred/accuracy/beta = 1 latent space": 0.2,
    "07_does_it_hold/numbers/0/dice_patient": 0.1,
    "07_does_it_hold/numbers/0/kl_inside": 0.1,  # collapsed
    "07_does_it_hold/numbers/0/active_undivided": 0,
    "07_does_it_hold/one_map": 0.001,
}


def flatten(value, path: str = "") -> dict[str, float]:
    """Nested lists and dicts -> {"section/key/...": number}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for key, part in items for k, v in flatten(part, f"{path}/{key}".strip("/"))
            .items()}


def compared(results: dict) -> dict[str, float]:
    """The numbers of a results file whose path starts with one of TOLERANCES."""
    return {path: value for path, value in flatten(results).items()
            if tolerance_of(path) is not None and not isinstance(value, str)}


def tolerance_of(path: str) -> float | None:
    return next((t for start, t in TOLERANCES.items() if path.startswith(start)), None)


def is_near(found: float | None, expected: float | None, path: str) -> bool:
    """Within the tolerance; what cannot be told, None, is near nothing else."""
    if found is None or expected is None:
        return found is expected
    return abs(found - expected) <= tolerance_of(path)


def differences(results: dict) -> list[str]:
    """What is off in a results file, in words; of the notebooks that are in it."""
    expected = {path: value for path, value in json.loads(GOLDEN.read_text()).items()
                if path.split("/")[0] in results}
    found = compared(results)
    return [f"{path}: expected {value} +- {tolerance_of(path)}, found {found.get(path)}"
            for path, value in expected.items() if not is_near(found.get(path), value, path)
            ] + [f"{path}: not in {GOLDEN.name}" for path in sorted(set(found) - set(expected))]


if __name__ == "__main__":
    numbers = compared(json.loads(Path(sys.argv[1]).read_text()))
    GOLDEN.write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"{len(numbers)} numbers written to {GOLDEN}")
