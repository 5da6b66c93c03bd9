"""The latent explorer: a slider per latent dimension, or per principal axis of a prior fitted to
the run, and panels that follow every move.

Only standard widgets and PNG pictures, so it needs no network and no extension. A move is decoded,
measured, placed in the UMAP plane and drawn; until that is done the browser holds back further
events of a slider, and then sends the newest alone, so pictures never lag behind the hand.
"""

import contextlib
import html
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets
import nibabel
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cvae_utils.analysis.dimensions import LIMIT
from cvae_utils.analysis.latent_priors import TITLES
from cvae_utils.data.slices import Slices
from cvae_utils.explorer import panels
from cvae_utils.explorer.atlas import Atlas, load
from cvae_utils.explorer.panels import Histogram, Influence, Live, Plane
from cvae_utils.explorer.walk import Exploration, View
from cvae_utils.figures.colours import colourise
from cvae_utils.figures.style import save_figure
from cvae_utils.files import output_root
from cvae_utils.labels import UNKNOWN

STEP = 0.1
FRAME_MS = 100
#: Values of one sweep, a slider's step each: up, down past the start, and back to it.
SWEEP = np.round(STEP * np.concatenate([np.arange(0, 30), np.arange(30, -30, -1),
                                        np.arange(-30, 0)]), 1)
GIF_FRAMES, GIF_MS, GIF_PIXELS = 48, 80, 256
NO_RUN = ("<b>There is no trained run to explore.</b> Train one with notebook 02, or bring back "
          "those that come with the repository: <code>git checkout data/pretrained</code>.")

STYLE = """<style>
.cvae-explorer .widget-label {font-size: 12px}
.cvae-explorer .widget-inline-hbox .widget-label {text-align: left}
.cvae-slider .widget-label {white-space: normal; line-height: 13px; height: auto;
  max-height: 28px; align-self: center}
.cvae-selected {background: #FBE3D3; border-radius: 3px}
.cvae-explorer img {background: white; image-rendering: pixelated; object-fit: contain}
.cvae-heart {border: 1px solid #DDDDDD}
.cvae-measures {font-size: 12px; line-height: 1.3}
.cvae-measures td {padding: 1px 8px 1px 0; vertical-align: top}
</style>"""


def _label(text: str) -> widgets.Label:
    return widgets.Label(text, layout=widgets.Layout(width="64px"))


