"""The network: its shapes, its size, its gradients, and what goes in."""

import copy

import pytest
import torch
from torch import nn

from cvae_utils.model.network import ConvVAE, FieldVAE, Upsample, bicubic, one_hot


@pytest.mark.parametrize(("size", "channels", "latent"), [(32, 4, 6), (64, 2, 3), (16, 3, 32)])
def test_shapes_follow_size_channels_and_latent_dimensions(size, channels, latent):
    model = ConvVAE(size, channels, latent)
    pictures = one_hot(torch.zeros(5, size, size, dtype=torch.uint8))
    assert model.encoder(pictures).shape == (5, 8 * channels, size // 16, size // 16)
    scores, mu, logvar = model(pictures, torch.zeros(5, latent))
    assert scores.shape == (5, 4, size, size)
    assert mu.shape == logvar.shape == (5, latent)
    assert model.decode(torch.zeros(1, latent)).shape == (1, 4, size, size)
    with pytest.raises(ValueError, match=f"multiple of 16, found {size + 1}"):
        ConvVAE(size + 1, channels, latent)


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


# --------------------------------------------------------------------------------- smooth fields
@pytest.mark.parametrize(("size", "channels", "latent"), [(32, 2, 3), (64, 4, 8), (48, 2, 3)])
def test_fields_have_the_shapes_of_the_other_network(size, channels, latent):
    model = FieldVAE(size, channels, latent)
    scores, mu, logvar = model(one_hot(torch.zeros(5, size, size, dtype=torch.uint8)),
                               torch.zeros(5, latent))
    assert scores.shape == (5, 4, size, size) and mu.shape == logvar.shape == (5, latent)


def test_fields_are_one_function_at_every_size():
    """The same weights at twice the size: the same z, and outlines in the same place."""
    torch.manual_seed(0)
    small, large = FieldVAE(64, 4, 6).eval(), FieldVAE(128, 4, 6).eval()
    large.load_state_dict(small.state_dict())
    maps = torch.zeros(2, 64, 64, dtype=torch.uint8)
    maps[0, 20:40, 20:40], maps[1, 10:50, 30:40] = 2, 3
    twice = maps.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    with torch.no_grad():
        mu, expected = (model.encode(one_hot(part))[0]
                        for model, part in ((small, maps), (large, twice)))
        torch.testing.assert_close(mu, expected)
        z = 3 * torch.randn(4, 6)
        assert torch.equal(small.decode(z, 128), large.decode(z))
        averaged = nn.functional.avg_pool2d(large.decode(z), 2)
        assert (averaged - small.decode(z)).abs().max() < 0.05 * small.decode(z).std()


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [5, 32, 100])
def test_bicubic_is_that_of_torch(size, corners):
    pictures = torch.randn(3, 2, 16, 16)
    torch.testing.assert_close(bicubic(pictures, size, corners), nn.functional.interpolate(
        pictures, size=(size, size), mode="bicubic", align_corners=corners), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_one_hot_has_one_channel_a_class_last_in_memory(dtype):
    encoded = one_hot(torch.tensor([[[0, 1], [2, 3]]], dtype=dtype))
    assert encoded.shape == (1, 4, 2, 2) and encoded.dtype == torch.float32
    assert encoded.flatten(2)[0].tolist() == torch.eye(4).tolist()
    assert encoded.is_contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------ faster, and the same as plain
def test_upsampling_by_hand():
    """One channel in, one out: every pixel becomes itself times the weights, plus the bias."""
    layer = Upsample(1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[1, 2], [3, 4]]]]))
        layer.bias.fill_(0.5)
        found = layer(torch.tensor([[[[1.0, 10.0]]]]))
    assert found.tolist() == [[[[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5]]]]


def plain(model):
    """The same network of torch's own layers, none in place."""
    other = copy.deepcopy(model)
    for sequence in (other.encoder, other.decoder):
        for number, layer in enumerate(sequence):
            if isinstance(layer, nn.ELU):
                sequence[number] = nn.ELU()
            elif isinstance(layer, Upsample):
                sequence[number] = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 2,
                                                      stride=2).to(layer.weight)
                sequence[number].load_state_dict(layer.state_dict())
    assert [type(layer) for layer in other.decoder].count(nn.ConvTranspose2d) == 4
    return other


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_model_has_the_outputs_and_gradients_of_the_plain_network(layout):
    torch.manual_seed(0)
    model = ConvVAE(32, 3, 5).double().to(memory_format=layout)
    pictures = one_hot(torch.randint(0, 4, (3, 32, 32))).double().requires_grad_()
    noise, found = torch.randn(3, 5, dtype=torch.float64), []
    for network in (model, plain(model)):
        outputs = network(pictures, noise)
        # Each number with a weight of its own.
        total = sum((out * torch.cos(0.3 * torch.arange(out.numel()).view_as(out))).sum()
                    for out in outputs)
        slopes = torch.autograd.grad(total, [pictures, *network.parameters()])
        assert all(slope.abs().max() > 0 for slope in slopes)
        found.append([*outputs, *slopes])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_log_variance_stays_in_a_range_whose_exponential_is_finite():
    model = ConvVAE(16, 2, 3)
    with torch.no_grad():
        model.to_logvar.bias.copy_(torch.tensor([1e6, -1e6, 0.5]))
    logvar = model.encode(torch.zeros(1, 4, 16, 16))[1][0]
    assert logvar[:2].tolist() == [20, -30] and logvar[2] != 0
