"""From a key press on a slider to the new pictures in the browser, in JupyterLab and in the page.

    python benchmarks/explorer.py

100 moves by keyboard, one after the other, of the run that opens first; and 30 in the plain way: a
slider whose callback draws the heart and its strip as one matplotlib figure into an Output widget.
A move ends when its frame has been drawn. Then a slider is dragged fast, and 40 more moves are
filmed, to look for panels that are empty in between. And five times, on the phantom: from the start
of JupyterLab to the heart of notebook 04. Written to benchmarks/mine.
"""

import base64
import io
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import results
from lab import IDLE, chromium, jupyter_lab, opened_notebook

from cvae_utils.files import REPOSITORY, machine

MOVES, PLAIN_MOVES, FILMED_MOVES, OPENINGS = 100, 30, 40, 5
CELLS = (f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cvae_utils.explorer.atlas import pretrained_folders
from cvae_utils.explorer.widget import Explorer
explorer = Explorer(pretrained_folders())
explorer
""", """
%matplotlib inline
import ipywidgets as widgets
slider = widgets.FloatSlider(min=-3, max=3, step=0.1)
slider.add_class("plain-slider")
out = widgets.Output()
out.add_class("plain")

def redraw(change=None):
    explorer.move(explorer.strongest, slider.value)
    with out:
        out.clear_output(wait=True)
        display(explorer.figure())

slider.observe(redraw, "value")
redraw()
widgets.VBox([slider, out])
""")
#: Times are on the page's own clock, with which it stamps input events too.
WATCH = """() => {
  window.watch = {events: 0};
  for (const kind of ['keydown', 'mousemove'])
    document.addEventListener(kind, event => { watch.event = event.timeStamp; watch.events += 1; },
                              true);
  document.addEventListener('load', event => {
    if (event.target.closest?.('.plain'))
      requestAnimationFrame(() => { watch.plain = performance.now(); });
  }, true);
}"""
STATE = "document.querySelector('.heart-explorer').explorer.state"


def steps(page, slider, count: int, drawn: str) -> list[dict]:
    """Move a slider step by step; what `drawn` says of each step once it is true."""
    slider.scroll_into_view_if_needed()
    slider.focus()
    found, place, direction = [], 0, 1
    for _ in range(count):
        direction = -1 if place >= 20 else 1 if place <= -20 else direction
        place += direction
        page.keyboard.press("ArrowRight" if direction > 0 else "ArrowLeft")
        found.append(page.wait_for_function(f"() => {{ {drawn} }}", polling="raf").json_value())
        page.wait_for_timeout(60)  # a hand is no faster
    return found


DRAWN = f"""const {{drawn}} = {STATE};
  return drawn.heart > watch.event && drawn.all > watch.event
    && {{heart: drawn.heart - watch.event, all: drawn.all - watch.event}};"""
PLAIN_DRAWN = "return watch.plain > watch.event && watch.plain - watch.event;"


def times(values) -> dict:
    return {"median": np.median(values), "p95": np.quantile(values, 0.95)}


def moves(page) -> dict:
    page.evaluate(WATCH)
    slider = page.locator(".heart-explorer .slider input").first
    found = steps(page, slider, MOVES, DRAWN)
    return {"heart_ms": times([one["heart"] for one in found]),
            "all_ms": times([one["all"] for one in found])}


def drag(page) -> dict:
    """Drag a slider fast from end to end: mouse events, frames drawn, and whether the last one is
    that of the place where the hand stopped."""
    box = page.locator(".heart-explorer .slider input").first.bounding_box()
    y, before = box["y"] + box["height"] / 2, page.evaluate(f"{STATE}.frames")
    page.mouse.move(box["x"] + 8, y)
    page.mouse.down()
    for step in range(1, 61):
        page.mouse.move(box["x"] + 8 + (box["width"] - 16) * step / 60, y)
    page.mouse.up()
    page.wait_for_timeout(800)
    state = page.evaluate(STATE)
    return {"events": 60, "frames": state["frames"] - before,
            "last": state["u"][state["coordinate"]]}


def film(page) -> dict:
    """Frames that the browser painted during moves, and how many have an empty panel."""
    boxes = [one.bounding_box() for one in page.locator(".heart-explorer section > canvas").all()]
    frames, session = [], page.context.new_cdp_session(page)

    def keep(event):
        frames.append(base64.b64decode(event["data"]))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "png", "everyNthFrame": 1})
    slider = page.locator(".heart-explorer .slider input").first
    slider.fill("0")  # the drag has left it at an end
    steps(page, slider, FILMED_MOVES, DRAWN)
    session.send("Page.stopScreencast")
    blank = 0
    for frame in frames:
        picture = np.asarray(Image.open(io.BytesIO(frame)).convert("L"), dtype=float)
        scale = picture.shape[1] / page.viewport_size["width"]
        panels = [picture[int(scale * b["y"]):int(scale * (b["y"] + b["height"])),
                          int(scale * b["x"]):int(scale * (b["x"] + b["width"]))] for b in boxes]
        blank += any(panel.size and panel.std() < 3 for panel in panels)
    return {"frames": len(frames), "empty": blank}


CONNECTED = """window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel
  ?.connectionStatus === "connected" """


def opening(browser) -> dict:
    """Seconds from the start of the server to the page, to the kernel, and to the heart of the
    explorer in notebook 04, whose cells are run as soon as there is a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "root", "notebooks/04_latent_exploration.ipynb"
        (root / "notebooks").mkdir(parents=True)
        for name in ("cvae_utils", "notebooks/start.py"):
            (root / name).symlink_to(REPOSITORY / name)
        book = nbformat.read(REPOSITORY / path, as_version=4)
        last = next(n for n, cell in enumerate(book.cells) if "Explorer(" in cell.source)
        book.cells = book.cells[:last + 1]
        nbformat.write(book, root / path)
        began = time.perf_counter()
        with jupyter_lab(root, Path(folder) / "settings", CVAE_DATA="phantom") as url_of:
            times = {"server": time.perf_counter() - began}
            page = browser.new_page(viewport={"width": 1500, "height": 1200})
            page.goto(url_of(path))
            page.wait_for_selector(IDLE)
            times["page"] = time.perf_counter() - began
            page.wait_for_function(CONNECTED, polling=50)
            times["kernel"] = time.perf_counter() - began
            page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
            page.wait_for_function(f"{STATE.replace('.explorer.', '?.explorer?.')}?.verdict",
                                   polling=50, timeout=60_000)
            times["heart"] = time.perf_counter() - began
            page.close()
    return times


def main() -> None:
    chosen = results.command_line(__doc__).parse_args()
    with opened_notebook(CELLS, height=2600) as lab:
        found = {"lab": moves(lab), "drag": drag(lab), "film": film(lab),
                 "browser": lab.context.browser.version}
        plain = steps(lab, lab.locator(".plain-slider .noUi-handle").first, PLAIN_MOVES,
                      PLAIN_DRAWN)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        page.goto((REPOSITORY / "figures" / "explorer.html").as_uri())
        page.wait_for_timeout(1500)
        openings = [opening(browser) for _ in range(OPENINGS)]
        found |= {"opening_s": {name: np.median([one[name] for one in openings])
                                for name in openings[0]},
                  "page": moves(page), "run": page.evaluate(
            "JSON.parse(document.getElementById('data').textContent).runs[0].name")}
    found |= {"machine": machine(), "moves": MOVES, "plain_ms": times(plain)}
    found["ratio"] = found["plain_ms"]["median"] / found["lab"]["all_ms"]["median"]
    results.record(chosen, "explorer", found)
    for place in ("lab", "page"):
        for name, title in (("heart_ms", "new heart"), ("all_ms", "all panels")):
            print(f"{place}, {title}: {found[place][name]['median']:.0f} ms, 95 %: "
                  f"{found[place][name]['p95']:.0f} ms")
    print("JupyterLab, seconds to", {name: round(s, 1) for name, s in found["opening_s"].items()})
    print(f"plain way: {found['plain_ms']['median']:.0f} ms, {found['ratio']:.1f} times as long; "
          f"film: {found['film']}; drag: {found['drag']}")


if __name__ == "__main__":
    main()
