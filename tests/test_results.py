"""The numbers of a study as JSON, and the README's tables made from it."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from filelock import SoftFileLock

from cvae_utils import results
from cvae_utils.results import beside_report, readme_tables, record, update_readme
from cvae_utils.storage import REPOSITORY, DataError, read_json, write_json

RUN = {
    **{f"{part}_dice{end}": value for part in ("test", "unrotated")
       for end, value in (("", 0.8714), ("_RV", 0.85), ("_MYO", 0.83), ("_LV", 0.93))},
    "active_dimensions": 4, "mu_sd": [1.1, 0.9, 0.5, 0.01], "valid_prior": 0.982,
    "valid_real": 0.967, "test_kl": 6.44, "spread_prior": 0.876,
}
BY_SLICE = RUN | {"test_dice": 0.9, "unrotated_dice_RV": 0.7, "mu_sd": [0.1, 1.4, 0.8, 0.2, 0.3],
                  "active_dimensions": 3, "valid_prior": 1.0, "valid_real": 0.95}


@pytest.fixture
def study():
    """What the notebooks record, in short."""
    claims = [{"claim": "RV is worst", "holds": True, "numbers": "0.85"},
              {"claim": "none", "holds": None, "numbers": "-"}]
    return {
        "02_train_vae": {"report_table": beside_report(RUN, BY_SLICE, 1808).to_dict("records"),
                         "data": "Data: A", "claims": claims},
        "03_beta_study": {"table": [RUN | {"beta": 1.0}, BY_SLICE | {"beta": 1000.0}],
                          "data": "Data: B", "claims": [{"claim": "more", "holds": False,
                                                         "numbers": "1"}]},
        "run": {"minutes": 12.34, "machine": "a machine", "data": "Data: C"},
    }


def test_sections_are_replaced_one_at_a_time(tmp_path):
    folder = tmp_path / "figures"
    record(folder, "a", {"x": 1, "old": 2})
    record(folder, "b", {"y": 2})
    record(folder, "a", {"x": 3})
    assert json.loads((folder / "results.json").read_text()) == {"a": {"x": 3}, "b": {"y": 2}}


RECORDING = """
import sys
from pathlib import Path
from cvae_utils.results import record
for n in range(15):
    record(Path(sys.argv[1]), f"{sys.argv[2]}{n}", {"n": n})
