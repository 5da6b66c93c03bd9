"""From a key press on a slider to the new pictures in the browser: JupyterLab in Chromium.

    python benchmarks/explorer_browser.py

100 moves by keyboard, one after the other, in the explorer, and 30 in the plain way: a slider
whose callback draws the same panels as one matplotlib figure into an Output widget. A move ends at
the first frame after the new picture of the heart (of all five panels) has been loaded. Then the
slider is dragged fast, and the time from the last mouse event to the last picture is taken; and
40 more moves are filmed, to look for panels that are empty in between. Written to
benchmarks/results.json.
"""

import base64
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from lab import opened_notebook

from cvae_utils import results_file
from cvae_utils.files import REPOSITORY, machine

MOVES, PLAIN_MOVES, DRAGS, FILMED_MOVES, RUN = 100, 30, 10, 40, "quick-beta1000"
CELLS = (f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cvae_utils.explorer import atlas, panels
from cvae_utils.explorer.walk import Exploration
from cvae_utils.explorer.widget import Explorer
explorer = Explorer([atlas.PRETRAINED / {RUN!r}])
explorer.widget
""", f"""
%matplotlib inline
import ipywidgets as widgets
state = Exploration(atlas.load(atlas.PRETRAINED / {RUN!r}))
slider = widgets.FloatSlider(min=-3, max=3, step=0.1)
slider.add_class("plain-slider")
out = widgets.Output()
out.add_class("plain")

def redraw(change=None):
    state.move(state.order[0], slider.value)
    with out:
        out.clear_output(wait=True)
        figure = panels.twin(state.view(), state.atlas, "")
        display(figure)

slider.observe(redraw, "value")
redraw()
widgets.VBox([slider, out])
""")

#: Times are on the page's own clock, with which it stamps input events too. Load events of pictures
#: do not bubble, but can be captured; a picture is there at the first frame after its own.
WATCH = """() => {
  const watch = window.watch = {pictures: {}, loads: 0, events: 0};
  const name = image => image.closest('.plain') ? 'plain' :
    (image.className.match(/cvae-(\\w+)/) || [])[1];
  document.addEventListener('load', event => {
    if (event.target.tagName !== 'IMG') return;
    const which = name(event.target);
    if (which === 'histogram') watch.loads += 1;
    requestAnimationFrame(() => { watch.pictures[which] = performance.now(); });
  }, true);
  for (const kind of ['keydown', 'mousemove'])
    document.addEventListener(kind, event => {
      watch.event = event.timeStamp; watch.events += 1; watch.pictures = {};
    }, true);
}"""


def press(page, handle, last: str, moves: int) -> list[dict]:
    """Move a slider step by step; for each step, milliseconds to each new picture."""
    handle.scroll_into_view_if_needed()
    handle.focus()
    times, place, direction = [], 0, 1
    for _ in range(moves):
        direction = -1 if place >= 28 else 1 if place <= -28 else direction
        place += direction
        page.keyboard.press("ArrowRight" if direction > 0 else "ArrowLeft")
        page.wait_for_function(f"() => watch.pictures.{last}", polling="raf")
        page.wait_for_timeout(60)  # the others may still be on their way
        watch = page.evaluate("() => watch")
        # A step that changes no pixel of a panel sends no picture of it.
        times.append({name: shown - watch["event"] for name, shown in watch["pictures"].items()})
    return times


def drag(page, handle, pixels: float) -> dict:
    """Drag a slider fast; mouse events, pictures, and milliseconds from the last to the last."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("() => { watch.loads = watch.events = 0; }")
    for step in range(1, 61):
        page.mouse.move(x + pixels * step / 60, y)
    page.wait_for_timeout(800)
    watch = page.evaluate("() => watch")
    page.mouse.up()
    page.wait_for_timeout(300)
    return {"events": watch["events"], "pictures": watch["loads"],
            "lag": watch["pictures"].get("histogram", watch["event"]) - watch["event"]}


def film(page, handle, selector: str) -> dict:
    """Frames that the browser painted during moves, and how many have an empty panel."""
    boxes = [image.bounding_box() for image in page.locator(selector).all()]
    frames, session = [], page.context.new_cdp_session(page)

    def keep(event):
        frames.append(base64.b64decode(event["data"]))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "png", "everyNthFrame": 1})
    press(page, handle, "histogram", FILMED_MOVES)
    session.send("Page.stopScreencast")
    blank = 0
    for frame in frames:
        picture = np.asarray(Image.open(io.BytesIO(frame)).convert("L"), dtype=float)
        scale = picture.shape[1] / page.viewport_size["width"]
        panels = [picture[int(scale * (b["y"] + 8)):int(scale * (b["y"] + b["height"] - 8)),
                          int(scale * (b["x"] + 8)):int(scale * (b["x"] + b["width"] - 8))]
                  for b in boxes]
        blank += any(panel.std() < 5 for panel in panels)
    return {"frames": len(frames), "empty": blank}


def measure(page) -> dict:
    page.evaluate(WATCH)
    handle = page.locator(".cvae-slider .noUi-handle").first
    moves = press(page, handle, "histogram", MOVES)
    hearts = [times["heart"] for times in moves if "heart" in times]
    last = [max(times.values()) for times in moves]
    drags = [drag(page, handle, 24 if i % 2 else -24) for i in range(DRAGS)]
    frames = film(page, handle, ".cvae-explorer img")
    plain = press(page, page.locator(".plain-slider .noUi-handle").first, "plain", PLAIN_MOVES)
    plain = [times["plain"] for times in plain]
    return {
        "moves": len(moves), "hearts": len(hearts), "film": frames,
        "heart_ms": {"median": np.median(hearts), "p95": np.quantile(hearts, 0.95)},
        "all_ms": {"median": np.median(last), "p95": np.quantile(last, 0.95)},
        "plain_ms": {"median": np.median(plain), "p95": np.quantile(plain, 0.95)},
        "ratio": np.median(plain) / np.median(last),
        "drag": {"events": np.median([d["events"] for d in drags]),
                 "pictures": np.median([d["pictures"] for d in drags]),
                 "lag_ms": {"median": np.median([d["lag"] for d in drags]),
                            "max": max(d["lag"] for d in drags)}},
    }


def main() -> None:
    with opened_notebook(CELLS) as page:
        found = measure(page) | {"machine": machine(), "run": RUN,
                                 "browser": page.context.browser.version}
    results_file.record(Path(__file__).resolve().parent, "explorer_browser", found)
    for name, title in (("heart_ms", "new heart"), ("all_ms", "all five panels"),
                        ("plain_ms", "plain way: a figure in an Output")):
        print(f"{title:32s}{found[name]['median']:6.0f} ms, 95 %: {found[name]['p95']:.0f} ms")
    print(f"plain / explorer: {found['ratio']:.1f}; film: {found['film']}; a fast "
          f"drag: {found['drag']}")


if __name__ == "__main__":
    main()
