"""The linear baseline, on maps whose components are known."""

import numpy as np
import pytest
from hearts import picture

from cvae_utils import shape_metrics
from cvae_utils.analysis.principal_components import Pca, signed_distances


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """40 hearts of different cavity, wall and RV, (40, 32, 32), on disk."""
    sizes = np.random.default_rng(0).uniform(0, 1, (40, 3))
    path = tmp_path_factory.mktemp("hearts") / "maps.npy"
    np.save(path, np.stack([picture(32, cavity=0.08 + 0.1 * a, outer=0.2 + 0.1 * b, rv=0.15 * c)
                            for a, b, c in sizes]))
    return np.load(path, mmap_mode="r")


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


def test_components_are_orthonormal_and_scores_are_projections(pca, hearts):
    components, scores = pca.components.reshape(12, -1), pca.encode(hearts)
    assert components @ components.T == pytest.approx(np.eye(12), abs=1e-5)
    assert scores == pytest.approx((flat(hearts) - pca.mean.ravel()) @ components.T, abs=1e-4)
    white = scores / pca.sd
    assert white.mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert np.cov(white.T) == pytest.approx(np.eye(12), abs=1e-3) and (np.diff(pca.sd) < 0).all()
    assert pca.mean.shape == (32, 32, 4) and pca.components.shape == (12, 32, 32, 4)
    maps = pca.decode(np.zeros((3, 12)))
    assert maps.dtype == np.uint8 and (maps == pca.mean.argmax(axis=-1)).all()
    assert {a.dtype for a in (pca.mean, pca.components, pca.sd, scores)} == {np.dtype(np.float32)}
    assert (Pca.fit(np.array(hearts), 12).components == pca.components).all()


def test_more_components_rebuild_better_and_all_of_them_exactly(hearts):
    pca = Pca.fit(hearts, 39)
    parts = [pca.first(count) for count in (1, 3, 10, 39)]
    dice = [shape_metrics.dice_per_slice(part.decode(part.encode(hearts)), hearts).mean()
            for part in parts]
    assert dice[-1] == 1 and (np.diff(dice) > 0.01).all()
    fitted = Pca.fit(hearts, 10)
    for name in ("mean", "sd"):  # the first ones are those of a smaller fit
        assert getattr(parts[2], name) == pytest.approx(getattr(fitted, name), abs=1e-4), name
    cosines = (parts[2].components * fitted.components).sum(axis=(1, 2, 3))  # the sign is free
    assert parts[2].components == pytest.approx(
        fitted.components * np.sign(cosines)[:, None, None, None], abs=1e-4)


def test_signed_distances_by_hand():
    maps = np.zeros((2, 5, 5), dtype=np.uint8)
    maps[0, 1:4, 1:4] = 3
    found = signed_distances(maps, 2.0)
    assert found.shape == (2, 5, 5, 4) and found.dtype == np.float32
    across = np.array([-0.5, 0.5, 1.5, 0.5, -0.5]) / 2  # along the middle row
    assert found[0, 2, :, 3] == pytest.approx(across)
    assert found[0, 2, :, 0] == pytest.approx(-across)
    assert found[0, 0, 0, 3] == pytest.approx((0.5 - 2**0.5) / 2)
    assert (found[0, ..., 1] == -1).all() and (found[1, ..., 0] == 1).all()


def test_distance_maps_rebuild_unseen_hearts_better_than_one_hot_maps(hearts):
    training, validation, unseen = np.split(np.array(hearts), [24, 32])
    found = [Pca.fit(training, 3), Pca.fit_distances(training, validation, [3], (1.0, 4.0))[3]]
    dice = [shape_metrics.dice_per_slice(fit.decode(fit.encode(unseen)), unseen).mean()
            for fit in found]
    assert dice[1] > dice[0] + 0.02 and found[1].first(2).clip == found[1].clip
    scores = [shape_metrics.dice_per_slice(fit.decode(fit.encode(validation)), validation).mean()
              for fit in (Pca.fit(training, 3, clip) for clip in (1.0, 4.0))]
    assert found[1].clip == (1.0, 4.0)[int(np.argmax(scores))]


@pytest.mark.parametrize(("call", "message"), [
    (lambda pca, maps: Pca.fit(maps[:10], 10),
     "expected 1 to 9, .* 10 slices vary in, found 10; ask for fewer, or fit more slices"),
    (lambda pca, maps: Pca.fit(maps[:10], 0), "expected 1 to .*, found 0"),
    (lambda pca, maps: Pca.fit(maps[:1], 1), "expected 1 to 0, .* 1 slices vary in, found 1"),
    (lambda pca, maps: pca.first(0), "expected 1 to 12, .* found 0; fit with more"),
    (lambda pca, maps: pca.first(13), "expected 1 to 12, .* found 13; fit with more"),
    (lambda pca, maps: pca.encode(maps[:2, :16, :16]), r"\(N, 32, 32\), found \(2, 16, 16\)"),
])
def test_what_cannot_be_done_is_refused(pca, hearts, call, message):
    with pytest.raises(ValueError, match=message):
        call(pca, hearts)
