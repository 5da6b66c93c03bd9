"""The page of the explorer, in a browser without network."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from atlases import effects, lively_model, small_atlas

from cvae_utils import shape_metrics
from cvae_utils.analysis import projections
from cvae_utils.explorer import page
from cvae_utils.files import REPOSITORY
from cvae_utils.labels import GROUPS
from cvae_utils.model import encoding
from cvae_utils.model.encoding import Posterior

SLICES = 60


def moved_by_four(atlas):
    """The same, its training slices 4 further along z1."""
    mu = atlas.posterior.mu + np.eye(atlas.run.model.latent_dim, dtype=np.float32)[1] * 4
    return replace(atlas, posterior=Posterior(mu.astype(np.float16).astype(np.float32), mu))


@pytest.fixture(scope="module")
def atlases():
    table = pd.DataFrame({"group": np.resize(GROUPS, SLICES), "phase": np.repeat(["ED", "ES"], 30)})
    names = [f"effect {d}" for d in range(6)]
    return [
        small_atlas(table, size=48, channels=3, latent_dim=3, beta=1.0, name="small", source="ACDC",
                    stamp="Data: ACDC.", effects=effects([2, 0, 1], names[:3]), active=[0, 1, 2]),
        moved_by_four(small_atlas(table, beta=1000.0, active=[1, 4],
                                  effects=effects([4, 1, 0, 5, 2, 3], names)))]


@pytest.fixture(scope="module")
def file(atlases, tmp_path_factory):
    return page.write(atlases, tmp_path_factory.mktemp("page") / "explorer.html")


class Explorer:
    """The page as a reader has it before him."""

    def __init__(self, tab):
        self.tab = tab

    @property
    def state(self):
        """What the page shows, once it has drawn all of it."""
        until = time.monotonic() + 10
        while not (state := self.tab.evaluate("explorer.state"))["settled"]:
            assert time.monotonic() < until, "the page does not come to rest"
            time.sleep(0.02)
        return state

    def pictures(self):
        assert self.state
        return {name: self.tab.locator(f"#{name}").screenshot()
                for name in ("heart", "strip", "histogram", "plane", "bars")}

    def slider(self, dimension):
        return self.tab.locator(f"#z{dimension}")

    def shown(self, dimension):
        """The value beside a slider."""
        assert self.state
        row = self.tab.locator(".dimension", has=self.slider(dimension))
        return float(row.locator("output").inner_text().replace("\u2212", "-"))

    def press(self, button):
        self.tab.get_by_role("button", name=button).click()

    def choose(self, run):
        self.tab.locator("#runs").get_by_text(run, exact=True).click()

    def select(self, dimension):
        self.tab.locator(f"label[for=z{dimension}]").click()

    def text(self, place):
        assert self.state
        return self.tab.locator(place).inner_text()


@pytest.fixture
def explorer(browser, file):
    """The page, opened on its last run. It must neither ask for anything nor complain."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
    tab = context.new_page()
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(file.as_uri())
    yield Explorer(tab)
    context.close()
    assert not complaints
    assert all(url == file.as_uri() or url.startswith("data:") for url in asked)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text,
                                re.DOTALL)[1])


# -------------------------------------------------------------------------------------- the file
def test_page_names_no_other_file_and_makes_no_text_into_code(file):
    text = file.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href|action|data)\s*=\s*["\']?([^"\'\s>]*)', text.split("<script")[0]
                      ) == ["data:,"]
    assert not re.search(r"https?:|@import|url\(|fetch\(|\beval\(|new Function", text)


def test_same_runs_make_the_same_file_and_none_leaves_an_old_one(atlases, file, tmp_path):
    path = tmp_path / "new" / "page.html"
    assert page.write(atlases, path).read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match="at least one"):
        page.write([], path)
    assert path.read_bytes() == file.read_bytes() and list(path.parent.iterdir()) == [path]


def test_page_holds_two_bytes_a_decoder_weight_and_no_encoder(atlases):
    model, mu = atlases[0].run.model, atlases[0].posterior.mu
    decoder = sum(p.numel() for p in [*model.from_z.parameters(), *model.decoder.parameters()])
    size = len(page.build(atlases[:1])) - page.TEMPLATE.stat().st_size
    base64 = 4 / 3 * (2 * decoder + 2 * mu.size + 8 * SLICES)
    assert base64 < size < base64 + 3000


