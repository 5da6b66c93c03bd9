"""The numbers of a study in one JSON file, and the README's tables made from it.

    python -m cvae_utils.results        rewrites the tables of README.md from figures/results.json
                                        and benchmarks/results.json
"""

import math
import re
from pathlib import Path

import pandas as pd
from filelock import SoftFileLock, Timeout

from cvae_utils.labels import STRUCTURE_NAMES
from cvae_utils.storage import REPOSITORY, DataError, read_json, write_json, write_text

FILE_NAME = "results.json"
VERDICTS = {True: "holds", False: "does not hold", None: "cannot be told"}

#: The ways of training that benchmarks/training.py compares.
WAYS = {"plain": "plain loop", "reused": "plain loop, freed memory reused", "here": "here",
        "compiled": "here, compiled"}

#: What the course report of 2022-23 states, at beta = 1000 on all 150 patients.
REPORT = {"slices": 2785, "dice": 0.75, "unrotated_dice": 0.69, "dominant_dimensions": 3}


def record(folder: Path, section: str, values: dict) -> None:
    """Replace one section of the results file in `folder`; the other sections stay, those that
    other notebooks record at this moment included.

    Raises DataError, with the remedy, if the file is damaged, and TimeoutError if another process
    keeps it for a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, lock = folder / FILE_NAME, folder / f".{FILE_NAME}.lock"
    try:
        with SoftFileLock(lock, timeout=60):  # one that every file system has, and that leaves none
            known = read_json(path) if path.is_file() else {}
            if not isinstance(known, dict):
                raise DataError(f"{path}: expected an object, a section for each notebook, found "
                                f"{known!r:.40}. Put a whole copy there, or delete it and run the "
                                "notebooks again.")
            write_json(path, known | {section: _plain(values)})
    except Timeout as error:
        raise TimeoutError(f"{path}: expected to write to it within a minute, but {lock} says that "
                           "another process does. If there is none, delete that file; then record "
                           "again.") from error


def beside_report(by_patient: dict, by_slice: dict, slices: int) -> pd.DataFrame:
    """The report's numbers beside those of two runs (train.evaluate), one per split, as text.

    Columns: quantity, report, by patient, by slice.
    """
    runs = (by_patient, by_slice)
    rows = [("slices with LV", f"{REPORT['slices']}", *[f"{slices}"] * len(runs))]

    def add(quantity: str, report: str, value) -> None:
        rows.append((quantity, report, *map(value, runs)))

    for title, name, report in (("Dice", "test_dice", REPORT["dice"]),
                                ("Dice, not rotated", "unrotated_dice", REPORT["unrotated_dice"])):
        add(f"{title}, mean over slices", f"{report:.2f}", lambda r, n=name: f"{r[n]:.3f}")
        for c in STRUCTURE_NAMES:
            add(f"{title}, {c}", "not given", lambda r, n=f"{name}_{c}": f"{r[n]:.3f}")
    add("active dimensions", f"{REPORT['dominant_dimensions']} dominate",
        lambda r: f"{r['active_dimensions']} of {len(r['mu_sd'])}")
    add("SD of mu, largest", "not given", lambda r: f"{max(r['mu_sd']):.2f}")
    add("SD of mu, three strongest", "not given",
        lambda r: ", ".join(f"{sd:.2f}" for sd in r["mu_sd"][:3]))
    add("SD of mu, smallest", "not given", lambda r: f"{min(r['mu_sd']):.2f}")
    add("valid samples from N(0, I)", "not given", lambda r: f"{100 * r['valid_prior']:.1f} %")
    add("valid real test slices", "not given", lambda r: f"{100 * r['valid_real']:.1f} %")
    return pd.DataFrame(rows, columns=["quantity", "report", "by patient", "by slice"])


def mean_sd(rows: pd.DataFrame, by: str | list[str], columns: dict[str, str],
            form: str = "{:.3f}") -> pd.DataFrame:
    """Mean and standard deviation over seeds as text, "0.931 +- 0.004".

    rows: one a seed and whatever `by` names; columns: {column: its title}. A single row has no
    standard deviation, and what is nowhere known is left empty.
    """
    groups = rows.groupby(by, sort=False)[list(columns)]
    mean, sd = groups.mean(), groups.std(ddof=1)
    text = mean.map(form.format).where(sd.isna(), mean.map(form.format) + " +- "
                                       + sd.map(form.format))
    return text.where(mean.notna(), "").rename(columns=columns)


def beside_real(rows: pd.DataFrame, real: pd.DataFrame, part: str) -> pd.DataFrame:
    """Rows of drawn slices (Study.rows) with columns that compare them to real ones of that part.

    real: one row a seed (Study.judge_real and seed). more_valid, more_coverage: share of valid
    samples, and coverage, above those of the real slices of the same seed; distance: to the nearest
    training slice, over theirs.
    """
    def of(name: str) -> pd.Series:
        return rows["seed"].map(real.set_index("seed")[name])

    return rows.assign(more_valid=rows["valid"] - of("valid"),
                       more_coverage=rows[f"{part}_coverage"] - of("coverage"),
                       distance=rows[f"{part}_nearest"] / of("nearest"))


def passes(found: pd.DataFrame) -> pd.Series:
    """Whether drawn slices pass as real ones: what the text of notebook 06 says, row by row."""
    return ((found["more_valid"] >= 0) & (found["valid_open_wall"] >= 0.99)
            & (found["more_coverage"] >= -0.05) & (found["distance"] >= 0.9))


def _plain(value):
    """Numbers as JSON has them, rounded to six significant digits so that diffs stay readable."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def published_tables(figures: Path) -> dict[str, str]:
    """The tables of the README from figures/ and, where it was run, from figures/report/."""
    report = figures / "report" / FILE_NAME
    return readme_tables(read_json(figures / FILE_NAME),
                         read_json(report) if report.is_file() else None)


