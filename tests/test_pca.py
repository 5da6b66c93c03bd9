"""The linear baseline, on maps whose components are known."""

import numpy as np
import pytest
from hearts import picture

from cvae_utils import metrics
from cvae_utils.pca import Pca


@pytest.fixture(scope="module")
def hearts():
    """40 hearts of different cavity, wall and RV, (40, 32, 32)."""
    sizes = np.random.default_rng(0).uniform(0, 1, (40, 3))
    return np.stack([picture(32, cavity=0.08 + 0.1 * a, outer=0.2 + 0.1 * b, rv=0.15 * c)
                     for a, b, c in sizes])


@pytest.fixture(scope="module")
def pca(hearts):
    return Pca.fit(hearts, 12)


def flat(maps):
    """One-hot maps as rows, (N, 4 S^2)."""
    return np.eye(4)[maps].reshape(len(maps), -1)


def test_two_maps_are_one_component():
    """3 of one and 1 of the other, which differ in 2 pixels: 4 of the one-hot values change."""
    one, other = np.zeros((2, 4, 4), dtype=np.uint8)
    other[1, 2], other[3, 0] = 3, 1
    maps = np.stack([one, one, other, one])
    pca = Pca.fit(maps, 1)
    change = flat(other[None]) - flat(one[None])
    sign = np.sign(pca.components[0, 1, 2, 3])  # which way it points is arbitrary
    assert sign * pca.components.reshape(1, -1) == pytest.approx(change / 2, abs=1e-6)
    assert pca.mean[1, 2] == pytest.approx([0.75, 0, 0, 0.25])
    assert sign * pca.encode(maps)[:, 0] == pytest.approx([-0.5, -0.5, 1.5, -0.5])  # 2 apart
    assert pca.sd == pytest.approx([1])  # sqrt((3 * 0.25 + 2.25) / 3)
    assert (pca.decode(pca.encode(maps)) == maps).all()
    # half way between them, at 0.5, no class is larger, and a little further the other is
    assert (pca.decode(sign * np.array([[0.49], [0.51]])) == [one, other]).all()


def test_components_are_orthonormal_and_scores_uncorrelated(pca, hearts):
    components = pca.components.reshape(12, -1)
    assert components @ components.T == pytest.approx(np.eye(12), abs=1e-5)
    white = pca.encode(hearts) / pca.sd
    assert white.mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert np.cov(white.T) == pytest.approx(np.eye(12), abs=1e-3)


def test_scores_are_projections_and_decoding_turns_them_back(pca, hearts):
    scores = pca.encode(hearts)
    centred = flat(hearts) - pca.mean.ravel()
    assert scores == pytest.approx(centred @ pca.components.reshape(12, -1).T, abs=1e-4)
    values = scores @ pca.components.reshape(12, -1) + pca.mean.ravel()
    by_hand = values.reshape(*hearts.shape, 4).argmax(axis=-1)
    assert (pca.decode(scores) == by_hand).mean() > 0.9999
    assert (pca.decode(np.zeros((1, 12)))[0] == pca.mean.argmax(axis=-1)).all()


def test_more_components_rebuild_better_and_all_of_them_exactly(hearts):
    pca = Pca.fit(hearts, 39)
    dice = []
    for count in (1, 3, 10, 39):
        some = pca.first(count)
        dice.append(metrics.dice_per_slice(some.decode(some.encode(hearts)), hearts).mean())
    assert dice[-1] == 1 and (np.diff(dice) > 0.01).all()


def test_first_components_are_those_of_a_smaller_fit(pca, hearts):
    first, fitted = pca.first(5), Pca.fit(hearts, 5)
    for name in ("mean", "components", "sd"):
        assert getattr(first, name) == pytest.approx(getattr(fitted, name), abs=1e-4), name
    assert first.encode(hearts) == pytest.approx(pca.encode(hearts)[:, :5], abs=1e-5)


def test_shapes_types_and_order(pca, hearts):
    assert pca.mean.shape == (32, 32, 4) and pca.components.shape == (12, 32, 32, 4)
    scores, maps = pca.encode(hearts[:7]), pca.decode(np.zeros((3, 12)))
    assert scores.shape == (7, 12) and maps.shape == (3, 32, 32)
    assert maps.dtype == np.uint8
    assert {a.dtype for a in (pca.mean, pca.components, pca.sd, scores)} == {np.dtype(np.float32)}
    assert (np.diff(pca.sd) < 0).all()


def test_fit_is_reproducible(pca, hearts):
    assert (Pca.fit(hearts, 12).components == pca.components).all()


def test_slices_on_disk_are_read_as_they_are(pca, hearts, tmp_path):
    np.save(tmp_path / "maps.npy", hearts)
    stored = np.load(tmp_path / "maps.npy", mmap_mode="r")
    assert (Pca.fit(stored, 12).sd == pca.sd).all()
    assert (pca.encode(stored) == pca.encode(hearts)).all()


@pytest.mark.parametrize(("maps", "components", "message"), [
    (10, 10, "expected 1 to 9, .* 10 slices vary in, found 10; ask for fewer, or fit more slices"),
    (10, 50, "expected 1 to 9, .* 10 slices vary in, found 50"),
    (10, 0, "expected 1 to .*, found 0"),
    (1, 1, "expected 1 to 0, .* 1 slices vary in, found 1"),
])
def test_more_components_than_slices_are_refused(hearts, maps, components, message):
    with pytest.raises(ValueError, match=message):
        Pca.fit(hearts[:maps], components)


@pytest.mark.parametrize("count", [0, 13])
def test_only_fitted_components_can_be_taken(pca, count):
    with pytest.raises(ValueError, match=f"expected 1 to 12, .* found {count}; fit with more"):
        pca.first(count)


def test_pictures_of_another_size_are_refused(pca):
    with pytest.raises(ValueError, match=r"shape \(N, 32, 32\), found \(2, 16, 16\)"):
        pca.encode(np.zeros((2, 16, 16), dtype=np.uint8))
