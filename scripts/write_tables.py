"""Write the tables of README.md and docs/ from the numbers that were recorded.

    python scripts/write_tables.py      from figures/results.json and benchmarks/results.json

A table stands between `<!-- table:name -->` and `<!-- end -->`, in one of these files.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils.analysis.claims import VERDICTS
from cvae_utils.analysis.comparisons import mean_sd
from cvae_utils.analysis.published_protocol import PUBLISHED
from cvae_utils.files import REPOSITORY, read_json, write_text
from cvae_utils.profiles import PROFILES, REPORT_BETA
from cvae_utils.results_file import FILE_NAME

#: The files that have tables.
DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
#: The ways of training that benchmarks/training.py compares.
WAYS = {"plain": "plain loop", "reused": "plain loop, freed memory reused", "here": "here",
        "compiled": "here, compiled"}


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A | within a cell, as in |z|, is escaped: it would end the cell."""
    first, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
                     for line in (header, *rows))
    return "\n".join([first, "|" + "---|" * len(header), *lines])


def published_tables(figures: Path) -> dict[str, str]:
    """The tables of a study from figures/ and, where it was run, from figures/report/."""
    report, results = figures / "report" / FILE_NAME, read_json(figures / FILE_NAME)
    return study_tables(results, read_json(report) if report.is_file() else None) | {
        "notebooks": _notebooks_table(results.get("run", {}))}


def study_tables(results: dict, report: dict | None = None) -> dict[str, str]:
    """{name: markdown} of every table that is made from the numbers of the notebooks.

    report: the results of the profile `report`, where notebooks were run in it: the report's own
    training, which comes beside the others.
    """
    if lacking := {"02_train_vae", "03_beta_study"} - set(results):
        raise ValueError(f"expected numbers of notebooks 02 and 03, found none of "
                         f"{', '.join(sorted(lacking))}: run all notebooks, then this again")
    tables = {
        "report": _report_table(results["02_train_vae"], report or {}),
        "beta": "\n\n".join(_beta_table(found["03_beta_study"]) for found in (results, report)
                            if found and "table" in found.get("03_beta_study", {})),
        "first": _first_table(results["02_train_vae"]),
    }
    if "06_sharper_hearts" in results:
        tables["beyond"] = _sharp_table(results["06_sharper_hearts"])
    if "07_does_it_hold" in results:
        tables |= _claims_tables(results["07_does_it_hold"])
    return tables


def _notebooks_table(run: dict) -> str:
    """Each notebook with the question at its head and, where that was timed, its minutes from
    nothing."""
    minutes, rows = run.get("notebooks", {}), []
    for path in sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb")):
        head = "".join(read_json(path)["cells"][0]["source"])
        question = re.search(r"\*\*Question\.\*\* (.*)", head)[1]
        rows.append([f"[{path.stem}](notebooks/{path.name})", question])
        if minutes:
            rows[-1].append(f"{max(1, round(minutes[path.stem]))}" if path.stem in minutes else "")
    if not minutes:
        return markdown_table(["notebook", "its question"], rows)
    data = run["data"].removeprefix("Data: ").split(";")[0]
    return (markdown_table(["notebook", "its question", "minutes"], rows)
            + f"\n\nFrom nothing, in order, with {data}, on {run['machine']}.")


def _first_table(found: dict) -> str:
    """Of notebook 02, in short: the report's numbers, and ours with either split."""
    shown = {"slices with LV": "slices", "Dice, mean over slices": "Dice",
             "Dice, not rotated, mean over slices": "Dice, not rotated",
             "active dimensions": "numbers in use",
             "valid samples from N(0, I)": "valid new hearts",
             "valid real test slices": "valid real slices"}
    rows = [[shown[row["quantity"]], row["report"], row["by slice"], row["by patient"]]
            for row in found["report_table"] if row["quantity"] in shown]
    table = markdown_table(["", "report", "here, split by slice", "here, split by patient"], rows)
    data = found["data"].replace("split by patient", "split")  # there are both
    return f"{table}\n\n{data}; beta {REPORT_BETA:g}."


def _over_seeds(rows: list[dict], by: str, columns: dict[str, str]) -> str:
    text = mean_sd(pd.DataFrame(rows), by, columns).reset_index()
    return markdown_table(list(text.columns), text.astype(str).to_numpy().tolist())


