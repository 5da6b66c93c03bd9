"""Augmentation: what each number does to a heart, and what none of them may do."""

import numpy as np
import pytest
import torch
from hearts import picture

from cvae_utils import shape_metrics
from cvae_utils.model import augmentation
from cvae_utils.model.augmentation import COUNT, NODES, warp
from cvae_utils.model.network import one_hot

HEART = picture(cavity=0.12, outer=0.2, rv=0.15)


def warped(numbers, strength=1.0, heart=HEART):
    maps = torch.from_numpy(np.repeat(heart[None], len(numbers), axis=0))
    found = warp(one_hot(maps), torch.as_tensor(numbers, dtype=torch.float32), strength)
    assert found.shape == (len(numbers), 4, 64, 64) and (found.sum(dim=1) == 1).all()
    return found.argmax(dim=1).numpy().astype(np.uint8)


def numbers(count=1, **chosen):
    found = np.zeros((count, COUNT))
    for name, value in chosen.items():
        found[:, {"angle": 0, "size": 1, "aspect": 2}[name]] = value
    return found


def test_no_numbers_and_no_strength_leave_the_map_as_it_is(random_maps):
    maps = one_hot(torch.from_numpy(random_maps))
    assert torch.equal(warp(maps, torch.zeros(len(maps), COUNT)), maps)
    assert torch.equal(warp(maps, torch.randn(len(maps), COUNT), strength=0.0), maps)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_first_number_turns_the_heart_by_its_angle(strength):
    degrees = 20 / strength
    found = warped(numbers(angle=np.radians(degrees) / augmentation.ANGLE), strength)[0]
    y, x = np.nonzero(found == 1)
    turned = np.degrees(np.arctan2(y.mean() - 31.5, 31.5 - x.mean()))
    assert abs(abs(turned) - 20) < 1  # the RV leaves the horizontal
    areas, expected = (shape_metrics.areas(heart[None])[0] for heart in (found, HEART))
    assert areas == pytest.approx(expected, rel=0.03)


def test_size_and_aspect_scale_areas_and_axes():
    before = shape_metrics.describe(HEART[None]).iloc[0]
    grown = shape_metrics.describe(warped(numbers(size=np.log(1.2) / augmentation.SIZE))).iloc[0]
    assert grown["area_lv_myo"] / before["area_lv_myo"] == pytest.approx(1.44, rel=0.03)
    wide = shape_metrics.describe(warped(numbers(aspect=np.log(1.3) / augmentation.ASPECT))).iloc[0]
    assert wide["extent_x"] / wide["extent_y"] == pytest.approx(1.3, rel=0.03)
    assert wide["area_lv_myo"] / before["area_lv_myo"] == pytest.approx(1, rel=0.03)


def test_equal_displacements_of_all_nodes_shift_the_heart():
    shifted = numbers()
    shifted[0, 3:3 + NODES**2] = -4 / 64 / augmentation.ELASTIC  # x: from 4 further left
    assert np.array_equal(warped(shifted)[0][:, 4:], HEART[:, :-4])


def test_each_heart_has_numbers_of_its_own():
    both = np.concatenate([numbers(), numbers(size=3.0)])
    found = warped(both)
    assert np.array_equal(found[0], HEART) and not np.array_equal(found[1], HEART)


def test_random_deformations_keep_anatomy():
    generator = np.random.default_rng(0)
    found = warped(generator.standard_normal((200, COUNT)))
    assert shape_metrics.is_valid(found).mean() > 0.99
    dice = shape_metrics.dice_per_slice(found, np.repeat(HEART[None], 200, axis=0))
    assert 0.6 < dice.mean() < 0.95  # and yet they are other hearts