"""


def test_notebooks_that_record_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", RECORDING, tmp_path, name], cwd=REPOSITORY)
               for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    found = read_json(tmp_path / "results.json")
    assert found == {f"{name}{n}": {"n": n} for name in "abc" for n in range(15)}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": {"x": 1', b"\xff", b"[1]", b"null"])
def test_damaged_results_are_refused_with_the_remedy_and_stay(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=r"results\.json: expected .* found .*Put a whole copy "
                                        "there, or delete it"):
        record(tmp_path, "a", {"x": 1})
    assert (tmp_path / "results.json").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_lock_that_nobody_gives_back_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SoftFileLock", lambda path, timeout: SoftFileLock(path, 0.1))
    with SoftFileLock(tmp_path / ".results.json.lock"):
        with pytest.raises(TimeoutError, match=r"results\.json: .*but .*results\.json\.lock says "
                                               "that another process does. If there is none, del"):
            record(tmp_path, "a", {"x": 1})


@pytest.mark.parametrize(("value", "written"), [
    (np.nan, None), (float("inf"), None), (np.float32(0.1), 0.1), (1234567.8, 1234570.0),
    (1 / 3, 0.333333), (np.int64(3), 3), (True, True), (np.bool_(False), False), (None, None),
    ("text", "text"), ((1, np.nan), [1, None]), ({1.0: {2: np.float64(0.5)}}, {"1.0": {"2": 0.5}}),
])
def test_numbers_are_written_as_json_has_them(tmp_path, value, written):
    record(tmp_path, "a", {"value": value})
    found = json.loads((tmp_path / "results.json").read_text())["a"]["value"]
    assert found == written and type(found) is type(written)


def test_report_stands_beside_what_was_measured():
    table = beside_report(RUN, BY_SLICE, 1808)
    assert list(table.columns) == ["quantity", "report", "by patient", "by slice"]
    rows = {quantity: rest for quantity, *rest in table.itertuples(index=False)}
    assert len(rows) == len(table) == 15
    assert rows["slices with LV"] == ["2785", "1808", "1808"]
    assert rows["Dice, mean over slices"] == ["0.75", "0.871", "0.900"]
    assert rows["Dice, not rotated, mean over slices"] == ["0.69", "0.871", "0.871"]
    assert rows["Dice, not rotated, RV"] == ["not given", "0.850", "0.700"]
    assert rows["active dimensions"] == ["3 dominate", "4 of 4", "3 of 5"]
    assert rows["SD of mu, largest"] == ["not given", "1.10", "1.40"]
    assert rows["SD of mu, three strongest"] == ["not given", "1.10, 0.90, 0.50",
                                                 "0.10, 1.40, 0.80"]  # strongest by their KL
    assert rows["SD of mu, smallest"] == ["not given", "0.01", "0.10"]
    assert rows["valid samples from N(0, I)"] == ["not given", "98.2 %", "100.0 %"]
    assert rows["valid real test slices"] == ["not given", "96.7 %", "95.0 %"]


def test_tables_hold_the_numbers_the_verdicts_and_the_data(study):
    tables = readme_tables(study)
    assert "| Dice, mean over slices | 0.75 | 0.871 | 0.900 |" in tables["report"]
    assert tables["report"].endswith("\n\nData: A")
    assert ("| 1 | 0.871 | 0.850 0.830 0.930 | 0.871 | 6.4 | 4 | 98.2 % | 0.88 |"
            in tables["beta"])
    assert "| 1000 | 0.900 | " in tables["beta"]
    assert tables["beta"].endswith("\n\nReal test slices: 96.7 % valid, spread 1. Data: B")
    assert [line.split(" | ")[1] for line in tables["claims"].splitlines()[2:]] == [
        "holds", "cannot be told", "does not hold"]
    assert "12.3 minutes" in tables["time"]
    for name in ("report", "beta", "claims"):
        rows = [line for line in tables[name].splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1


def test_rows_of_the_report_profile_come_beside_the_others(study, tmp_path):
    write_json(tmp_path / "results.json", study)
    assert results.published_tables(tmp_path) == readme_tables(study)
    other = {"03_beta_study": study["03_beta_study"] | {"data": "C"}}
    (tmp_path / "report").mkdir()
    write_json(tmp_path / "report" / "results.json", other)
    tables = results.published_tables(tmp_path)
    first, second = tables["beta"].split("Data: B\n\n")
    assert first + "Data: B" == readme_tables(study)["beta"] and second.endswith("spread 1. C")
    assert {k: v for k, v in tables.items() if k != "beta"} == {
        k: v for k, v in readme_tables(study).items() if k != "beta"}


def readme(path, names):
    places = "\n\n".join(f"before {name}\n<!-- table:{name} -->\nold table\n<!-- end -->"
                         for name in names)
    path.write_text(f"# Title\n\n{places}\n\nafter\n", encoding="utf-8")
    return path


def test_tables_are_written_between_their_markers_and_nowhere_else(study, tmp_path):
    path = readme(tmp_path / "README.md", readme_tables(study))
    update_readme(path, readme_tables(study))
    text = path.read_text(encoding="utf-8")
    assert "old table" not in text and text.startswith("# Title\n") and text.endswith("\nafter\n")
    for name, table in readme_tables(study).items():
        assert f"before {name}\n<!-- table:{name} -->\n{table}\n<!-- end -->" in text
    update_readme(path, readme_tables(study))
    assert path.read_text(encoding="utf-8") == text


def test_empty_places_are_filled_each_with_its_own_table(study, tmp_path):
    path = tmp_path / "README.md"
    tables = readme_tables(study)
    path.write_text("".join(f"<!-- table:{name} -->\n<!-- end -->\n" for name in tables))
    update_readme(path, readme_tables(study))
    assert path.read_text() == "".join(f"<!-- table:{name} -->\n{table}\n<!-- end -->\n"
                                       for name, table in tables.items())


def test_table_without_its_place_is_refused(study, tmp_path):
    names = list(readme_tables(study))
    path = readme(tmp_path / "README.md", names[:-1])
    before = path.read_text()
    with pytest.raises(ValueError, match=f"README.md: expected one place marked table:{names[-1]}"):
        update_readme(path, readme_tables(study))
    assert path.read_text() == before
    twice = readme(tmp_path / "TWICE.md", [*names, names[0]])
    with pytest.raises(ValueError, match="found 2"):
        update_readme(twice, readme_tables(study))


def test_benchmarks_have_a_table_of_their_own_that_fits_its_file():
    """The file is there in the repository, written by the scripts beside it."""
    found = read_json(REPOSITORY / "benchmarks" / "results.json")
    table = results.benchmark_tables(found)["latency"]
    browser = found["explorer_browser"]
    assert f"| the new heart | {browser['heart_ms']['median']:.0f} ms |" in table
    assert f"{browser['film']['empty']} of {browser['film']['frames']} filmed frames" in table
    assert table in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def way(images, times, gflops, share, **more):
    return {"images_a_second": images, "times_plain": times, "gflops": gflops,
            "share_of_product": share, "share_of_convolution": share / 2, "peak_mb": 1234.4,
            "precision": "float32", "reconstruct_ms": 30.04, "decode_ms": 20.04} | more


@pytest.fixture
def benchmarks():
    """What the scripts of benchmarks/ record about training, in short."""
    faster = {"precision": "bfloat16", "reconstruct_ms": 15.06, "decode_ms": 9.96,
              "peak_mb": 800.0}
    sizes = [
        {"size": 64, "channels": 16, "batch": 32, "rounds": 7, "gflop_an_image": 0.2, "data": "A",
         "ways": {"plain": way(99.96, 1.0, 21.0, 0.1), "here": way(412.6, 4.13, 86.8, 0.3)}},
        {"size": 128, "channels": 48, "batch": 16, "rounds": 7, "gflop_an_image": 7.149,
         "data": "A", "shares": {"ELU": 0.386, "convolutions, backward": 0.614},
         "ways": {"compiled": way(13.0, 2.58, 92.9, 0.47, **faster),
                  "here": way(12.6, 2.5, 90.1, 0.452, **faster),
                  "plain": way(5.04, 1.0, 36.0, 0.357), "reused": way(7.0, 1.39, 50.0, 0.5)}},
    ]
    known = read_json(REPOSITORY / "benchmarks" / "results.json")
    return {name: known[name] for name in ("explorer_browser", "explorer_kernel", "preprocess")} | {
        "training": {"machine": "a machine", "threads": 2, "matrix": 3072, "sizes": sizes,
                     "convolution": 192,
                     "peak_gflops": {"product": {"bfloat16": 199.6, "float32": 101.2},
                                     "convolution": {"bfloat16": 250.0, "float32": 120.0}}},
        "training_dice": {
            "pairs": [{"seed": 0, "plain": 0.9, "here": 0.8996},
                      {"seed": 1, "plain": 0.91, "here": 0.912}],
            "mean_difference": 0.0008, "epochs": 20, "beta": 10.0, "size": 64, "data": "A"},
        "training_choices": {"sizes": [{"size": 128, "gains": {"ELU": 1.046, "bfloat16": 2.5}}]},
        "training_memory": {"ratio": 1.04, "rows": [
            {"scale": 1, "size": 64, "slices": 1118, "peak_mb": 700.2},
            {"scale": 100, "size": 64, "slices": 111800, "peak_mb": 728.0}]},
    }


def test_training_table_has_a_row_for_each_size_and_way(benchmarks):
    rows = results.benchmark_tables(benchmarks)["training"].split("\n\n")[0].splitlines()
    assert rows[2:] == [
        "| 64 x 64, 16, 32 | plain loop | 100.0 | 1.0 | 21 | 10 % | 5 % | 1234 MB |",
        "| 64 x 64, 16, 32 | here | 413 | 4.1 | 87 | 30 % | 15 % | 1234 MB |",
        "| 128 x 128, 48, 16 | plain loop | 5.0 | 1.0 | 36 | 36 % | 18 % | 1234 MB |",
        "| 128 x 128, 48, 16 | plain loop, freed memory reused | 7.0 | 1.4 | 50 | 50 % | 25 % "
        "| 1234 MB |",
        "| 128 x 128, 48, 16 | here | 12.6 | 2.5 | 90 | 45 % | 23 % | 800 MB |",
        "| 128 x 128, 48, 16 | here, compiled | 13.0 | 2.6 | 93 | 47 % | 24 % | 800 MB |",
    ]
    assert len({row.count("|") for row in rows}) == 1


def test_training_text_has_peak_latency_shares_quality_and_memory(benchmarks):
    text = results.benchmark_tables(benchmarks)["training"].split("\n\n")[1]
    assert text.startswith("a machine, threads: 2; data: A; medians of 7 rounds in turns.")
    for part in (
        "3072 x 3072 reaches 101 GFLOP/s in float32 and 200 GFLOP/s in bfloat16; a 5 x 5 "
        "convolution of 192 channels, 120 GFLOP/s in float32 and 250 GFLOP/s in bfloat16. The "
        "plain loop computes in float32, training here in bfloat16",
        "An image of 128 x 128 takes 7.1 GFLOP",
        "one of 128 x 128 takes 15.1 ms here and 30.0 the plain way, to decode it 10.0 and 20.0.",
        "A step here at 128 x 128 is: convolutions, backward 61 %; ELU 39 %.",
        "training here at 128 x 128 so many times faster: bfloat16 2.50, ELU 1.05.",
        "20 epochs at 64 x 64, beta 10, give 0.900 and 0.900, 0.912 and 0.910 (here "
        "and plain, a seed each; mean difference +0.001; A)",
        "1118 slices and 111800 peak at 700 and 728 MB, evaluation included: 100 times the data, "
        "1.04 times the memory.",
    ):
        assert part in text


def test_what_was_not_measured_is_left_out(benchmarks):
    less = {name: found for name, found in benchmarks.items()
            if name not in ("training_choices", "training_dice", "training_memory")}
    text = results.benchmark_tables(less)["training"]
    assert "Dice" not in text and "times the memory" not in text and text.endswith("ELU 39 %.")
    del less["training"]
    assert sorted(results.benchmark_tables(less)) == ["latency", "preprocess"]


def test_gpu_has_a_table_of_its_own_with_the_whole_report(benchmarks):
    on_gpu = benchmarks["training"] | {"machine": "a GPU"}
    report = {"profile": "report", "data": "A", "ways": {
        "here": way(5000.4, 0, 0, 0.312, epochs=180, seconds=90.0, test_dice=0.8766)}}
    table = results.benchmark_tables(benchmarks | {"training_gpu": on_gpu,
                                                   "training_report_gpu": report})["training"]
    cpu_table, cpu_text, gpu_table, gpu_text = table.split("\n\n")
    assert gpu_table == cpu_table and cpu_text.startswith("a machine, ")
    assert gpu_text.startswith("a GPU, ") and "memory." not in gpu_text
    assert gpu_text.endswith(
        "The profile `report` from start to end (A): here, 180 epochs in 1.5 minutes, 5000 images "
        "a second, 31 % of a large matrix product, test Dice 0.877.")


def test_table_in_markdown():
    assert results.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_numbers_of_several_seeds_become_mean_and_deviation():
    rows = pd.DataFrame({"model": ["a", "a", "b"], "dice": [0.9, 0.92, 0.5],
                         "kl": [1.0, 3.0, np.nan]})
    table = results.mean_sd(rows, "model", {"dice": "Dice", "kl": "KL"}, "{:.2f}")
    assert table["Dice"].to_dict() == {"a": "0.91 +- 0.01", "b": "0.50"}
    assert table["KL"].to_dict() == {"a": "2.00 +- 1.41", "b": ""}


@pytest.fixture
def further():
    """What notebook 06 records, in short."""
    final = [{"chosen": "sharp: A", "test_dice": d, "test_kl": 70.0, "valid": 0.99, "more_valid": 0,
              "valid_open_wall": 0.995, "test_coverage": 0.8, "more_coverage": 0, "distance": 0.95}
             for d in (0.93, 0.94)]
    real = [{"model": "real", "seed": n, "valid": 0.98, "valid_open_wall": 0.99, "coverage": 0.7}
            for n in range(2)]
    schedules = [{"schedule": "linear", "seed": n, "test_dice": 0.86, "gain": 0.01 * n,
                  "train_kl": 6.0, "test_kl": 6.1} for n in range(2)]
    splits = [{"model": "beta 1", "seed": n, "slice": 0.92, "patient": 0.91, "difference": 0.01}
              for n in range(2)]
    return {"final": final, "real": real, "schedules": schedules, "splits": splits,
            "data": "Data: A; seeds 0, 1", "claims": []}


def test_further_tables_name_seeds_and_stand_beside_real_slices(study, further):
    tables = readme_tables(study | {"06_beyond_the_report": further})
    assert {"beyond", "schedules", "splits"} <= set(tables)
    assert "| sharp: A | 0.935 +- 0.007 | 70.000 +- 0.000 |" in tables["beyond"]
    assert "over 2 seeds" in tables["beyond"] and "; seeds 0, 1." in tables["beyond"]
    assert "Real test slices: 0.980 valid, 0.990 where" in tables["beyond"]
    assert "| linear | 0.860 +- 0.000 | 0.005 +- 0.007 |" in tables["schedules"]
    assert "| beta 1 | 0.920 +- 0.000 | 0.910 +- 0.000 | 0.010 +- 0.000" in tables["splits"]
    assert "beyond" not in readme_tables(study)


def test_drawn_slices_are_compared_with_the_real_ones_of_their_seed():
    rows = pd.DataFrame({"seed": [1, 0], "valid": [0.99, 0.97], "valid_open_wall": [0.995, 0.99],
                         "test_coverage": [0.6, 0.8], "test_nearest": [0.1, 0.1]}, index=[5, 5])
    real = pd.DataFrame({"seed": [0, 1], "valid": [0.98, 0.98], "coverage": [0.8, 0.7],
                         "nearest": [0.1, 0.2]})
    found = results.beside_real(rows, real, "test")
    assert found["more_valid"].tolist() == pytest.approx([0.01, -0.01])
    assert found["more_coverage"].tolist() == pytest.approx([-0.1, 0.0])
    assert found["distance"].tolist() == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(("change", "expected"), [
    ({}, True), ({"more_valid": -0.001}, False), ({"valid_open_wall": 0.989}, False),
    ({"more_coverage": -0.051}, False), ({"distance": 0.89}, False)])
def test_what_passes_as_real(change, expected):
    limits = {"more_valid": 0.0, "valid_open_wall": 0.99, "more_coverage": -0.05, "distance": 0.9}
    assert results.passes(pd.DataFrame([limits | change])).tolist() == [expected]