def test_odd_names_and_runs_of_one_beta_are_told_apart(atlases):
    odd = ["</script><b> \u2028 \\ \"", "", "<!--"]
    twin = replace(atlases[0], name="twin", effects=effects([2, 0, 1], odd))
    runs = data_of(page.build([*atlases, twin]))["runs"]
    assert [run["label"] for run in runs] == ["beta 1 (small)", "beta 1000", "beta 1 (twin)"]
    assert runs[2]["names"] == odd


@pytest.mark.parametrize(("phase", "phases"), [("ED", ["ED"]), ("unknown", [])])
def test_phases_are_those_that_occur(atlases, phase, phases):
    table = atlases[0].table.assign(phase=phase)
    data = data_of(page.build([replace(atlases[0], table=table)]))
    assert data["phases"] == phases
    assert set(data["runs"][0]["phase"]) == ({0} if phases else {-1})


def test_page_of_the_repository_is_that_of_its_pretrained_runs():
    """After a change of page.html or of the runs: python scripts/export_pretrained.py."""
    runs = page.runs_of_repository()
    assert [run.name for run in runs] == [
        "quick-beta1", "quick-beta10", "quick-beta1000", "quick-sharp-beta60"]
    text = page.build(runs)
    assert text == (REPOSITORY / "figures" / "explorer.html").read_text("utf-8")
    assert len(text) < 6e6  # to be sent by mail, and open in a second


# ------------------------------------------------------------------------------------ in a browser
@pytest.mark.parametrize("size", [32, 48, 64])
def test_page_decodes_smooth_fields_as_python_does(browser, atlases, tmp_path, size):
    model = lively_model(size, 3, network="field")
    run = replace(atlases[0].run, model=model)
    tab = browser.new_page()
    tab.goto(page.write([replace(atlases[0], run=run)], tmp_path / "page.html").as_uri())
    z = encoding.sample_prior(12, 3)
    decoded = tab.evaluate("z => z.map((one) => explorer.decode(0, one))", z.tolist())
    tab.close()
    expected = encoding.decode(model, z).reshape(len(z), -1)
    assert (np.array(decoded) == expected).mean(axis=1).min() >= 0.999
    assert len(np.unique(expected)) == 4 and len(np.unique(expected, axis=0)) == len(z)


@pytest.mark.parametrize("index", [0, 1])
def test_page_decodes_and_places_as_python_does(explorer, atlases, index):
    model, mu = atlases[index].run.model, atlases[index].posterior.mu
    z = np.concatenate([np.zeros((1, model.latent_dim)),
                        encoding.sample_prior(12, model.latent_dim)]).astype(np.float32)
    decoded, placed = explorer.tab.evaluate(
        "([run, z]) => [z.map((one) => explorer.decode(run, one)), "
        "z.map((one) => explorer.place(run, one))]", [index, z.tolist()])
    expected = encoding.decode(model, z).reshape(len(z), -1)
    agreement = (np.array(decoded) == expected).mean(axis=1)
    assert agreement[0] == 1 and agreement.min() >= 0.999
    assert len(np.unique(expected)) == 4 and len(np.unique(expected, axis=0)) == len(z)
    assert placed == pytest.approx(projections.place(z, mu, atlases[index].plane), rel=1e-3,
                                   abs=1e-4)


@pytest.mark.parametrize("hand", ["keyboard", "mouse"])
def test_slider_moves_every_panel_and_back_to_start_brings_them_back(explorer, hand):
    assert explorer.state["dimension"] == 4
    before = explorer.pictures()
    if hand == "keyboard":
        explorer.slider(1).focus()
        for _ in range(12):
            explorer.tab.keyboard.press("ArrowRight")
    else:
        box = explorer.slider(1).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        explorer.tab.mouse.move(x, y)
        explorer.tab.mouse.down()
        explorer.tab.mouse.move(x + 0.2 * box["width"], y, steps=5)
        explorer.tab.mouse.up()
    state, after = explorer.state, explorer.pictures()
    assert state["dimension"] == 1
    assert state["z"] == [0, pytest.approx(1.2, abs=0.15), 0, 0, 0, 0]
    assert explorer.shown(1) == pytest.approx(state["z"][1])
    assert all(after[name] != before[name] for name in before)
    explorer.press("back to start")
    assert explorer.state["z"] == [0] * 6
    explorer.select(4)
    assert explorer.pictures() == before


def test_strip_follows_the_other_dimensions(explorer):
    """Its tiles stay when their own dimension moves; only the mark does."""
    def tiles():
        assert explorer.state
        box = explorer.tab.locator("#strip").bounding_box()
        return explorer.tab.screenshot(clip=box | {"height": box["height"] / 2})

    first = tiles()
    explorer.slider(4).fill("-0.3")
    assert tiles() == first
    explorer.slider(1).fill("2")
    explorer.select(4)
    assert explorer.state["z"] == [0, 2, 0, 0, -0.3, 0]
    assert tiles() != first


