"""The network: its shapes, its size, and what goes in."""

import pytest
import torch
from torch import nn

from cvae_utils.model import ConvVAE, one_hot


@pytest.mark.parametrize(("size", "channels", "latent"), [(32, 4, 6), (64, 2, 3), (16, 3, 32)])
def test_shapes_follow_size_channels_and_latent_dimensions(size, channels, latent):
    model = ConvVAE(size, channels, latent)
    pictures = one_hot(torch.zeros(5, size, size, dtype=torch.uint8))
    assert model.encoder(pictures).shape == (5, 8 * channels, size // 16, size // 16)
    scores, mu, logvar = model(pictures, torch.zeros(5, latent))
    assert scores.shape == (5, 4, size, size)
    assert mu.shape == logvar.shape == (5, latent)
    assert model.decode(torch.zeros(1, latent)).shape == (1, 4, size, size)


def test_model_of_the_report_has_the_parameters_of_its_layers():
    def conv(channels_in, channels_out, side=3):
        return channels_in * channels_out * side**2 + channels_out

    bottom = 384 * 16 * 16
    encoder = sum(conv(a, b) + conv(b, b) for a, b in ((4, 48), (48, 96), (96, 192), (192, 384)))
    linear = 2 * (bottom * 32 + 32) + 32 * bottom + bottom
    decoder = sum(conv(a, b, side=2) + conv(b, b)
                  for a, b in ((384, 192), (192, 96), (96, 48), (48, 48)))
    with torch.device("meta"):  # shapes without values
        model = ConvVAE(256, 48, 32)
    found = sum(p.numel() for p in model.parameters())
    assert found == encoder + linear + decoder + conv(48, 4)
    assert model.bottom == (384, 16, 16)


@pytest.mark.parametrize("size", [40, 65])
def test_size_that_is_no_multiple_of_16_is_refused(size):
    with pytest.raises(ValueError, match=f"multiple of 16, found {size}"):
        ConvVAE(size, 4, 4)


def test_features_are_not_bounded_below_as_an_elu_would():
    torch.manual_seed(0)
    model = ConvVAE(32, 4, 6)
    assert isinstance(model.encoder[-1], nn.Conv2d)
    assert sum(isinstance(layer, nn.ELU) for layer in model.encoder) == 7
    with torch.no_grad():
        model.encoder[-1].bias.fill_(-5)
        features = model.encoder(one_hot(torch.randint(0, 4, (2, 32, 32))))
    assert features.min() < -1


def test_noise_is_scaled_by_the_standard_deviation():
    torch.manual_seed(0)
    model = ConvVAE(32, 4, 6).eval()
    pictures, noise = one_hot(torch.randint(0, 4, (3, 32, 32))), torch.randn(3, 6)
    with torch.no_grad():
        model.to_logvar.bias.fill_(1.0)
        scores, mu, logvar = model(pictures, noise)
        expected = model.decode(mu + torch.sqrt(torch.exp(logvar)) * noise)
    assert torch.allclose(scores, expected, atol=1e-6)
    assert not torch.allclose(scores, model.decode(mu), atol=1e-3)


def test_one_hot_has_one_channel_a_class_last_in_memory():
    encoded = one_hot(torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8))
    assert encoded.shape == (1, 4, 2, 2) and encoded.dtype == torch.float32
    assert encoded.flatten(2)[0].tolist() == torch.eye(4).tolist()
    assert encoded.is_contiguous(memory_format=torch.channels_last)
