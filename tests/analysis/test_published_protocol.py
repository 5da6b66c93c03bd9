"""Numbers as published work counts them."""

from dataclasses import replace

import numpy as np
import pytest
from hearts import square_heart

from cvae_utils.analysis import latent_priors, published_protocol, refinement
from cvae_utils.analysis.published_protocol import dice_counting_empty, valid_with_lv
from cvae_utils.model import encoding


def test_what_is_absent_from_both_maps_counts_one():
    a, b = np.zeros((2, 2, 4, 4), dtype=np.uint8)
    a[0, 0, :2], b[0, 0, 1:3] = 3, 3  # Dice 1/2 of LV; RV and MYO absent; the second slice is empty
    assert dice_counting_empty(a, b) == pytest.approx((1 + 1 + 1 / 2 + 3) / 6)


def test_validity_is_counted_among_maps_with_an_lv():
    whole, broken, empty = square_heart(), square_heart(), 0 * square_heart()
    broken[20, 26:30] = 0
    assert valid_with_lv(np.stack([whole, broken, empty])) == 1 / 2


def test_a_run_is_scored_once(run, slices, split, tmp_path):
    own = replace(run, folder=tmp_path)
    dice = published_protocol.rebuilt(own, slices, split)
    valid = published_protocol.valid_samples(own, "gaussian", slices, split)
    part, prior = slices.aligned[split["test"]], latent_priors.of(own, "gaussian", slices, split)
    points = {"test": encoding.encode(run.model, part).mu,
              "refined": refinement.refine(run.model, part, prior, run.config["beta"])}
    assert dice == {f"{name}_dice": dice_counting_empty(encoding.decode(run.model, z), part)
                    for name, z in points.items()}
    assert valid == valid_with_lv(encoding.decode(run.model, prior.sample(20, 0)))
    unable = replace(own, model=None)
    assert published_protocol.rebuilt(unable, slices, split) == dice
    assert published_protocol.valid_samples(unable, "gaussian", slices, split) == valid
    for kind, seed in (("standard", 0), ("gaussian", 1)):  # these are measured anew
        with pytest.raises(AttributeError):
            published_protocol.valid_samples(replace(unable, config=run.config | {"seed": seed}),
                                             kind, slices, split)