def readme_tables(results: dict, report: dict | None = None) -> dict[str, str]:
    """{name: markdown} of every table that README.md holds between table:name markers.

    report: the results of the profile `report`, whose rows of beta come beside the others.
    """
    claims = [c for section in sorted(results) for c in results[section].get("claims", [])]
    rows = results["02_train_vae"]["report_table"]
    stamp = results["02_train_vae"]["data"]
    tables = {
        "report": markdown_table(
            ["", "report", "here, split by patient", "here, split by slice"],
            [[r["quantity"], r["report"], r["by patient"], r["by slice"]] for r in rows],
        ) + f"\n\n{stamp}",
        "beta": "\n\n".join(_beta_table(found) for found in (results, report) if found),
        "claims": markdown_table(
            ["claim of the report", "here", "measured"],
            [[c["claim"], VERDICTS[c["holds"]], c["numbers"]] for c in claims],
        ),
    }
    if "06_beyond_the_report" in results:
        tables |= _further_tables(results["06_beyond_the_report"])
    if "run" in results:  # not there while only cached runs have been used
        run = results["run"]
        tables["time"] = (f"From nothing, the notebooks took {run['minutes']:.1f} minutes "
                          f"together ({run['machine']}; {run['data']}).")
    return tables


def _further_tables(found: dict) -> dict[str, str]:
    """Of notebook 06: means over seeds, each with a split and a training of its own."""
    real = pd.DataFrame(found["real"]).mean(numeric_only=True)
    seeds = len(found["real"])
    notes = (f"Means +- standard deviations over {seeds} seeds, each with a split of the patients, "
             f"a training and samples of its own. {found['data']}.")

    def table(rows: list[dict], by: list[str] | str, columns: dict[str, str]) -> str:
        text = mean_sd(pd.DataFrame(rows), by, columns).reset_index()
        rows = text.astype(str).to_numpy().tolist()
        return f"{markdown_table(list(text.columns), rows)}\n\n{notes}"

    return {
        "beyond": table(found["final"], "chosen", {
            "test_dice": "test Dice", "test_kl": "KL, nats", "valid": "valid samples",
            "valid_open_wall": "the same, wall may be open", "test_coverage": "coverage",
            "distance": "distance to the nearest training slice, over real"})
        + f" Real test slices: {real['valid']:.3f} valid, {real['valid_open_wall']:.3f} where the "
          f"wall may be open, coverage {real['coverage']:.3f}, distance 1.",
        "schedules": table(found["schedules"], "schedule", {
            "test_dice": "test Dice", "gain": "above the controlled rate, at its KL",
            "train_kl": "KL of training slices", "test_kl": "KL of test slices"}),
        "splits": table(found["splits"], "model", {
            "slice": "test Dice, split by slice", "patient": "split by patient",
            "difference": "difference"}),
    }


