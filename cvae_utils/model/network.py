"""The networks: the report's, after Painchaud et al., IEEE TMI 39(11), 2020, and a sharper one."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae_utils.labels import CLASS_COUNT

#: Without the KL term nothing holds the log-variance, and its exponential must stay finite.
LOGVAR_RANGE = (-30.0, 20.0)
#: Points a side of the grid on which FieldVAE draws its fields.
FIELD = 32


class VAE(nn.Module):
    """Label map -> N(mu, diag exp logvar) over Z latent dimensions -> class scores.

    size S: side of the label maps in pixels. The layers are those of ConvVAE or FieldVAE.
    """

    def __init__(self, size: int, base_channels: int, latent_dim: int):
        super().__init__()
        self.size, self.base_channels, self.latent_dim = size, base_channels, latent_dim

    def encode(self, one_hot: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 4, S, S) -> mu, logvar of q(z|x), each (N, Z)."""
        hidden = self.encoder(one_hot).flatten(1)
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


class ConvVAE(VAE):
    """The report's network: all convolutions, as many pixels as the label maps have.

    size S: a multiple of 16. base_channels C: channels of the first encoder block (48 in the
    report, at S = 256). latent_dim Z: 32 in the report.
    """

    def __init__(self, size: int = 256, base_channels: int = 48, latent_dim: int = 32):
        super().__init__(size, base_channels, latent_dim)
        if size % 16:
            raise ValueError(f"size: expected a multiple of 16, found {size}")
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


class FieldVAE(VAE):
    """A network of smooth fields: class scores on a grid of 32 x 32, bicubic between its points.

    An outline is where two fields cross. It can lie between pixels, is smooth, and can be drawn at
    any size: the weights do not depend on S. Most layers are linear ones, which see the whole
    picture at once, as the size, place and angle of a heart want it; the others work on few
    pixels, which is fast. base_channels C: channels of the decoder at 32 x 32.
    """

    def __init__(self, size: int = 64, base_channels: int = 16, latent_dim: int = 32):
        super().__init__(size, base_channels, latent_dim)
        c, width = base_channels, 16 * base_channels
        self.bottom = (4 * c, FIELD // 4, FIELD // 4)
        self.encoder = nn.Sequential(                    # (N, 4, S, S)
            nn.AdaptiveAvgPool2d(FIELD), nn.Flatten(),   # (N, 4 * 32 * 32), shares of the classes
            nn.Linear(CLASS_COUNT * FIELD**2, width), Residual(width), Residual(width),
        )                                                # (N, 16C)
        self.to_mu = nn.Linear(width, latent_dim)
        self.to_logvar = nn.Linear(width, latent_dim)
        self.from_z = nn.Sequential(                     # (N, Z)
            nn.Linear(latent_dim, width), Residual(width), Residual(width),  # (N, 16C)
            nn.Linear(width, 4 * c * (FIELD // 4)**2),   # (N, 4C * 8 * 8)
        )
        self.decoder = nn.Sequential(                    # (N, 4C, 8, 8)
            nn.SiLU(), nn.Conv2d(4 * c, 4 * c, 3, padding=1), nn.SiLU(),
            Upsample(4 * c, 2 * c), nn.SiLU(),           # (N, 2C, 16, 16)
            nn.Conv2d(2 * c, 2 * c, 3, padding=1), nn.SiLU(),
            Upsample(2 * c, c), nn.SiLU(),               # (N, C, 32, 32)
            nn.Conv2d(c, c, 3, padding=1), nn.SiLU(),
            nn.Conv2d(c, CLASS_COUNT, 3, padding=1),     # (N, 4, 32, 32)
        )

    def decode(self, z: Tensor, size: int = 0) -> Tensor:
        """(N, Z) -> class scores before the soft-max, (N, 4, S, S), or of another size."""
        return bicubic(super().decode(z), size or self.size)


class Residual(nn.Module):
    """x + f(x), f: layer norm, linear, SiLU, linear; (N, W) -> (N, W). Begins as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.change = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width))
        nn.init.zeros_(self.change[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def one_hot(label_maps: Tensor) -> Tensor:
    """Label maps (N, S, S), any integer type -> (N, 4, S, S) float32 in channels-last layout."""
    classes = torch.arange(CLASS_COUNT, dtype=label_maps.dtype, device=label_maps.device)
    return (label_maps[..., None] == classes).permute(0, 3, 1, 2).float()


def bicubic(x: Tensor, size: int, align_corners: bool = False) -> Tensor:
    """Pictures (N, C, H, H) -> (N, C, size, size), as functional.interpolate gives them.

    By rows and by columns, as two products of matrices: several times as fast on a CPU.
    """
    matrix = bicubic_matrix(x.shape[-1], size, align_corners).to(x)
    return matrix @ x @ matrix.T


def bicubic_matrix(side: int, size: int, align_corners: bool = False) -> Tensor:
    """What a column of `side` values is multiplied by to become `size` values, (size, side)."""
    return functional.interpolate(torch.eye(side)[None, None], size=(size, side), mode="bicubic",
                                  align_corners=align_corners)[0, 0]


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


#: The networks that a profile can name.
NETWORKS = {"conv": ConvVAE, "field": FieldVAE}


def build_model(profile: dict) -> VAE:
    """An untrained model of a profile's network, size, base_channels and latent_dim; of a profile
    that names no network, as runs of former times do, the report's."""
    return NETWORKS[profile.get("network", "conv")](
        profile["size"], profile["base_channels"], profile["latent_dim"])