def _sharp_table(found: dict) -> str:
    """Of notebook 06: baselines and networks with 32 numbers, and what else it finds in a line."""
    real = pd.DataFrame(found["real"]).mean(numeric_only=True)
    latents = pd.DataFrame(found["latents"]).pivot_table(index="model", columns="latents",
                                                         values="test_dice")
    protocol = pd.DataFrame(found["protocol"])
    fitted = protocol[protocol["prior"] == found["prior"]].mean(numeric_only=True)
    published = "; ".join(f"{row['title']} {row['dice'][0]:.3f}"
                          + (f" to {row['dice'][1]:.3f}" if row["dice"][1] > row["dice"][0] else "")
                          for row in PUBLISHED)
    table = _over_seeds(found["answer"], "model", {
        "test_dice": "test Dice", "refined_dice": "test Dice, refined", "valid": "valid samples",
        "test_coverage": "coverage", "distance": "distance"})
    return (f"{table}\n\nWith 32 numbers a slice; samples from the fitted {found['prior']} at "
            f"temperature {found['temperature']:g}. Real test slices: {real['valid']:.3f} valid, "
            f"coverage {real['coverage']:.3f}, distance 1 (to the nearest training slice, over "
            f"that of real ones). Means +- standard deviations over {len(found['real'])} seeds. "
            f"{found['data']}. With 8 numbers, of one seed: PCA of "
            f"distance maps {latents.loc['PCA, distance maps', 8]:.3f}, smooth fields, refined, "
            f"{latents.loc['smooth fields, refined', 8]:.3f}. On every slice as it lies, counted "
            f"as in published work: Dice {fitted['test_dice']:.3f}, refined "
            f"{fitted['refined_dice']:.3f}, {100 * fitted['valid']:.1f} % of the samples valid, "
            f"and {100 * found['protocol_real']:.1f} % of the real slices (published on these "
            f"patients: {published}). {found['protocol_data']}.")


def _claims_tables(found: dict) -> dict[str, str]:
    """Of notebook 07: the claims by their verdict, and with the rule and the numbers of each seed.
    """
    columns = ("claim", "rule", "seed by seed", "verdict")
    rows = [[row[name] for name in columns] for row in found["claims"]]
    by_verdict = {verdict: [row[0] for row in rows if row[-1] == verdict] for verdict in VERDICTS}
    return {"verdicts": markdown_table(
                ["here", "claims of the report"],
                [[verdict, "<br>".join(told)] for verdict, told in by_verdict.items() if told])
            + f"\n\n{found['data']}.",
            "claims": f"{markdown_table(list(columns), rows)}\n\n{found['data']}."}


def _report_table(found: dict, report: dict) -> str:
    """Of notebook 02: the report's numbers beside two runs, and the same two trained its way."""
    splits = ("by patient", "by slice")
    header = ["", "report", *(f"here, split {by}" for by in splits)]
    rows = [[r["quantity"], r["report"], *(r[by] for by in splits)] for r in found["report_table"]]
    stamps = found["data"]
    own = report.get("02_train_vae", {})
    if "report_table" in own:  # an interrupted notebook records its claims alone
        header += [f"trained as in the report, split {by}" for by in splits]
        for row, more in zip(rows, own["report_table"], strict=True):
            row += [more[by] for by in splits]
        profile = PROFILES["report"]
        stamps += (f". Trained as in the report: {profile.base_channels} channels, "
                   f"{profile.epochs} epochs, batches of {profile.batch_size}, AdamW at a "
                   f"{profile.decay} {profile.learning_rate:g}. {own['data']}")
    if other := report.get("quick_rate"):
        stamps += (f". The same model at the learning rate and schedule of `quick` "
                   f"({other['learning_rate']:g}, {other['decay']}), split by slice, has a test "
                   f"Dice of {other['test_dice']:.3f} after as many steps, with "
                   f"{other['active_dimensions']} active dimensions.")
    return f"{markdown_table(header, rows)}\n\n{stamps}"


def _beta_table(found: dict) -> str:
    study = found["table"]
    return markdown_table(
        ["beta", "test Dice", "RV, MYO, LV", "not rotated", "KL, nats", "active dims",
         "valid samples", "spread"],
        [[f"{r['beta']:g}", f"{r['test_dice']:.3f}",
          " ".join(f"{r['test_dice_' + c]:.3f}" for c in ("RV", "MYO", "LV")),
          f"{r['unrotated_dice']:.3f}", f"{r['test_kl']:.1f}", f"{r['active_dimensions']:.0f}",
          f"{100 * r['valid_prior']:.1f} %", f"{r['spread_prior']:.2f}"]
         for r in study],
    ) + (f"\n\nReal test slices: {100 * study[0]['valid_real']:.1f} % valid, spread 1. "
         f"{found['data']}.")