def _beta_table(results: dict) -> str:
    study = results["03_beta_study"]["table"]
    return markdown_table(
        ["beta", "test Dice", "RV, MYO, LV", "not rotated", "KL, nats", "active dims",
         "valid samples", "spread"],
        [[f"{r['beta']:g}", f"{r['test_dice']:.3f}",
          " ".join(f"{r['test_dice_' + c]:.3f}" for c in ("RV", "MYO", "LV")),
          f"{r['unrotated_dice']:.3f}", f"{r['test_kl']:.1f}", f"{r['active_dimensions']:.0f}",
          f"{100 * r['valid_prior']:.1f} %", f"{r['spread_prior']:.2f}"]
         for r in study],
    ) + (f"\n\nReal test slices: {100 * study[0]['valid_real']:.1f} % valid, spread 1. "
         f"{results['03_beta_study']['data']}")


def benchmark_tables(results: dict) -> dict[str, str]:
    """The same for benchmarks/results.json; training stands there once it has been measured."""
    tables = {"latency": _latency_table(results["explorer_browser"], results["explorer_kernel"]),
              "preprocess": _preprocess_table(results["preprocess"])}
    measured = [_training_table(results, suffix) for suffix in ("", "_gpu")
                if f"training{suffix}" in results]
    return tables | ({"training": "\n\n".join(measured)} if measured else {})


def _latency_table(browser: dict, kernel: dict) -> str:
    film, drag = browser["film"], browser["drag"]
    rows = [[title, f"{browser[name]['median']:.0f} ms", f"{browser[name]['p95']:.0f} ms"]
            for title, name in (("the new heart", "heart_ms"), ("all five panels", "all_ms"),
                                ("the plain way, one figure drawn anew", "plain_ms"))]
    parts = ", ".join(f"{name} {cost:.1f}" for name, cost in kernel["parts_ms"].items())
    return markdown_table(["from a key press to ...", "median", "95 % within"], rows) + (
        f"\n\n{browser['moves']} moves of a slider in JupyterLab, Chromium "
        f"{browser['browser'].split('.')[0]} ({browser['machine']}; run {browser['run']}). "
        f"{film['empty']} of {film['frames']} filmed frames had an empty panel. "
        f"Of a drag of {drag['events']:.0f} mouse events, {drag['pictures']:.0f} are drawn, "
        f"the last one {drag['lag_ms']['median']:.0f} ms after the hand stops (at most "
        f"{drag['lag_ms']['max']:.0f}). The kernel's share is {kernel['move_ms']['median']:.0f}"
        f" ms a move (95 %: {kernel['move_ms']['p95']:.0f}): {parts}. `benchmarks/` has the "
        "scripts.")


def _preprocess_table(found: dict) -> str:
    rows = [[f"{row['scale']}x", f"{row['slices']}", f"{row['workers']}",
             f"{row['slices'] / row['seconds']:.0f}", f"{row['peak_mb']:.0f} MB"]
            for row in found["rows"]]
    plain = found["plain_ms"]
    return markdown_table(["data set", "slices", "processes", "slices a second", "peak memory"],
                          rows) + (
        f"\n\nThe phantom of 60 patients is 1x; aligned to {found['size']} x {found['size']}, with "
        f"the unrotated twins, from files to disk ({found['machine']}); memory is that of "
        "the process that writes. From 10x to 100x, time a "
        f"slice changes by a factor of {found['time_100x_over_10x']:.2f} and peak memory by "
        f"{found['memory_100x_over_10x']:.2f}. At {found['plain_size']} x {found['plain_size']}, "
        f"{plain['here']:.2f} ms a slice; scikit-image, slice by slice, takes "
        f"{plain['linear']:.2f} ({found['ratio']:.1f} times) with the same interpolation and "
        f"{plain['nearest']:.2f} ({found['ratio_nearest']:.1f} times) with nearest neighbours.")


