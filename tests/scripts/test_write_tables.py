"""The tables of README.md and docs/, made from recorded numbers."""

import re

import pytest

from cvae_utils.files import REPOSITORY, read_json, write_json
from scripts import write_tables
from scripts.write_tables import benchmark_tables, fill_in, published_tables, study_tables

RECORDED = read_json(REPOSITORY / "benchmarks" / "results.json")


def row(beta, dice, **more):
    """A row of notebook 03's table of betas."""
    found = {f"{part}_dice{end}": dice for part in ("test", "unrotated")
             for end in ("", "_RV", "_MYO", "_LV")}
    return found | {"beta": beta, "active_dimensions": 4, "valid_prior": 0.982, "valid_real": 0.967,
                    "test_kl": 6.44, "spread_prior": 0.876} | more


@pytest.fixture
def study():
    """What the notebooks record, in short."""
    report = {"quantity": "Dice", "report": "0.75", "by patient": "0.871", "by slice": "0.900"}
    return {
        "02_train_vae": {"report_table": [report], "data": "Data: A"},
        "03_beta_study": {"table": [row(1.0, 0.8714, test_dice_RV=0.85), row(1000.0, 0.9)],
                          "data": "Data: B"},
        "run": {"notebooks": {"02_train_vae": 12.34}, "machine": "a machine", "data": "Data: C"},
    }


def test_committed_tables_are_those_of_the_committed_numbers():
    tables = published_tables(REPOSITORY / "figures") | benchmark_tables(RECORDED)
    text = "".join(path.read_text(encoding="utf-8") for path in write_tables.DOCUMENTS)
    lacking = [name for name, table in tables.items()
               if f"<!-- table:{name} -->\n{table}\n<!-- end -->" not in text]
    assert not lacking, "run python scripts/write_tables.py"


def test_tables_hold_the_numbers_and_the_data(study):
    tables = study_tables(study)
    assert tables["report"] == (
        "|  | report | here, split by patient | here, split by slice |\n|---|---|---|---|\n"
        "| Dice | 0.75 | 0.871 | 0.900 |\n\nData: A")
    assert ("| 1 | 0.871 | 0.850 0.871 0.871 | 0.871 | 6.4 | 4 | 98.2 % | 0.88 |\n"
            "| 1000 | 0.900 | ") in tables["beta"]
    assert tables["beta"].endswith("\n\nReal test slices: 96.7 % valid, spread 1. Data: B.")
    assert tables["first"].endswith("Data: A; beta 1000.")


def test_what_the_report_profile_gives_comes_beside_the_others(study, tmp_path):
    write_json(tmp_path / "results.json", study)
    alone = study_tables(study)
    published = published_tables(tmp_path)
    notebooks = published.pop("notebooks")
    assert re.search(r"02_train_vae.ipynb\) \| How [^|]*\? \| 12 \|", notebooks)
    assert notebooks.endswith("From nothing, in order, with C, on a machine.")
    assert published == alone
    own, path = study["02_train_vae"] | {"data": "Data: C"}, tmp_path / "report" / "results.json"
    other = {"learning_rate": 2e-3, "decay": "cosine", "test_dice": 0.1, "active_dimensions": 2}
    write_json(path, {"02_train_vae": own, "quick_rate": other})
    both = published_tables(tmp_path)
    assert "| Dice | 0.75 | 0.871 | 0.900 | 0.871 | 0.900 |\n\nData: A. Trained" in both["report"]
    assert ("180 epochs, batches of 100, AdamW at a constant 6e-05. Data: C. The same model at the "
            "learning rate and schedule of `quick` (0.002, cosine)") in both["report"]
    del both["notebooks"]
    assert both.pop("report").endswith(
        "a test Dice of 0.100 after as many steps, with 2 active dimensions.")
    del alone["report"]
    assert both == alone
    write_json(path, {"03_beta_study": study["03_beta_study"] | {"data": "C"}})
    first, second = published_tables(tmp_path)["beta"].split("Data: B.\n\n")
    assert first + "Data: B." == alone["beta"] and second.endswith("spread 1. C.")


def test_notebooks_that_have_not_run_empty_no_table(study):
    partly = {"02_train_vae": {"data": "Data: C"}, "03_beta_study": {}}
    assert study_tables(study, partly) == study_tables(study)
    del study["03_beta_study"]
    with pytest.raises(ValueError, match="found none of 03_beta_study: run all notebooks"):
        study_tables(study)


