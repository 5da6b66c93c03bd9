"""The explorer in JupyterLab, in a browser without a network, moved as a user would."""

import time

import nbformat
import numpy as np
import pytest
from lab import jupyter_lab, run_notebook

from cvae_utils.files import REPOSITORY

CANVASES = ("heart", "strip", "plane", "spread", "bars")


@pytest.fixture(scope="module")
def lab_page(browser, tmp_path_factory):
    """Notebook 04 up to its first explorer, which is in view, run on the phantom."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name in ("cvae_utils", "notebooks/start.py"):
        (root / name).symlink_to(REPOSITORY / name)
    notebook = "notebooks/04_latent_exploration.ipynb"
    book = nbformat.read(REPOSITORY / notebook, as_version=4)
    first = next(n for n, cell in enumerate(book.cells)
                 if "Explorer(" in cell.source and cell.cell_type == "code")
    book.cells = book.cells[:first + 1]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, root / notebook)  # a copy, because JupyterLab saves what it has run
    with jupyter_lab(root, tmp_path_factory.mktemp("settings"), CVAE_DATA="phantom",
                     CVAE_PROFILE="smoke", CVAE_OUT=str(root)) as url_of:
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        wanted, complaints = [], []
        page.on("requestfailed", lambda request: wanted.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        run_notebook(page, url_of(notebook))
        find(page, "heart").scroll_into_view_if_needed()
        yield page
        page.close()
        assert [url for url in wanted if "127.0.0.1" not in url] == []  # nothing of the network
        assert not complaints


def find(page, name):
    return page.locator(f".heart-explorer [data-id={name}]").first


def state(page):
    """What is shown once it has come to rest."""
    until = time.monotonic() + 20
    while not (now := page.evaluate("document.querySelector('.heart-explorer').explorer.state"))[
            "settled"]:
        assert time.monotonic() < until, "the explorer does not come to rest"
        time.sleep(0.05)
    return now


def pictures(page):
    assert state(page)
    return {name: page.evaluate("(name) => document.querySelector(`.heart-explorer [data-id="
                                "${name}]`).toDataURL()", name) for name in CANVASES}


def slider(page, place):
    return page.locator(".heart-explorer .slider input").nth(place)


def kernel_says(page, code):
    """What the kernel prints to a line of code."""
    return page.evaluate("""async (code) => {
      const {sessionContext} = window.jupyterapp.shell.currentWidget;
      const future = sessionContext.session.kernel.requestExecute({code});
      let text = "";
      future.onIOPub = ({content}) => { text += content.text ?? ""; };
      await future.done;
      return text.trim();
    }""", code)


def test_keyboard_and_mouse_move_all_panels_and_reset_brings_them_back(lab_page):
    start = pictures(lab_page)
    chosen = state(lab_page)["coordinate"]
    slider(lab_page, 1).focus()
    for _ in range(12):
        lab_page.keyboard.press("ArrowRight")
    by_keyboard = pictures(lab_page)
    assert all(by_keyboard[name] != start[name] for name in CANVASES)
    box = slider(lab_page, 2).bounding_box()
    x, y = box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2
    lab_page.mouse.move(x, y)
    lab_page.mouse.down()
    for step in range(1, 40):  # fast: the last place is what counts
        lab_page.mouse.move(x + 0.01 * step * box["width"], y)
    lab_page.mouse.up()
    by_mouse, dragged = pictures(lab_page), state(lab_page)
    assert all(by_mouse[name] != by_keyboard[name] for name in CANVASES)
    assert dragged["u"][dragged["coordinate"]] > 1.5 and dragged["coordinate"] != chosen
    find(lab_page, "reset").click()
    lab_page.locator(".heart-explorer .slider label").first.click()
    assert pictures(lab_page) == start


def test_kernel_and_browser_show_the_same_heart(lab_page):
    slider(lab_page, 0).fill("1.5")
    shown = state(lab_page)
    time.sleep(1)  # it is told once the hand rests
    said = kernel_says(lab_page, "print(explorer.run, *explorer.z)").split()
    assert int(said[0]) == shown["run"]
    assert np.array(said[1:], dtype=float) == pytest.approx(shown["z"])
    kernel_says(lab_page, "explorer.move(explorer.strongest, -1.0)")
    time.sleep(1)
    assert state(lab_page)["z"][shown["coordinate"]] == -1
    find(lab_page, "reset").click()


def test_patient_has_its_mr_image_and_beats_from_ed_to_es(lab_page):
    find(lab_page, "load").click()
    find(lab_page, "patient").wait_for(state="visible")
    find(lab_page, "patient").select_option(index=2)
    find(lab_page, "imageLabel").wait_for(state="visible")
    ed, before = state(lab_page), pictures(lab_page)
    assert ed["start"].startswith("patient002 ED, slice") and ed["way"]
    find(lab_page, "image").check()
    assert pictures(lab_page)["heart"] != before["heart"]
    find(lab_page, "way").fill("1")
    assert state(lab_page)["z"] != ed["z"]
    assert "patient002 ES" in find(lab_page, "stripNote").inner_text()
    find(lab_page, "nearest").filter(has_text="nearest training slice").wait_for()
    find(lab_page, "image").uncheck()
    find(lab_page, "mean").click()
    find(lab_page, "pin").click()  # lets go of A


def test_another_run_opens_with_its_own_pictures(lab_page):
    before = pictures(lab_page)
    find(lab_page, "runs").get_by_text("beta 1", exact=True).click()
    other = pictures(lab_page)
    assert all(other[name] != before[name] for name in CANVASES)
    find(lab_page, "runs").get_by_text("beta 60, sharp").click()
    assert pictures(lab_page)["heart"] == before["heart"]
