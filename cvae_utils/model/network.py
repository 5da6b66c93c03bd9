"""The report's convolutional VAE, after Painchaud et al., IEEE TMI 39(11), 2020."""

import torch
from torch import Tensor, nn

from cvae_utils.labels import CLASS_COUNT

#: Without the KL term nothing holds the log-variance, and its exponential must stay finite.
LOGVAR_RANGE = (-30.0, 20.0)


class ConvVAE(nn.Module):
    """Label map -> N(mu, diag exp logvar) over Z latent dimensions -> class scores.

    size S: side of the label maps in pixels, a multiple of 16. base_channels C: channels of the
    first encoder block (48 in the report, at S = 256). latent_dim Z: 32 in the report.
    """

    def __init__(self, size: int = 256, base_channels: int = 48, latent_dim: int = 32):
        super().__init__()
        if size % 16:
            raise ValueError(f"size: expected a multiple of 16, found {size}")
        self.size, self.base_channels, self.latent_dim = size, base_channels, latent_dim
        c = base_channels
        self.bottom = (8 * c, size // 16, size // 16)
        features = 8 * c * (size // 16) ** 2

        self.encoder = nn.Sequential(       # (N, 4, S, S)
            *_down(CLASS_COUNT, c),         # (N, C, S/2, S/2)
            *_down(c, 2 * c),               # (N, 2C, S/4, S/4)
            *_down(2 * c, 4 * c),           # (N, 4C, S/8, S/8)
            *_down(4 * c, 8 * c)[:-1],      # (N, 8C, S/16, S/16), the last one without ELU
        )
        self.to_mu = nn.Linear(features, latent_dim)
        self.to_logvar = nn.Linear(features, latent_dim)
        self.from_z = nn.Linear(latent_dim, features)
        self.decoder = nn.Sequential(       # (N, 8C, S/16, S/16)
            nn.ELU(),
            *_up(8 * c, 4 * c),             # (N, 4C, S/8, S/8)
            *_up(4 * c, 2 * c),             # (N, 2C, S/4, S/4)
            *_up(2 * c, c),                 # (N, C, S/2, S/2)
            *_up(c, c),                     # (N, C, S, S)
            nn.Conv2d(c, CLASS_COUNT, 3, padding=1),  # (N, 4, S, S)
        )

    def encode(self, one_hot: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 4, S, S) -> mu, logvar of q(z|x), each (N, Z)."""
        hidden = self.encoder(one_hot).flatten(1)  # (N, 8C * S/16 * S/16)
        return self.to_mu(hidden), self.to_logvar(hidden).clamp(*LOGVAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """(N, Z) -> class scores before the soft-max, (N, 4, S, S)."""
        return self.decoder(self.from_z(z).unflatten(1, self.bottom))

    def forward(self, one_hot: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reparametrised pass: z = mu + exp(logvar / 2) * noise, noise ~ N(0, I), (N, Z).

        Returns scores (N, 4, S, S), mu (N, Z), logvar (N, Z).
        """
        mu, logvar = self.encode(one_hot)
        return self.decode(mu + torch.exp(0.5 * logvar) * noise), mu, logvar


def one_hot(label_maps: Tensor) -> Tensor:
    """Label maps (N, S, S), any integer type -> (N, 4, S, S) float32 in channels-last layout."""
    classes = torch.arange(CLASS_COUNT, dtype=label_maps.dtype, device=label_maps.device)
    return (label_maps[..., None] == classes).permute(0, 3, 1, 2).float()


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution 2x2 with stride 2: (N, C, H, W) -> (N, O, 2H, 2W).

    Its windows do not overlap, so every pixel becomes 2 x 2 by one matrix product: on the CPU it
    is computed as a 1x1 convolution whose 4 O channels are then laid out, because the gradient of
    the weights of a transposed convolution is several times slower there. The result is the same.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        n, c, h, w = x.shape
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, c, 1, 1)       # (2 * 2 * O, C, 1, 1)
        pixels = nn.functional.conv2d(x, weight, self.bias.repeat(4))       # (N, 2 * 2 * O, H, W)
        pixels = pixels.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, self.out_channels)
        return (pixels.transpose(2, 3)                                      # (N, H, 2, W, 2, O)
                .reshape(n, 2 * h, 2 * w, self.out_channels).permute(0, 3, 1, 2))


# ELU in place: the convolution before it does not need its own output for the gradient, so this
# saves memory. Not after Upsample, whose result is a view: autograd would copy it back and forth.
def _down(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), nn.ELU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.ELU(inplace=True),
    ]


def _up(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        Upsample(channels_in, channels_out), nn.ELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.ELU(inplace=True),
    ]


def build_model(profile: dict) -> ConvVAE:
    """An untrained model of a profile's size, base_channels and latent_dim."""
    return ConvVAE(profile["size"], profile["base_channels"], profile["latent_dim"])