@pytest.fixture
def further():
    """What notebooks 06 and 07 record, in short."""
    answer = [{"model": model, "seed": n, "test_dice": dice + 0.01 * n, "refined_dice": better,
               "valid": 0.99, "test_coverage": 0.8, "distance": 1.1}
              for n in range(2) for model, dice, better in (("PCA, distance maps", 0.93, None),
                                                            ("smooth fields", 0.95, 0.97))]
    real = [{"seed": n, "valid": 0.98, "coverage": 0.7} for n in range(2)]
    latents = [{"model": model, "latents": 8, "seed": 0, "test_dice": dice}
               for model, dice in (("PCA, distance maps", 0.87), ("smooth fields, refined", 0.92))]
    protocol = [{"prior": kind, "test_dice": 0.95, "refined_dice": 0.96, "valid": valid}
                for kind, valid in (("standard", 0.5), ("mixture", 0.975))]
    claims = [{"claim": f"claim {n}", "rule": "|a| < b", "seed by seed": "a 1, 2", "verdict": told}
              for n, told in enumerate(("holds", "depends on the seed", "holds"))]
    return {"06_sharper_hearts": {
                "answer": answer, "real": real, "latents": latents, "protocol": protocol,
                "prior": "mixture", "temperature": 0.8, "data": "Data: A; seeds 0, 1",
                "protocol_data": "Data: B", "protocol_real": 0.997},
            "07_does_it_hold": {"claims": claims, "data": "Data: C; seeds 0, 1"}}


def test_further_tables_name_seeds_and_stand_beside_real_slices(study, further):
    tables = study_tables(study | further)
    assert {"beyond", "claims", "verdicts"} <= set(tables)
    assert ("| smooth fields | 0.955 +- 0.007 | 0.970 +- 0.000 | 0.990 +- 0.000 |"
            in tables["beyond"])
    assert "| PCA, distance maps | 0.935 +- 0.007 |  | 0.990" in tables["beyond"]
    for part in ("over 2 seeds. Data: A; seeds 0, 1.", "fitted mixture at temperature 0.8. Real",
                 "slices: 0.980 valid, coverage 0.700",
                 "distance maps 0.870, smooth fields, refined, 0.920",
                 "Dice 0.950, refined 0.960, 97.5 % of the samples valid, and 99.7 % of the real",
                 "VAE, their beta 1 0.873;", "hierarchical NVAE 0.951 to 0.964). Data: B."):
        assert part in tables["beyond"], part
    assert r"| claim 0 | \|a\| < b | a 1, 2 | holds |" in tables["claims"]
    assert tables["claims"].endswith("Data: C; seeds 0, 1.")
    assert tables["verdicts"].endswith("| holds | claim 0<br>claim 2 |\n"
                                       "| depends on the seed | claim 1 |\n\nData: C; seeds 0, 1.")
    assert not {"beyond", "claims"} & set(study_tables(study))


# ---------------------------------------------------------------------------- into their places
def place(name, text=""):
    return f"before {name}\n<!-- table:{name} -->\n{text}<!-- end -->\nafter\n"


def test_tables_are_written_between_their_markers_and_nowhere_else(tmp_path):
    one, other = tmp_path / "README.md", tmp_path / "more.md"
    one.write_text(place("a", "old\ntable\n") + place("b"), encoding="utf-8")
    other.write_text(place("c", "old\n"), encoding="utf-8")
    tables = {"a": "| \\1 |", "b": "two\nlines", "c": "3 \u00d7 3"}
    for _ in range(2):  # the second time changes nothing
        fill_in([one, other], tables)
        assert one.read_text(encoding="utf-8") == place("a", "| \\1 |\n") + place(
            "b", "two\nlines\n")
        assert other.read_text(encoding="utf-8") == place("c", "3 \u00d7 3\n")


@pytest.mark.parametrize(("text", "found"), [(place("a"), 0), (place("a") + 2 * place("b"), 2)])
def test_table_without_one_place_is_refused(tmp_path, text, found):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"one place marked table:b in README.md, found {found}"):
        fill_in([path], {"a": "new", "b": "new"})
    assert path.read_text() == text


# -------------------------------------------------------------------------------------- benchmarks
PLAIN = {"images_a_second": 99.96, "times_plain": 1.0, "gflops": 21.0, "share_of_product": 0.1,
         "share_of_convolution": 0.05, "peak_mb": 1234.4, "precision": "float32",
         "reconstruct_ms": 30.04, "decode_ms": 20.04}
HERE = {"images_a_second": 12.6, "times_plain": 2.54, "gflops": 90.1, "share_of_product": 0.452,
        "share_of_convolution": 0.226, "peak_mb": 800.0, "precision": "bfloat16",
        "reconstruct_ms": 15.06, "decode_ms": 9.96}
TRAINING = {
    "machine": "a machine", "threads": 2, "matrix": 3072, "convolution": 192,
    "peak_gflops": {"product": {"bfloat16": 199.6, "float32": 101.2},
                    "convolution": {"bfloat16": 250.0, "float32": 120.0}},
    "sizes": [{"size": 128, "channels": 48, "batch": 16, "rounds": 7, "gflop_an_image": 7.149,
               "data": "A", "ways": {"here": HERE, "plain": PLAIN}}]}
