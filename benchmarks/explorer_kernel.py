"""What one move of a slider costs in the kernel, part by part, and against a plain redraw.

    python benchmarks/explorer_kernel.py

A move is decoded, measured (the nearest training slice included), placed in the UMAP plane and
drawn into the five pictures. The plain way draws the same panels as one matplotlib figure at each
move. Written to benchmarks/results.json.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import results_file
from cvae_utils.explorer import atlas, panels, walk, widget
from cvae_utils.files import machine
from cvae_utils.model import encoding

MOVES, PLAIN_MOVES, RUN = 100, 20, "quick-beta1000"


def milliseconds(act, values) -> np.ndarray:
    times = []
    for value in values:
        start = time.perf_counter()
        act(value)
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times)


def main() -> None:
    shown = widget.Explorer([atlas.PRETRAINED / RUN])
    state = shown.state
    live = [panels.Live(kind, state.atlas, state.coordinates) for kind in shown.pictures]
    background = panels.strip_background(state.view().strip)
    # The search costs the same whatever slices it looks through: here the model's own hearts.
    count = len(state.atlas.table)
    hearts = encoding.decode(state.atlas.run.model, state.atlas.posterior.mu)
    state.slices = ()
    state._training[RUN] = walk.SliceSearch(hearts)
    values = np.round(np.linspace(-3, 3, MOVES), 1)

    def parts(value):
        state.move(state.order[0], value)
        label_map = state.decode()
        view = state.view()
        return {
            "decode": state.decode,
            f"measure, nearest of {count} slices": lambda: state.measure(label_map),
            "place in the UMAP plane": state.place,
            "draw the heart": lambda: panels.png(panels.heart_picture(view)),
            "draw the strip": lambda: panels.png(panels.strip_picture(background, view.value)),
            **{f"draw the {type(one.panel).__name__.lower()}": lambda one=one: one.png(view)
               for one in live},
        }

    costs = {name: [] for name in parts(0.0)}
    for value in values:
        for name, part in parts(value).items():
            costs[name] += milliseconds(lambda _, part=part: part(), [value]).tolist()

    def move(value):
        shown.sliders[0].value = value

    shown.sliders[0].value = 3.0
    whole = milliseconds(move, values)

    def plain(value):
        state.move(state.order[0], value)
        panels.twin(state.view(), state.atlas, "").savefig("/dev/null", format="png",
                                                           dpi=panels.PANEL_DPI)

    plain_times = milliseconds(plain, values[:PLAIN_MOVES])
    record = {"machine": machine(), "moves": MOVES, "run": RUN,
              "move_ms": {"median": np.median(whole), "p95": np.quantile(whole, 0.95)},
              "parts_ms": {name: np.median(times) for name, times in costs.items()},
              "plain_ms": {"median": np.median(plain_times)},
              "ratio": np.median(plain_times) / np.median(whole)}
    results_file.record(Path(__file__).resolve().parent, "explorer_kernel", record)
    for name, cost in record["parts_ms"].items():
        print(f"{name:45s}{cost:8.2f} ms")
    print(f"{'one move, everything':45s}{np.median(whole):8.2f} ms (95 %: "
          f"{np.quantile(whole, 0.95):.2f} ms)\n"
          f"{'the plain way: one figure drawn anew':45s}{np.median(plain_times):8.2f} ms, "
          f"{record['ratio']:.1f} times as long")


if __name__ == "__main__":
    main()
