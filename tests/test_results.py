"""The numbers of a study as JSON, and the README's tables made from it."""

import json

import numpy as np
import pytest

from cvae_utils import results
from cvae_utils.results import beside_report, readme_tables, record, update_readme
from cvae_utils.storage import REPOSITORY, read_json

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


def test_table_in_markdown():
    assert results.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
