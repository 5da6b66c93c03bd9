"""The sliders, moved as a user would."""

import io

import numpy as np
import pytest
from PIL import Image

from cvae_utils import explorer, latents
from cvae_utils.explorer import HEART_PIXELS, STRIP_STEPS, SliderPanel
from cvae_utils.labels import colourise
from cvae_utils.train import Run


@pytest.fixture
def panel(untrained):
    run = Run(untrained, {}, None, None, {}, {})
    return SliderPanel(run, {3: "size", 0: "wall", 1: "RV"})


def decoded(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def heart_of(panel, z):
    """The picture that belongs to z, at the decoder's own size."""
    return colourise(latents.decode(panel.run.model, np.asarray(z, dtype=np.float32)[None])[0])


def shown_heart(panel):
    step = HEART_PIXELS // 32
    return decoded(panel.heart)[step // 2::step, step // 2::step]


def test_panel_opens_on_the_mean_heart_and_the_first_dimension(panel):
    assert panel.dimension.value == 3 and panel.dimension.label == "z3  size"
    assert panel.value.value == 0 and not panel.z.any()
    assert decoded(panel.heart).shape == (HEART_PIXELS, HEART_PIXELS, 3)
    assert (shown_heart(panel) == heart_of(panel, np.zeros(6))).all()
    width = 2 + STRIP_STEPS * 34
    assert decoded(panel.strip).shape == (76, round(width * 76 / 36), 3)


def test_moving_the_slider_shows_the_heart_at_that_value(panel):
    heart, strip = panel.heart.value, panel.strip.value
    panel.value.value = 2.0
    assert panel.z.tolist() == [[0, 0, 0, 2, 0, 0]]
    assert panel.heart.value != heart and panel.strip.value != strip
    assert (shown_heart(panel) == heart_of(panel, [0, 0, 0, 2, 0, 0])).all()


@pytest.mark.parametrize(("value", "step"), [(-3.0, 0), (0.0, 4), (3.0, 8)])
def test_strip_marks_the_step_nearest_to_the_value(panel, value, step):
    panel.value.value = value
    bottom = decoded(panel.strip)[-1]
    black = np.flatnonzero((bottom == 0).all(axis=-1)) * 36 / 76
    assert black.min() == pytest.approx(2 + step * 34, abs=1)
    assert black.max() == pytest.approx(34 + step * 34, abs=1)


def test_another_dimension_starts_from_the_mean_heart(panel):
    panel.value.value = 2.0
    strip = panel.strip.value
    panel.dimension.value = 0
    assert not panel.z.any() and panel.value.value == 0
    assert (shown_heart(panel) == heart_of(panel, np.zeros(6))).all()
    assert panel.strip.value != strip


def test_other_dimensions_are_kept_on_request(panel):
    panel.keep.value = True
    panel.value.value = 2.0
    panel.dimension.value = 1
    assert panel.z.tolist() == [[0, 0, 0, 2, 0, 0]] and panel.value.value == 0
    panel.value.value = -1.5
    assert panel.z.tolist() == [[0, -1.5, 0, 2, 0, 0]]
    assert (shown_heart(panel) == heart_of(panel, [0, -1.5, 0, 2, 0, 0])).all()
    panel.dimension.value = 3  # and back: the slider stands where it was left
    assert panel.value.value == 2 and panel.z.tolist() == [[0, -1.5, 0, 2, 0, 0]]


@pytest.mark.parametrize("keep", [False, True])
def test_reset_brings_back_the_mean_heart(panel, keep):
    panel.keep.value = keep
    panel.value.value = 2.0
    panel.dimension.value = 1
    panel.value.value = -1.0
    panel.reset.click()
    assert not panel.z.any() and panel.value.value == 0 and panel.keep.value == keep
    assert (shown_heart(panel) == heart_of(panel, np.zeros(6))).all()


def test_png_is_enlarged_without_smoothing_and_marked_in_black():
    rgb = np.array([[[255, 0, 0], [0, 255, 0]]] * 2, dtype=np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(explorer.png(rgb, 40, mark=(1, 2)))))
    assert picture.shape == (40, 40, 3)
    assert np.unique(picture[:30].reshape(-1, 3), axis=0).tolist() == [[0, 255, 0], [255, 0, 0]]
    assert (picture[-5:, 20:] == 0).all() and (picture[-5:, :19] == [255, 0, 0]).all()
