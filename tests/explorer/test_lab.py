"""The explorer in JupyterLab, in a browser without a network, moved as a user would."""

import time

import nbformat
import pytest
from lab import jupyter_lab, run_notebook

from cvae_utils.files import REPOSITORY

PANELS = ("heart", "strip", "influence", "histogram", "plane")
HANDLES = ".cvae-slider .noUi-handle"


@pytest.fixture(scope="module")
def lab_page(browser, tmp_path_factory):
    """Notebook 04 up to its first explorer, which is in view, run on the phantom."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name in ("cvae_utils", "notebooks/start.py"):
        (root / name).symlink_to(REPOSITORY / name)
    notebook = "notebooks/04_latent_exploration.ipynb"
    book = nbformat.read(REPOSITORY / notebook, as_version=4)
    book.cells = book.cells[:next(
        n for n, cell in enumerate(book.cells) if "study.runs(" in cell.source)]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, root / notebook)  # a copy, because JupyterLab saves what it has run
    with jupyter_lab(root, tmp_path_factory.mktemp("settings"), CVAE_DATA="phantom",
                     CVAE_PROFILE="smoke", CVAE_OUT=str(root)) as url_of:
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        wanted = []
        page.on("requestfailed", lambda request: wanted.append(request.url))
        run_notebook(page, url_of(notebook))
        page.locator("img.cvae-heart").first.scroll_into_view_if_needed()
        yield page
        page.close()
        assert [url for url in wanted if "127.0.0.1" not in url] == []  # nothing of the network


def pictures(page):
    """What each panel of the first explorer shows once it has come to rest, as PNG bytes."""
    before, now = None, {}
    while now != before:
        time.sleep(0.4)
        before, now = now, {name: page.locator(f"img.cvae-{name}").first.screenshot()
                            for name in PANELS}
    return now


def same(one, other):
    return [name for name in PANELS if one[name] == other[name]]


def value(page, place):
    text = page.locator(".cvae-slider .widget-readout").nth(place).inner_text()
    return float(text.replace("\N{MINUS SIGN}", "-"))


def drag(page, place, pixels, steps):
    box = page.locator(HANDLES).nth(place).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, steps + 1):
        page.mouse.move(x + pixels * step / steps, y)
    page.mouse.up()


def press(page, place, key, times):
    page.locator(HANDLES).nth(place).focus()
    for _ in range(times):
        page.keyboard.press(key)


def begin(page):
    """Back to the mean heart with the most influential dimension selected; its pictures."""
    page.get_by_role("button", name="mean heart").first.click()
    pictures(page)  # at rest
    page.locator(".cvae-dimension select").first.select_option(index=0)
    return pictures(page)


def test_keyboard_and_mouse_move_all_panels_and_reset_brings_them_back(lab_page):
    start = begin(lab_page)
    press(lab_page, 0, "ArrowRight", 12)
    by_keyboard = pictures(lab_page)
    assert value(lab_page, 0) == 1.2
    assert same(by_keyboard, start) == []
    drag(lab_page, 1, -18, steps=6)
    by_mouse = pictures(lab_page)
    assert value(lab_page, 1) < -0.5
    assert same(by_mouse, by_keyboard) == []
    assert begin(lab_page) == start


def test_fast_drag_ends_on_the_picture_of_its_last_value(lab_page):
    begin(lab_page)
    drag(lab_page, 0, 25, steps=60)
    dragged, at = pictures(lab_page), value(lab_page, 0)
    assert at > 0.5
    press(lab_page, 0, "ArrowLeft", 1)  # away and back: no picture may depend on the way
    assert pictures(lab_page)["histogram"] != dragged["histogram"]
    press(lab_page, 0, "ArrowRight", 1)
    assert pictures(lab_page) == dragged and value(lab_page, 0) == at


def test_play_sweeps_until_it_is_stopped(lab_page):
    before = begin(lab_page)
    lab_page.locator(".widget-play button").nth(0).click()
    time.sleep(1.5)
    lab_page.locator(".widget-play button").nth(0).click()
    after = pictures(lab_page)  # at rest: it has stopped
    assert after["heart"] != before["heart"] and value(lab_page, 0) != 0


def test_another_run_opens_with_its_own_pictures(lab_page):
    before = begin(lab_page)
    runs = lab_page.locator(".cvae-run select").first
    runs.select_option("quick-beta1")
    assert same(pictures(lab_page), before) == []
    runs.select_option("quick-sharp-beta60")
    assert pictures(lab_page)["heart"] == before["heart"]
