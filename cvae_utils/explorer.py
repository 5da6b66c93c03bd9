"""Sliders: choose a latent dimension, move it, and see the heart that the decoder makes of it."""

import io

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw

from cvae_utils import latents
from cvae_utils.figures import tile
from cvae_utils.labels import colourise
from cvae_utils.train import Run

HEART_PIXELS = 288
STRIP_STEPS = 9


def png(rgb: np.ndarray, height: int, mark: tuple[int, int] | None = None) -> bytes:
    """RGB picture (H, W, 3) -> PNG bytes, enlarged to `height` without smoothing.

    mark: first and last column, in pixels of the small picture, to underline in black.
    """
    # Pillow and not pyplot: widget callbacks run in a thread of their own, where pyplot loses
    # pictures, and this is also faster.
    scale = height / rgb.shape[0]
    picture = Image.fromarray(rgb).resize((round(rgb.shape[1] * scale), height), Image.NEAREST)
    if mark:
        ImageDraw.Draw(picture).rectangle(
            (mark[0] * scale, height - 5, mark[1] * scale, height), fill="black")
    buffer = io.BytesIO()
    picture.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


class SliderPanel:
    """Any latent dimension from -3 to 3: the decoded heart beside the dimension's traversal.

    names: {dimension: text}, in the order of the drop-down list, most influential first. `widget`
    is what a notebook displays.
    """

    def __init__(self, run: Run, names: dict[int, str]):
        self.run = run
        self.z = np.zeros((1, run.model.latent_dim), dtype=np.float32)
        self.dimension = widgets.Dropdown(
            options=[(f"z{d}  {name}", d) for d, name in names.items()], description="dimension",
            layout=widgets.Layout(width="360px"))
        self.value = widgets.FloatSlider(
            min=-latents.LIMIT, max=latents.LIMIT, step=0.1, description="value",
            continuous_update=True, layout=widgets.Layout(width="360px"))
        self.keep = widgets.Checkbox(description="keep the other dimensions where they are",
                                     indent=False)
        self.reset = widgets.Button(description="mean heart")
        self.heart, self.strip = (
            widgets.Image(format="png", layout=widgets.Layout(border="1px solid #CCCCCC"))
            for _ in range(2))
        self.heart.add_class("cvae-heart")
        self.strip.add_class("cvae-strip")
        self.dimension.observe(self._choose, names="value")
        self.value.observe(self._move, names="value")
        self.reset.on_click(self._to_mean)
        self.widget = widgets.HBox([
            self.heart,
            widgets.VBox([self.dimension, self.value, widgets.HBox([self.keep, self.reset]),
                          self.strip]),
        ])
        self._choose()

    def _choose(self, _=None) -> None:
        """Another dimension: bring the slider to its value and draw its traversal."""
        if not self.keep.value:
            self.z[:] = 0
        d = self.dimension.value
        path = np.repeat(self.z, STRIP_STEPS, axis=0)
        path[:, d] = np.linspace(-latents.LIMIT, latents.LIMIT, STRIP_STEPS)
        self._strip = tile(latents.decode(self.run.model, path)[None])
        before, self.value.value = self.value.value, round(float(self.z[0, d]), 1)
        if before == self.value.value:
            self._draw()  # the slider did not move, so it has not called _move

    def _move(self, _=None) -> None:
        self.z[0, self.dimension.value] = self.value.value
        self._draw()

    def _to_mean(self, _=None) -> None:
        self.z[:] = 0
        keep, self.keep.value = self.keep.value, False
        self._choose()
        self.keep.value = keep

    def _draw(self) -> None:
        side = self.run.model.size
        heart = latents.decode(self.run.model, self.z)[0]
        self.heart.value = png(colourise(heart), HEART_PIXELS)
        share = (self.value.value + latents.LIMIT) / (2 * latents.LIMIT)
        left = 2 + round(share * (STRIP_STEPS - 1)) * (side + 2)
        self.strip.value = png(self._strip, 76, mark=(left, left + side))