def test_another_run_takes_the_values_by_rank(explorer):
    first = explorer.pictures()
    explorer.slider(4).fill("1.5")
    explorer.slider(1).fill("-2")
    explorer.choose("beta 1")
    state = explorer.state
    assert (state["run"], state["z"], state["dimension"]) == (0, [-2, 0, 1.5], 0)
    assert explorer.shown(2) == 1.5
    assert explorer.text("#stamp") == "Data: ACDC."
    assert "CC BY-NC-SA 4.0" in explorer.text("#licence")
    explorer.choose("beta 1000")
    assert explorer.state["z"] == [0, -2, 0, 0, 1.5, 0]
    assert explorer.text("#licence") == "Synthetic hearts"
    assert explorer.tab.get_by_text("CC BY-NC-SA").count() == 0
    explorer.press("mean heart")
    explorer.select(4)
    assert explorer.pictures() == first


def test_inactive_dimensions_are_folded_away(explorer):
    assert explorer.slider(4).is_visible() and explorer.slider(1).is_visible()
    assert not explorer.slider(0).is_visible()
    assert explorer.text("summary") == "4 inactive dimensions"
    explorer.tab.locator("summary").click()
    sliders = explorer.tab.locator(".dimension input")
    assert sliders.evaluate_all("all => all.map((each) => each.id)") == [
        "z4", "z1", "z0", "z5", "z2", "z3"]
    assert sliders.nth(2).get_attribute("aria-label") == "z0, effect 0"
    explorer.slider(0).fill("1")
    assert explorer.state["z"] == [1, 0, 0, 0, 0, 0]
    explorer.choose("beta 1")  # where all are active
    assert explorer.slider(1).is_visible() and explorer.tab.locator("details").count() == 0


def test_starts_keep_what_lies_beyond_the_sliders(explorer, atlases):
    for option, chosen in (("DCM, ES", ("DCM", "ES")), ("ARV, ED and ES", ("ARV", ""))):
        explorer.tab.locator("#groups").select_option(label=option)
        mean = explorer.state["z"]
        assert mean == pytest.approx(atlases[1].group_mean(*chosen), abs=1e-5)
    assert mean[1] > 3 and explorer.slider(1).input_value() == "3"
    assert explorer.shown(1) == pytest.approx(mean[1], abs=0.006)
    explorer.slider(4).fill("0.5")
    assert explorer.state["z"] == [*mean[:4], 0.5, mean[5]]
    explorer.press("back to start")
    assert explorer.state["z"] == mean
    explorer.press("random heart")
    z = explorer.state["z"]
    explorer.slider(4).fill("3")
    explorer.press("back to start")
    assert explorer.state["z"] == z == explorer.state["start"] and len(set(z)) == 6


def test_play_sweeps_the_selected_dimension_until_stopped(explorer):
    explorer.select(1)
    explorer.press("play")
    seen = []
    until = time.monotonic() + 3
    while time.monotonic() < until and (not seen or max(seen) < 2.5 or seen[-1] > 2):
        state = explorer.tab.evaluate("explorer.state")
        assert state["playing"] and state["z"][0] == 0
        seen.append(state["z"][1])
    assert -3 <= min(seen) and 2.5 < max(seen) <= 3 and seen[-1] <= 2  # up, and down again
    explorer.press("stop")
    z = explorer.state["z"]
    assert explorer.shown(1) == pytest.approx(z[1], abs=0.006)
    assert explorer.state["z"] == z and not explorer.state["playing"]


def test_measurements_are_those_of_the_decoded_heart(explorer, atlases):
    def measured():
        assert explorer.state
        return explorer.tab.locator("#measurements tr").evaluate_all(
            "rows => rows.map((row) => row.cells[1].textContent)")

    z = np.array([[0, 0, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0]], dtype=np.float32)
    hearts = encoding.decode(atlases[1].run.model, z)
    described = shape_metrics.describe(hearts[:1]).iloc[0]
    score = shape_metrics.dice_per_slice(hearts[:1], hearts[1:])[0]
    assert measured()[-1] == "1.00"
    explorer.slider(4).fill("2")
    assert measured() == [*(f"{100 * described[name]:.1f} %"
                            for name in ("area_rv", "area_myo", "area_lv", "wall")), f"{score:.2f}"]
