"""The latent explorer in a notebook: the front end of the page, with a kernel behind it.

The browser decodes, draws and measures, so a move need not wait for the kernel. The kernel is asked
for what only it has: patients, their MR images, and decoders too large for a browser.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image

from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.data.slices import Slices
from cvae_utils.explorer import front, patients
from cvae_utils.explorer.atlas import Atlas, load, slice_name
from cvae_utils.model import encoding
from cvae_utils.shape_metrics import broken_rules

NO_RUN = ("There is no trained run to explore. Train one with notebook 02, or bring back those "
          "that come with the repository: git checkout data/pretrained")

#: Joins the front end to the kernel.
GLUE = """
export default {render({model, el}) {
  const waiting = new Map(), own = Math.random().toString(36).slice(2);   // this view of the widget
  let asked = 0;
  model.on("msg:custom", ({number, ...answer}) => {
    waiting.get(number)?.(answer);
    waiting.delete(number);
  });
  const ask = (what, details) => new Promise((answer) => {
    const number = `${own} ${++asked}`;
    waiting.set(number, answer);
    model.send({number, what, ...details});
  });
  const text = model.get("data");
  if (!text) {
    el.textContent = model.get("problem");
    return;
  }
  const tell = (run, z) => {
    model.set({run, z});
    model.save_changes();
  };
  const explorer = explore(el, JSON.parse(text), {ask, tell, patients: model.get("has_patients")},
                           model.get("problem"));
  const go = () => explorer.go(model.get("run"), model.get("z"));
  model.on("change:z change:run", go);
  go();
}};
"""


class Explorer(anywidget.AnyWidget):
    """A slider for each latent dimension, or axis of the fitted prior, and panels that follow.

    runs: atlases, or folders to read them from; the first that can be used opens, and one that
    cannot be is named in the panel, with what to do. labels: called with a picture's side in
    pixels, gives the aligned slices to start from; without it there are no patients. images: called
    with a row of their table and a side, gives the MR slice (S, S), or None. `run` and `z` (Z,)
    are what is shown; both can be set.
    """

    data = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    has_patients = traitlets.Bool().tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    z = traitlets.List(traitlets.Float()).tag(sync=True)
    _esm = front.script() + GLUE
    _css = front.style()

    def __init__(self, runs: Sequence[Atlas | Path],
                 labels: Callable[[int], Slices] | None = None,
                 images: Callable[[object, int], np.ndarray | None] | None = None):
        self._labels, self._images, self.atlases = labels, images, []
        self._searches: dict[str, patients.SliceSearch | None] = {}
        problems = []
        for each in runs:
            try:
                self.atlases.append(load(each) if isinstance(each, Path) else each)
            except (ValueError, OSError) as error:
                problems.append(str(error))
        found = self.atlases
        super().__init__(
            data=json.dumps(front.describe(found, whole=1)) if found else "",
            problem="\n".join(problems or ([] if found else [NO_RUN])),
            has_patients=labels is not None, z=found[0].group_mean().tolist() if found else [])
        self.on_msg(lambda _, asked, __: self.send({"number": asked["number"],
                                                    **self.answer(asked)}))

    @traitlets.validate("run")
    def _check_run(self, proposal) -> int:
        number = proposal["value"]
        if number and not 0 <= number < len(self.atlases):
            raise traitlets.TraitError(f"run: expected 0 to {len(self.atlases) - 1}, "
                                       f"found {number}")
        return number

    @traitlets.validate("z")
    def _check_z(self, proposal) -> list[float]:
        z, expected = proposal["value"], self.atlas.run.model.latent_dim if self.atlases else 0
        if len(z) != expected or not np.isfinite(z).all():
            raise traitlets.TraitError(f"z: expected {expected} finite numbers, found {z}")
        return z

    @traitlets.observe("run")
    def _begin_at_the_mean(self, _) -> None:
        """Another run's z means nothing here; the front end sends its own with the run."""
        if len(self.z) != self.atlas.run.model.latent_dim:
            self.z = self.atlas.group_mean().tolist()

    @property
    def atlas(self) -> Atlas:
        """That of the run which is shown."""
        return self.atlases[self.run]

    @property
    def strongest(self) -> int:
        """The most influential latent dimension."""
        return self.atlas.coordinates("standard").order[0]

    def move(self, dimension: int, value: float) -> None:
        """Give a latent dimension a value, as its slider does."""
        self.z = [*self.z[:dimension], float(value), *self.z[dimension + 1:]]

    def decode(self) -> np.ndarray:
        """The heart that is shown, (S, S) uint8."""
        return encoding.decode(self.atlas.run.model, np.array(self.z, np.float32)[None])[0]

    def figure(self):
        """A matplotlib Figure: the heart that is shown, and what its strongest dimension does
        to it."""
        from cvae_utils.figures import hearts, style  # late: the sliders do not wait for matplotlib

        model, z, atlas = self.atlas.run.model, np.array(self.z, np.float32), self.atlas
        first, fine = self.strongest, 4 * model.size
        values = np.linspace(-LIMIT, LIMIT, 7)
        path = np.repeat(z[None], len(values), axis=0)
        path[:, first] = values
        name = f"z{first} from {-LIMIT:g} to {LIMIT:g}: {atlas.effects.names[first]}"
        figure = hearts.heart_and_strip(
            encoding.decode_scores(model, z[None], fine)[0],
            encoding.decode_scores(model, path, fine), values, name,
            float(atlas.table["crop_mm"].median()), broken_rules(self.decode()))
        return style.stamp_figure(figure, atlas.stamp)

    def answer(self, question: dict) -> dict:
        """What the kernel knows and a browser does not. question: what ("run", "scores",
        "patients", "slice", "nearest"), the number of a run, and z or the rows of a slice; what
        cannot be answered has an "error" in place of the rest."""
        answers = {"run": self._describe, "scores": self._scores, "patients": self._patients,
                   "slice": self._slice, "nearest": self._nearest}
        atlas = self.atlases[question["run"]]
        try:
            return answers[question["what"]](atlas, question)
        except (ValueError, OSError) as error:
            return {"error": str(error)}
        except Exception as error:  # it must be told: the front end waits for an answer
            return {"error": f"{type(error).__name__}: {error}"}

    def _describe(self, _, question: dict) -> dict:
        return front.describe_run(self.atlases, question["run"])

    def _scores(self, atlas: Atlas, question: dict) -> dict:
        model = atlas.run.model
        scores = encoding.decode_scores(model, [question["z"]], model.size)
        return {"scores": front.encoded(scores, "<f2"), "side": model.size}

    def _slices(self, atlas: Atlas) -> Slices:
        if self._labels is None:
            raise ValueError("expected label data to start from, but this explorer was made "
                             "without: Explorer(atlases, labels=study.slices_of)")
        return self._labels(atlas.run.model.size)

    def _patients(self, atlas: Atlas, _) -> dict:
        return {"patients": patients.patients(self._slices(atlas).table)}

    def _nearest(self, atlas: Atlas, question: dict) -> dict:
        """The training slice that overlaps best with the heart at z, in words."""
        slices = self._slices(atlas)
        if atlas.name not in self._searches:
            rows = patients.training_rows(atlas, slices)
            self._searches[atlas.name] = (
                None if rows is None else patients.SliceSearch(slices.aligned[rows]))
        if not self._searches[atlas.name]:
            return {"words": f"nearest training slice: needs the {atlas.source} labels"}
        z = np.array(question["z"], np.float32)[None]
        row, dice = self._searches[atlas.name](encoding.decode(atlas.run.model, z)[0])
        name = slice_name(atlas.table.iloc[row])
        return {"words": f"nearest training slice: {name}, Dice {dice:.2f}"}

    def _slice(self, atlas: Atlas, question: dict) -> dict:
        slices, rows = self._slices(atlas), question["rows"]
        mu = encoding.encode(atlas.run.model, slices.aligned[rows]).mu
        return {"hearts": [
            {"name": slice_name(row), "z": z.tolist(), "crop": row.crop_mm,
             "image": self._image(row)}
            for z, row in zip(mu, slices.table.iloc[rows].itertuples())]}

    def _image(self, row) -> str | None:
        """The MR slice as base64 of a PNG, dark to bright from its 1st to its 99th percentile."""
        image = self._images(row, 256) if self._images else None
        if image is None:
            return None
        low, high = np.percentile(image, [1, 99])
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        buffer = io.BytesIO()
        Image.fromarray((255 * grey).astype(np.uint8)).save(buffer, format="png")
        return base64.b64encode(buffer.getvalue()).decode()