class Explorer:
    """The dashboard; `widget` is what a notebook displays, `figure()` its still twin.

    runs: atlases, or folders to read them from when they are chosen; the first that can be used
    opens. A run that cannot be used is named in the panel, with what to do. labels: see
    Exploration. exports: folder for exported files, by default data/exports.
    """

    def __init__(self, runs: Sequence[Atlas | Path],
                 labels: Callable[[int], Slices] | None = None, exports: Path | None = None):
        self.widget = widgets.VBox([widgets.HTML(STYLE)])
        self.widget.add_class("cvae-explorer")
        self.message = widgets.HTML()
        self.exports = exports or output_root() / "data" / "exports"
        self.generator = np.random.default_rng(0)
        self._runs = list(runs)
        self._drawn_strip = None, None
        self._start_again: Callable[[], None] | None = None
        # JupyterLab answers some controls in the main thread and others in one beside it.
        self._one_at_a_time = threading.RLock()
        self._following = True  # False while controls are set by the explorer, not by a hand
        problems = []
        for index in range(len(self._runs)):
            try:
                first = self._read(index)
                break
            except (ValueError, OSError) as error:
                problems.append(f"<b>{html.escape(str(error))}</b>")
        else:
            self.message.value = "<br>".join(problems) or NO_RUN
            self.widget.children += (self.message,)
            return
        self.state = Exploration(first, labels)
        self._make_controls()
        self._make_pictures()
        self.widget.children += (self._layout(),)
        with self._set_controls():
            self.run.value = index
        self._open(index)
        self.message.value = "<br>".join(problems)
        self.refresh()

    def _read(self, index: int) -> Atlas:
        """The atlas of a run of the list, read when it is first asked for."""
        if isinstance(self._runs[index], Path):
            self._runs[index] = load(self._runs[index])
        return self._runs[index]

    # ----------------------------------------------------------------------------- widgets
    def _make_controls(self) -> None:
        def wide(kind, name, description, **settings):
            made = kind(description=description, style={"description_width": "64px"},
                        layout=widgets.Layout(width="396px"), **settings)
            made.add_class(f"cvae-{name}")
            return made

        def button(text, act, tooltip="", width=106):
            made = widgets.Button(description=text, tooltip=tooltip or text,
                                  layout=widgets.Layout(width=f"{width}px"))
            made.on_click(lambda _: self._act(act))
            return made

        self.run = wide(widgets.Dropdown, "run", "run", options=[
            (run.name, index) for index, run in enumerate(self._runs)])
        self.prior = wide(widgets.Dropdown, "prior", "prior")
        self.dimension = wide(widgets.Dropdown, "dimension", "dimension")
        self.play = widgets.Play(min=0, max=len(SWEEP) - 1, interval=FRAME_MS, show_repeat=False,
                                 repeat=True, layout=widgets.Layout(width="116px"))
        self.mean = button("mean heart", self._to_mean)
        self.random = button("random", self._to_random)
        self.reset = button("back to start", self.state.back, "undo all moves since the start")
        self.group, self.phase, self.patient, self.slice = (
            widgets.Dropdown(layout=widgets.Layout(width=f"{width}px"))
            for width in (128, 106, 160, 160))
        self.load = button("load patients", self._load, "read the label data to start from", 324)
        self.way = wide(widgets.FloatSlider, "way", "ED to ES", min=0, max=1, step=0.02,
                        readout_format=".2f")
        self.downloads = widgets.HBox([_label("export"), *(
            button(text, lambda export=export: self._say(export()), f"write {text} to data/exports")
            for text, export in (("heart PNG", self.export_png), ("heart NIfTI", self.export_nifti),
                                 ("sweep GIF", self.export_gif),
                                 ("panels PNG", self.export_panels)))])
        self.sliders: list[widgets.FloatSlider] = []
        self.listed, self.folded = (
            widgets.VBox(layout=widgets.Layout(max_height="300px", overflow="hidden auto"))
            for _ in range(2))
        self.fold = widgets.Accordion([self.folded], selected_index=None,
                                      layout=widgets.Layout(width="400px"))
        for control, act in ((self.run, lambda: self._open(self.run.value)),
                             (self.dimension, self._select),
                             (self.group, self._to_group), (self.phase, self._to_group),
                             (self.patient, self._list_slices), (self.slice, self._to_slice),
                             (self.way, lambda: self.state.along(round(self.way.value, 2))),
                             (self.play, self._play)):
            control.observe(lambda _, act=act: self._act(act), "value")
        # The list itself may be set anew while this waits for its turn.
        self.prior.observe(lambda change: self._act(lambda: self._use(change["new"])), "value")
        self.play.observe(self._start_play, "playing")

    def _make_pictures(self) -> None:
        def image(name, width, height):
            made = widgets.Image(format="png", layout=widgets.Layout(
                width=f"{width}px", height=f"{height}px", flex="0 0 auto"))
            made.add_class(f"cvae-{name}")
            return made

        self.heart = image("heart", panels.HEART_PIXELS, panels.HEART_PIXELS)
        self.strip = image("strip", panels.STRIP_WIDTH, panels.STRIP_HEIGHT)
        self.pictures = {kind: image(kind.__name__.lower(), round(kind.width * panels.PANEL_DPI),
                                     round(kind.height * panels.PANEL_DPI))
                         for kind in (Plane, Influence, Histogram)}
        self.measures = widgets.HTML()
        self.note, width = widgets.HTML(), f"{panels.STRIP_WIDTH}px"
        self.note.layout.width = self.message.layout.width = width

    def _layout(self) -> widgets.HBox:
        plane, influence, histogram = self.pictures.values()
        self.chosen = widgets.VBox([widgets.HBox([_label("patient"), self.patient, self.slice]),
                                    self.way], layout=widgets.Layout(display="none"))
        self.unread = widgets.HBox([_label("patient"), self.load])
        left = widgets.VBox([
            self.run, self.prior, self.dimension, widgets.HBox([_label("sweep"), self.play]),
            widgets.HBox([_label("start"), self.mean, self.random, self.reset]),
            widgets.HBox([_label("mean of"), self.group, self.phase]), self.unread, self.chosen,
            self.listed, self.fold, self.measures,
        ], layout=widgets.Layout(width="410px", flex="0 0 auto"))
        return widgets.HBox([left, widgets.VBox([
            widgets.HBox([self.heart, plane]), self.strip, widgets.HBox([influence, histogram]),
            self.downloads, self.message, self.note])])

    # ------------------------------------------------------------------------------ actions
    def _act(self, act: Callable[[], None]) -> None:
        """Do what a control asks for, then show where that leads; say so if it cannot be done."""
        with self._one_at_a_time:
            if not self._following:
                return
            self.message.value = ""
            try:
                act()
            except (ValueError, OSError) as error:
                self.message.value = f"<b>{html.escape(str(error))}</b>"
            self.refresh()

    @contextlib.contextmanager
    def _set_controls(self):
        """Within this, changed controls are not moves of a hand."""
        with self._one_at_a_time:
            before, self._following = self._following, False
            try:
                yield
            finally:
                self._following = before

    def _open(self, index: int) -> None:
        """Show a run of the list.

        A patient's slice and the mean of a group are where the same walk starts in the new run;
        else the place that each slider has in the list keeps its value. The prior is kept too, if
        the new run has it.
        """
        kind = self.state.prior.kind
        try:
            atlas = self._read(index)
            self.state.open(atlas)
        except (ValueError, OSError):
            with self._set_controls():
                self.run.value = self._opened
            raise
        self._opened = index
        if lost := self.state.prior.kind != kind:
            self.message.value = f"this run has no {TITLES[kind]}: it opens with N(0, I)"
        values = [slider.value for slider in self.sliders]
        if self._start_again:
            try:
                self._start_again()
            except (ValueError, OSError) as error:  # then it opens at its mean heart
                self._start_again = None
                self.message.value = f"<b>{html.escape(str(error))}</b>"
        elif len(values) == self.state.latent_dim and not lost:
            self.state.u = np.array(values)[np.argsort(self.state.order)]
        elif values and not lost:
            self.message.value = (f"this run has {self.state.latent_dim} latent dimensions, the "
                                  f"last one had {len(values)}: it opens at its mean heart")
        self._show_coordinates()

    def _use(self, kind: str) -> None:
        """Draw from a prior, move along its axes, and start at its mean heart."""
        self.state.use(kind)
        self._start_is(None)
        self._show_coordinates()

    def _show_coordinates(self) -> None:
        """Panels, sliders and words for what the sliders of this run move along."""
        state, atlas = self.state, self.state.atlas
        self._panels = [Live(kind, atlas, state.coordinates) for kind in self.pictures]
        with self._set_controls():
            self.prior.options = [
                (TITLES[kind] + (" · axes" if kind != "standard" else ""), kind)
                for kind in atlas.priors]
            self.prior.value = state.prior.kind
            self.prior.layout.display = "none" if len(atlas.priors) == 1 else ""
            self._list_means()
            self._name_sliders()
        fitted = state.prior.kind != "standard"
        of = f"the {state.prior.title}" if fitted else state.prior.title
        self.mean.tooltip = f"start from the mean of {of}"
        self.random.tooltip = f"start from a sample of {of}"
        axes = (f"Axes: principal axes of {of}, in its standard deviations; the first tell most of "
                "a slice. " if fitted else "")
        error = atlas.umap["error_p90"]
        self.note.value = (
            f'<div class="cvae-measures">{html.escape(atlas.stamp)}. {axes}UMAP plane: mean of the '
            f"nearest training slices; dashed circle: 90 % of points lie within {error:.2f} of "
            f"where UMAP itself puts them (median {atlas.umap['error_median']:.2f}).</div>")

    def _list_means(self) -> None:
        """The groups and phases of this run's training slices; a choice that is there stays."""
        groups, phases = self.state.atlas.groups, self.state.atlas.phases
        all_known = set(self.state.atlas.table["phase"]) == set(phases)
        every = " and ".join(phases) if all_known else "any phase"
        one_alone = all_known and len(phases) == 1
        for menu, options in (
                (self.group, [("choose group", "-"), ("all", ""), *((g, g) for g in groups)]),
                (self.phase, [(every, ""), *((p, p) for p in phases if not one_alone)])):
            chosen = menu.value
            menu.options = options
            menu.value = chosen if chosen in dict(options).values() else options[0][1]

    def _name_sliders(self) -> None:
        """One slider a coordinate, named, the inactive ones folded away."""
        state, named = self.state, self.state.coordinates.name
        if len(self.sliders) != state.latent_dim:
            layout, style = widgets.Layout(width="380px"), {"description_width": "210px"}
            self.sliders = [widgets.FloatSlider(min=-LIMIT, max=LIMIT, step=STEP, style=style,
                                                layout=layout, readout_format=".1f")
                            for _ in range(state.latent_dim)]
            for place, slider in enumerate(self.sliders):
                slider.add_class("cvae-slider")
                slider.observe(lambda change, place=place: self._move(place, change["new"]),
                               "value")
        for d, slider in zip(state.order, self.sliders):
            slider.description = slider.tooltip = named(d)
        active = len(state.coordinates.active)
        self.listed.children = self.sliders[:active]
        self.folded.children = self.sliders[active:]
        plural = {"dimension": "dimensions", "axis": "axes"}[state.coordinates.noun]
        self.fold.set_title(0, f"{state.latent_dim - active} inactive {plural}")
        self.fold.layout.display = "none" if active == state.latent_dim else ""
        self.dimension.description = state.coordinates.noun
        self.dimension.options = [(named(d), d) for d in state.order]

    def _move(self, place: int, value: float) -> None:
        dimension, value = self.state.order[place], round(value, 1)
        # A browser answers a slider that is set here with the same value but for the last digits.
        if value != self._shown(dimension):
            self._act(lambda: self.state.move(dimension, value))

    def _shown(self, dimension: int) -> float:
        """Where the slider of a coordinate stands: at its end if the value is beyond."""
        return round(float(np.clip(self.state.u[dimension], -LIMIT, LIMIT)), 1)

    def _select(self) -> None:
        self.state.dimension = self.dimension.value

    def _start_play(self, change) -> None:
        """Let a sweep go on from where the slider is."""
        if change["new"]:
            frame = int(np.abs(SWEEP - self.state.u[self.state.dimension]).argmin())
            with self._set_controls():
                self.play.value = frame

    def _play(self) -> None:
        self.state.move(self.state.dimension, SWEEP[self.play.value])

    def _to_mean(self) -> None:
        self.state.to_mean()
        self._start_is(None)

    def _to_random(self) -> None:
        self.state.to_random(self.generator)
        self._start_is(None)

    def _to_group(self) -> None:
        if self.group.value != "-":
            self.state.to_group(self.group.value, self.phase.value)
            self._start_is(self._to_group)

    def _start_is(self, again: Callable[[], None] | None) -> None:
        """Remember how to start so in another run. Other lists are emptied, so that the same entry
        can be chosen again."""
        self._start_again = again
        with self._set_controls():
            if again != self._to_group:
                self.group.value = "-"
            if again != self._to_slice:
                self.patient.value = None
                self.slice.options = ()

    def _load(self) -> None:
        self.message.value = "reading the label data ..."
        slices = self.state.load_labels()
        patients = slices.table.drop_duplicates("patient")
        with self._set_controls():
            self.patient.options = [
                (row.patient + (f" ({row.group})" if row.group != UNKNOWN else ""), row.patient)
                for row in patients.itertuples()]
            self.patient.value = None
        self.unread.layout.display, self.chosen.layout.display = "none", ""
        self.message.value = (f"{len(patients)} patients ({slices.source}): choose one to start "
                              "from")

    def _list_slices(self) -> None:
        """The slices of the chosen patient: those at ED, with their row at ES if there is one; then
        those at ES alone, and those whose phase is not known."""
        table = self.state.slices.table
        rows = table[table["patient"] == self.patient.value]
        names = [f"{scan}, slice {k}".removeprefix(", ")
                 for scan, k in zip(rows["scan"], rows["slice_index"])]
        ed, es, other = ({name: i for name, i, phase in zip(names, rows.index, rows["phase"])
                          if phase == chosen} for chosen in ("ED", "ES", UNKNOWN))
        options = [(f"{name}, ED and ES" if name in es else f"{name}, ED only",
                    (i, es.get(name))) for name, i in ed.items()]
        options += [(f"{name}, ES only", (i, None)) for name, i in es.items() if name not in ed]
        options += [(name, (i, None)) for name, i in other.items()]
        with self._set_controls():
            self.slice.options = options
            self.slice.index = len(options) // 2
        self._to_slice()

    def _to_slice(self) -> None:
        if self.slice.value:
            self.state.to_slice(*self.slice.value)
            self._start_is(self._to_slice)

    # ----------------------------------------------------------------------------- pictures
    def refresh(self) -> None:
        """Draw what there is to see, and bring every control to where the state is."""
        view = self.state.view()
        self.draw(view)
        self.follow(view)

    def draw(self, view: View) -> None:
        """Send the pictures of a view to the browser, the heart first."""
        self.heart.value = panels.png(panels.heart_picture(view))
        if self._drawn_strip[0] is not view.strip:  # while one dimension moves, it stays
            self._drawn_strip = view.strip, panels.strip_background(view.strip)
        self.strip.value = panels.png(panels.strip_picture(self._drawn_strip[1], view.value))
        for image, live in zip(self.pictures.values(), self._panels):
            image.value = live.png(view)
        self.measures.value = panels.measures_html(view.measures)

    def follow(self, view: View) -> None:
        """Bring sliders and lists to the state."""
        state = self.state
        with self._set_controls():
            for d, slider in zip(state.order, self.sliders):
                if round(slider.value, 1) != self._shown(d):
                    slider.value = self._shown(d)
                selected = "cvae-selected" in slider._dom_classes
                if selected != (d == view.dimension):
                    (slider.remove_class if selected else slider.add_class)("cvae-selected")
            self.dimension.value = view.dimension
            self.way.disabled, self.way.value = not state.has_way, state.share

    def figure(self) -> Figure:
        """All panels in one still figure."""
        state = self.state
        name = state.coordinates.name(state.dimension).replace("  ", ", ")
        return panels.twin(state.view(), state.atlas, rf"$\beta$ = {state.atlas.beta:g}, started "
                           f"from {state.start_name}: {name}")

    # ------------------------------------------------------------------------------ exports
    def export_png(self) -> Path:
        """The heart as a picture, with the outline of the start."""
        path = self._file("heart", "png")
        path.write_bytes(panels.png(panels.heart_picture(self.state.view())))
        return path

    def export_nifti(self) -> Path:
        """The heart as a label map, (S, S, 1) uint8, axes L and P as in ACDC.

        The pixel size is that of the slice it started from; a generated heart has none, and gets
        that of the training slices' median crop. Which of the two is written into the header.
        """
        state, path = self.state, self._file("heart", "nii.gz")
        label_map = state.decode()
        crop_mm = state.crop_mm or float(state.atlas.table["crop_mm"].median())
        spacing = crop_mm / len(label_map)
        # Rows are y and columns x: turned back, the array has the axes (x, y).
        image = nibabel.Nifti1Image(label_map.T[:, :, None], np.diag([-spacing, -spacing, 1, 1]))
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = (b"pixel size of the slice it started from" if state.crop_mm else
                                   b"pixel size: median of the training slices")
        nibabel.save(image, path)
        return path

    def export_gif(self) -> Path:
        """The sweep of the selected coordinate through the current heart, as an endless GIF."""
        label = self.state.coordinates.label(self.state.dimension)
        path = self._file(f"sweep-{label.replace(' ', '')}", "gif")
        frames = [Image.fromarray(colourise(heart)).resize((GIF_PIXELS, GIF_PIXELS), Image.NEAREST)
                  for heart in self.state.sweep(GIF_FRAMES)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=GIF_MS, loop=0)
        return path

    def export_panels(self) -> Path:
        """All panels as one figure."""
        path = self._file("panels", "png")
        save_figure(self.figure(), path)
        return path

    def _file(self, kind: str, ending: str) -> Path:
        self.exports.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return self.exports / f"{self.state.atlas.name}-{kind}-{stamp}.{ending}"

    def _say(self, path: Path) -> None:
        self.message.value = f"written: <code>{html.escape(str(path))}</code>"