OTHER = {name: RECORDED[name] for name in ("explorer", "preprocess", "sweep",
                                           "network_choices")}


def test_training_table_has_a_row_for_each_way_and_says_what_was_measured():
    table, text = benchmark_tables(OTHER | {"training": TRAINING})["training"].split("\n\n")
    assert table.splitlines()[2:] == [
        "| 128 x 128, 48, 16 | plain loop | 100.0 | 1.0 | 21 | 10 % | 5 % | 1234 MB |",
        "| 128 x 128, 48, 16 | here | 12.6 | 2.5 | 90 | 45 % | 23 % | 800 MB |"]
    assert text == (
        "a machine, threads: 2, CVAE_FAST=1; data: A; medians of 7 rounds in turns. A product "
        "of matrices of 3072 x 3072 reaches 101 GFLOP/s in float32 and 200 GFLOP/s in "
        "bfloat16; a 5 x 5 convolution of 192 channels, 120 GFLOP/s in float32 and 250 GFLOP/s "
        "in bfloat16. The plain loop computes in float32, training here in bfloat16. An image "
        "of 128 x 128 takes 7.1 GFLOP, forward and backward. To encode and decode one of 128 x "
        "128 takes 15.1 ms here and 30.0 the plain way, to decode it 10.0 and 20.0.")
    assert sorted(benchmark_tables(OTHER)) == ["latency", "network", "preprocess", "sweep"]


def test_trials_of_the_network_name_data_split_and_seed():
    row = {"dice": 0.9512, "refined_dice": 0.96, "valid_samples": 0.991, "valid_real": 0.983,
           "kl": 60.4, "weights": 2714148, "minutes": 3.04, "data": "A", "patients": 150,
           "split": "official"}
    table, text = benchmark_tables(OTHER | {"network_choices": {
        "machine": "a machine", "epochs": 40, "seed": 0, "beta": 60.0, "size": 64,
        "rows": [{"title": "as it is", **row}]}})["network"].split("\n\n")
    assert table.splitlines()[2:] == [
        "| as it is | 0.951 | 0.960 | 99.1 % | 60 | 2,714,148 | 3.0 |"]
    for part in ("40 epochs each at 64 x 64, beta 60, one seed (0)", "98.3 % are valid",
                 "A labels, 150 patients, official split; a machine."):
        assert part in text, part


@pytest.mark.parametrize(("name", "found", "text"), [
    ("training_choices", {"sizes": [{"size": 128, "gains": {"ELU": 1.046, "bfloat16": 2.5}}]},
     "training here at 128 x 128 so many times faster: bfloat16 2.50, ELU 1.05."),
    ("training_dice", {"pairs": [{"plain": 0.9, "here": 0.8996}, {"plain": 0.91, "here": 0.912}],
                       "mean_difference": 0.0008, "epochs": 20, "beta": 10.0, "size": 64,
                       "data": "A"},
     "20 epochs at 64 x 64, beta 10, give 0.900 and 0.900, 0.912 and 0.910 (here and plain, a seed "
     "each; mean difference +0.001; A)."),
    ("training_report", {"profile": "report", "data": "A", "ways": {
        "here": HERE | {"epochs": 180, "seconds": 90.0, "test_dice": 0.8766}}},
     "The profile `report` from start to end (A): here, 180 epochs in 1.5 minutes, 13 images a "
     "second, 45 % of a large matrix product, test Dice 0.877."),
    ("training_memory", {"ratio": 1.04, "rows": [
        {"scale": 1, "size": 64, "slices": 1118, "peak_mb": 700.2},
        {"scale": 100, "size": 64, "slices": 111800, "peak_mb": 728.0}]},
     "1118 slices and 111800 peak at 700 and 728 MB, evaluation included: 100 times the data, 1.04 "
     "times the memory."),
])
@pytest.mark.parametrize("suffix", ["", "_gpu"])
def test_what_else_was_measured_ends_the_text_of_its_own_machine(name, found, text, suffix):
    shares = {"ELU": 0.386, "convolutions, backward": 0.614}
    gpu = TRAINING | {"machine": "a GPU",
                      "sizes": [TRAINING["sizes"][0] | {"shares": shares}]}
    tables = benchmark_tables(OTHER | {"training": TRAINING, "training_gpu": gpu,
                                       f"{name}{suffix}": found})
    _, cpu, _, on_gpu = tables["training"].split("\n\n")
    assert cpu.startswith("a machine") and on_gpu.startswith("a GPU")
    assert (on_gpu if suffix else cpu).endswith(text) and text not in (cpu if suffix else on_gpu)
    assert "A step here at 128 x 128 is: convolutions, backward 61 %; ELU 39 %." in on_gpu