def _training_table(results: dict, suffix: str) -> str:
    """Of benchmarks/training.py on a CPU or, suffix "_gpu", a GPU, and what belongs to it."""
    found = results[f"training{suffix}"]
    rows = [[f"{row['size']} x {row['size']}, {row['channels']}, {row['batch']}", WAYS[name],
             f"{way['images_a_second']:.{0 if way['images_a_second'] >= 100 else 1}f}",
             f"{way['times_plain']:.1f}", f"{way['gflops']:.0f}",
             f"{100 * way['share_of_product']:.0f} %", f"{100 * way['share_of_convolution']:.0f} %",
             f"{way['peak_mb']:.0f} MB"]
            for row in found["sizes"] for name, way in _in_order(row["ways"])]
    table = markdown_table(["pixels, channels, batch", "way", "images a second",
                            "times the plain loop", "GFLOP/s", "of a large matrix product",
                            "of a large convolution", "peak memory"], rows)
    last = found["sizes"][-1]
    here, plain = last["ways"]["here"], last["ways"]["plain"]
    side = f"{last['size']} x {last['size']}"
    product, convolution = (" and ".join(
        f"{value:.0f} GFLOP/s in {name}" for name, value in
        sorted(found["peak_gflops"][kind].items(), key=lambda item: item[1]))
        for kind in ("product", "convolution"))
    text = [f"{found['machine']}, threads: {found['threads']}; data: {last['data']}; medians of "
            f"{last['rounds']} rounds in turns. A product of matrices of {found['matrix']} x "
            f"{found['matrix']} reaches {product}; a 5 x 5 convolution of {found['convolution']} "
            f"channels, {convolution}. The plain loop computes in "
            f"{plain['precision']}, training here in {here['precision']}. An image of {side} takes "
            f"{last['gflop_an_image']:.1f} GFLOP, forward and backward. To encode and decode one "
            f"of {side} takes {here['reconstruct_ms']:.1f} ms here and "
            f"{plain['reconstruct_ms']:.1f} the plain way, to decode it {here['decode_ms']:.1f} "
            f"and {plain['decode_ms']:.1f}."]
    for row in found["sizes"]:
        if "shares" in row:
            largest_first = sorted(row["shares"].items(), key=lambda part: -part[1])
            parts = "; ".join(f"{name} {100 * share:.0f} %" for name, share in largest_first)
            text.append(f"A step here at {row['size']} x {row['size']} is: {parts}.")
    for row in results.get(f"training_choices{suffix}", {}).get("sizes", []):
        gains = ", ".join(f"{name} {gain:.2f}" for name, gain in
                          sorted(row["gains"].items(), key=lambda part: -part[1]))
        text.append(f"Each choice by itself makes training here at {row['size']} x {row['size']} "
                    f"so many times faster: {gains}.")
    if dice := results.get(f"training_dice{suffix}"):
        pairs = ", ".join(f"{pair['here']:.3f} and {pair['plain']:.3f}" for pair in dice["pairs"])
        text.append(f"Test Dice, trained alike: {dice['epochs']} epochs at {dice['size']} x "
                    f"{dice['size']}, beta {dice['beta']:g}, give {pairs} (here and "
                    f"plain, a seed each; mean difference {dice['mean_difference']:+.3f}; "
                    f"{dice['data']}).")
    if report := results.get(f"training_report{suffix}"):
        runs = "; ".join(
            f"{WAYS[name]}, {way['epochs']} epochs in {way['seconds'] / 60:.1f} minutes, "
            f"{way['images_a_second']:.0f} images a second, "
            f"{100 * way['share_of_product']:.0f} % of a large matrix product, test Dice "
            f"{way['test_dice']:.3f}"
            for name, way in _in_order(report["ways"]))
        text.append(f"The profile `{report['profile']}` from start to end ({report['data']}): "
                    f"{runs}.")
    if not suffix and (memory := results.get("training_memory")):
        small, large = memory["rows"]
        text.append(f"On the phantom at {small['size']} x {small['size']}, {small['slices']} slices"
                    f" and {large['slices']} peak at {small['peak_mb']:.0f} and "
                    f"{large['peak_mb']:.0f} MB, evaluation included: "
                    f"{large['scale'] / small['scale']:.0f} times the data, {memory['ratio']:.2f} "
                    "times the memory.")
    return f"{table}\n\n{' '.join(text)}"


def _in_order(ways: dict) -> list[tuple[str, dict]]:
    """The file has them in the order of the alphabet."""
    return [(name, ways[name]) for name in WAYS if name in ways]


def update_readme(readme: Path, tables: dict[str, str]) -> None:
    """Rewrite what stands between `<!-- table:name -->` and `<!-- end -->` for every table.

    Raises ValueError if a table has no place in the file.
    """
    text = readme.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text,
                              flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{readme}: expected one place marked table:{name}, found {count}")
    write_text(readme, text)


if __name__ == "__main__":
    update_readme(REPOSITORY / "README.md",
                  published_tables(REPOSITORY / "figures")
                  | benchmark_tables(read_json(REPOSITORY / "benchmarks" / FILE_NAME)))