def benchmark_tables(results: dict) -> dict[str, str]:
    """The same for benchmarks/results.json; training stands there once it has been measured."""
    tables = {"latency": _latency_table(results["explorer"]),
              "preprocess": _preprocess_table(results["preprocess"]),
              "sweep": _sweep_text(results["sweep"]),
              "network": _network_table(results["network_choices"])}
    measured = [_training_table(results, suffix) for suffix in ("", "_gpu")
                if f"training{suffix}" in results]
    return tables | ({"training": "\n\n".join(measured)} if measured else {})


def _network_table(found: dict) -> str:
    rows, first = found["rows"], found["rows"][0]
    split = "official split" if first["split"] == "official" else "split by patient"
    return markdown_table(
        ["what differs", "Dice", "Dice, refined", "valid samples", "KL, nats", "weights",
         "minutes"],
        [[row["title"], f"{row['dice']:.3f}", f"{row['refined_dice']:.3f}",
          f"{100 * row['valid_samples']:.1f} %", f"{row['kl']:.0f}", f"{row['weights']:,}",
          f"{row['minutes']:.1f}"] for row in rows],
    ) + (f"\n\n{found['epochs']} epochs each at {found['size']} x {found['size']}, beta "
         f"{found['beta']:g}, one seed ({found['seed']}), one thread each. Validation patients "
         f"only, of whose slices {100 * first['valid_real']:.1f} % are valid; samples from the "
         f"fitted mixture. {first['data']} labels, {first['patients']} patients, {split}; "
         f"{found['machine']}.")


def _sweep_text(found: dict) -> str:
    apart, in_turn = (" and ".join(f"{seconds:.0f}" for seconds in found["seconds"][way])
                      for way in ("side by side", "one after another"))
    return (f"{len(found['betas'])} betas at {found['size']} x {found['size']}, {found['epochs']} "
            f"epochs each, {found['workers']} at a time on one thread each, take {apart} seconds, "
            f"start of the processes included; one after another on {found['threads']} threads, "
            f"{in_turn}: {found['ratio']:.2f} times as fast. Validation Dice of the same run "
            f"differs by at most {found['largest_dice_difference']:.4f} between the ways, which "
            f"round differently. {found['machine']}; {found['data']} labels; "
            f"measurements of each way: {len(found['seconds']['side by side'])}.")


def _latency_table(found: dict) -> str:
    film, drag = found["film"], found["drag"]
    rows = [[title, f"{values['median']:.0f} ms", f"{values['p95']:.0f} ms"] for title, values in (
        ("the new heart, in JupyterLab", found["lab"]["heart_ms"]),
        ("all panels, in JupyterLab", found["lab"]["all_ms"]),
        ("the new heart, in the page", found["page"]["heart_ms"]),
        ("all panels, in the page", found["page"]["all_ms"]),
        ("the plain way: a figure drawn anew into an Output widget", found["plain_ms"]))]
    return markdown_table(["from a key press to ...", "median", "95 % within"], rows) + (
        f"\n\n{found['moves']} moves of a slider, Chromium {found['browser'].split('.')[0]} "
        f"({found['machine']}; run {found['run']}). {film['empty']} of {film['frames']} filmed "
        f"frames had an empty panel. A drag of {drag['events']} mouse events is drawn in "
        f"{drag['frames']} frames, of which the last shows where the hand stopped. From the start "
        f"of JupyterLab to the heart in notebook 04, which needs no data, it takes "
        f"{found['opening_s']['heart']:.1f} seconds ({found['opening_s']['page']:.1f} to the "
        f"notebook; medians). "
        "[explorer.py](../benchmarks/explorer.py) measures it.")


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
    text = [_how_it_was_measured(found), *_shares(found["sizes"]),
            *_choices(results.get(f"training_choices{suffix}", {}).get("sizes", []))]
    for name, in_words in (("training_dice", _dice), ("training_report", _whole_report),
                           ("training_memory", _memory)):
        if known := results.get(f"{name}{suffix}"):
            text.append(in_words(known))
    return f"{table}\n\n{' '.join(text)}"


