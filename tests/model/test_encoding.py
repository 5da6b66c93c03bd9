"""From label maps to latent values and back, and the KL of each dimension."""

import numpy as np
import pytest
import torch

from cvae_utils.model import encoding
from cvae_utils.model.encoding import Posterior
from cvae_utils.model.network import one_hot


def test_slices_are_encoded_and_decoded_whatever_the_batch(untrained, random_maps, monkeypatch):
    with torch.no_grad():
        mu, logvar = untrained.encode(one_hot(torch.from_numpy(random_maps)))
        maps = untrained.decode(mu).argmax(dim=1).numpy()
    for pixels in (encoding.BATCH_PIXELS, 2 * 32**2):  # all at once; 2, 2 and 1
        monkeypatch.setattr(encoding, "BATCH_PIXELS", pixels)
        posterior = encoding.encode(untrained, random_maps)
        assert posterior.mu == pytest.approx(mu.numpy(), abs=1e-5)
        assert posterior.logvar == pytest.approx(logvar.numpy(), abs=1e-5)
        rebuilt = encoding.reconstruct(untrained, random_maps)
        assert rebuilt.dtype == np.uint8 and (rebuilt == maps).mean() > 0.999
    assert encoding.encode(untrained, random_maps[:0]).mu.shape == (0, 6)
    assert encoding.reconstruct(untrained, random_maps[:0]).shape == (0, 32, 32)


@pytest.mark.parametrize(("side", "count"), [(64, 256), (256, 16), (700, 2), (2048, 1)])
def test_batch_holds_a_million_pixels_and_at_least_one_slice(side, count):
    assert encoding.batch_size(side) == count


@pytest.mark.parametrize(("draw", "mean", "deviation"), [
    (lambda seed: encoding.sample_prior(20000, 2, seed), [0, 0], [1, 1]),
    (lambda seed: Posterior(np.tile(np.float32([0, 3]), (20000, 1)),
                            np.tile(np.log(np.float32([1, 0.25])), (20000, 1))).sample(seed),
     [0, 3], [1, 0.5]),
])
def test_samples_have_their_moments_and_one_seed_gives_one_sample(draw, mean, deviation):
    z = draw(1)
    assert z.shape == (20000, 2) and z.dtype == np.float32
    assert z.mean(axis=0) == pytest.approx(mean, abs=0.03)
    assert z.std(axis=0) == pytest.approx(deviation, rel=0.03)
    assert (z == draw(1)).all() and (z != draw(2)).any()


def test_kl_per_dimension_by_hand():
    mu = np.array([[0.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]])
    logvar = np.array([[0.0, 0.0, 1.0, 0.0]] * 2)
    # 0; 1/2; (e - 2) / 2; the mean of 2 and 0
    assert encoding.kl_per_dimension(mu, logvar) == pytest.approx([0, 0.5, (np.e - 2) / 2, 1])