def _how_it_was_measured(found: dict) -> str:
    last = found["sizes"][-1]
    here, plain = last["ways"]["here"], last["ways"]["plain"]
    side = f"{last['size']} x {last['size']}"
    product, convolution = (" and ".join(
        f"{value:.0f} GFLOP/s in {name}" for name, value in
        sorted(found["peak_gflops"][kind].items(), key=lambda item: item[1]))
        for kind in ("product", "convolution"))
    return (f"{found['machine']}, threads: {found['threads']}, CVAE_FAST=1; "
            f"data: {last['data']}; medians of {last['rounds']} rounds in turns. A product of "
            f"matrices of {found['matrix']} x {found['matrix']} reaches {product}; a 5 x 5 "
            f"convolution of {found['convolution']} channels, {convolution}. The plain loop "
            f"computes in {plain['precision']}, training here in {here['precision']}. An image of "
            f"{side} takes {last['gflop_an_image']:.1f} GFLOP, forward and backward. To encode and "
            f"decode one of {side} takes {here['reconstruct_ms']:.1f} ms here and "
            f"{plain['reconstruct_ms']:.1f} the plain way, to decode it {here['decode_ms']:.1f} "
            f"and {plain['decode_ms']:.1f}.")


def _shares(sizes: list[dict]) -> list[str]:
    """What a step of training is made of, a sentence for each size that was taken apart."""
    found = []
    for row in sizes:
        if "shares" in row:
            parts = "; ".join(f"{name} {100 * share:.0f} %"
                              for name, share in _largest_first(row["shares"]))
            found.append(f"A step here at {row['size']} x {row['size']} is: {parts}.")
    return found


def _choices(sizes: list[dict]) -> list[str]:
    found = []
    for row in sizes:
        gains = ", ".join(f"{name} {gain:.2f}" for name, gain in _largest_first(row["gains"]))
        found.append(f"Each choice by itself makes training here at {row['size']} x {row['size']} "
                     f"so many times faster: {gains}.")
    return found


def _dice(found: dict) -> str:
    pairs = ", ".join(f"{pair['here']:.3f} and {pair['plain']:.3f}" for pair in found["pairs"])
    return (f"Test Dice, trained alike: {found['epochs']} epochs at {found['size']} x "
            f"{found['size']}, beta {found['beta']:g}, give {pairs} (here and plain, a seed each; "
            f"mean difference {found['mean_difference']:+.3f}; {found['data']}).")


def _whole_report(found: dict) -> str:
    runs = "; ".join(
        f"{WAYS[name]}, {way['epochs']} epochs in {way['seconds'] / 60:.1f} minutes, "
        f"{way['images_a_second']:.0f} images a second, {100 * way['share_of_product']:.0f} % of a "
        f"large matrix product, test Dice {way['test_dice']:.3f}"
        for name, way in _in_order(found["ways"]))
    return f"The profile `{found['profile']}` from start to end ({found['data']}): {runs}."


def _memory(found: dict) -> str:
    small, large = found["rows"]
    return (f"On the phantom at {small['size']} x {small['size']}, {small['slices']} slices and "
            f"{large['slices']} peak at {small['peak_mb']:.0f} and {large['peak_mb']:.0f} MB, "
            f"evaluation included: {large['scale'] / small['scale']:.0f} times the data, "
            f"{found['ratio']:.2f} times the memory.")


def _largest_first(values: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])


def _in_order(ways: dict) -> list[tuple[str, dict]]:
    """The file has them in the order of the alphabet."""
    return [(name, ways[name]) for name in WAYS if name in ways]


def fill_in(documents: Iterable[Path], tables: dict[str, str]) -> None:
    """Put every table in its place, in whichever of these files that is.

    Raises ValueError, and writes nothing, if a table has no place in them, or several.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in documents}
    for name, table in tables.items():
        place = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- end -->)", re.DOTALL)
        count = sum(len(place.findall(text)) for text in texts.values())
        if count != 1:
            raise ValueError(f"expected one place marked table:{name} in "
                             f"{', '.join(path.name for path in texts)}, found {count}")
        texts = {path: place.sub(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text)
                 for path, text in texts.items()}
    for path, text in texts.items():
        write_text(path, text)


if __name__ == "__main__":
    fill_in(DOCUMENTS, published_tables(REPOSITORY / "figures")
            | benchmark_tables(read_json(REPOSITORY / "benchmarks" / FILE_NAME)))
