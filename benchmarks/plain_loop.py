"""The training loop that projects of this kind usually have: what benchmarks/training.py compares
with. The same layers, loss, data, batch, optimiser and validation as model.training, written
down the straightforward way: float32, one-hot tensors (4, S, S) made sample by sample in a Dataset,
torch's own transposed convolution, and loss terms that are read at every step.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from cvae_utils.data.slices import Slices
from cvae_utils.labels import CLASS_COUNT
from cvae_utils.model.losses import loss_terms
from cvae_utils.model.network import ConvVAE, Upsample
from cvae_utils.model.training import learning_rate_factor
from cvae_utils.profiles import Profile


class PlainVAE(ConvVAE):
    """ConvVAE of torch's own layers; parameters have the same names, values and shapes."""

    def __init__(self, size: int, base_channels: int, latent_dim: int):
        super().__init__(size, base_channels, latent_dim)
        for number, layer in enumerate(self.decoder):
            if isinstance(layer, Upsample):
                plain = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 2, stride=2)
                plain.load_state_dict(layer.state_dict())
                self.decoder[number] = plain
        for layer in self.modules():
            if isinstance(layer, nn.ELU):
                layer.inplace = False


def one_hot(label_map: Tensor) -> Tensor:
    """Label map (S, S) -> (4, S, S) float32; stacked to a batch, it is contiguous (N, 4, S, S)."""
    return functional.one_hot(label_map.long(), CLASS_COUNT).permute(2, 0, 1).float()


class OneHotSlices(Dataset):
    def __init__(self, maps, rows):
        self.maps, self.rows = maps, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return one_hot(torch.from_numpy(self.maps[self.rows[index]]))


def train(profile: Profile, beta: float, slices: Slices, split: dict, device: torch.device,
          seed: int = 0) -> PlainVAE:
    """Train for all epochs of the profile; the model of the epoch with the best validation loss."""
    torch.manual_seed(seed)
    maps = np.array(slices.aligned)  # in memory, as is usual
    on_gpu = device.type == "cuda"
    settings = {"batch_size": profile.batch_size, "num_workers": 4 if on_gpu else 0,
                "pin_memory": on_gpu}
    training = DataLoader(OneHotSlices(maps, split["train"]), shuffle=True, drop_last=True,
                          **settings)
    validation = DataLoader(OneHotSlices(maps, split["validation"]), **settings)

    vae = PlainVAE(profile.size, profile.base_channels, profile.latent_dim).to(device)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=profile.learning_rate,
                                  weight_decay=profile.weight_decay)
    total = profile.epochs * len(training)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, total, profile))
    history, best, weights = [], float("inf"), None
    for _ in range(profile.epochs):
        vae.train()
        for target in training:
            target = target.to(device)
            noise = torch.randn(len(target), profile.latent_dim, device=device)
            scores, mu, logvar = vae(target, noise)
            terms = loss_terms(scores, target, mu, logvar)
            loss = terms.total(beta)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(vae.parameters(), profile.gradient_clip)
            optimiser.step()
            scheduler.step()
            history.append([loss.item(), terms.cross_entropy.item(), terms.kl.item(),
                            *[dice.item() for dice in terms.soft_dice]])
        found = validate(vae, validation, beta, device)
        if found < best:
            best, weights = found, copy.deepcopy(vae.state_dict())
    vae.load_state_dict(weights)
    return vae.eval()


@torch.no_grad()
def validate(vae: PlainVAE, validation: DataLoader, beta: float, device: torch.device) -> float:
    """Mean loss, reconstructed from mu."""
    vae.eval()
    losses = []
    for target in validation:
        target = target.to(device)
        mu, logvar = vae.encode(target)
        terms = loss_terms(vae.decode(mu), target, mu, logvar)
        losses.append(len(target) * terms.total(beta).item())
    return sum(losses) / len(validation.dataset)


@torch.no_grad()
def reconstruct(vae: PlainVAE, label_map: Tensor) -> Tensor:
    """Label map (S, S) -> its reconstruction, (1, S, S)."""
    target = torch.stack([one_hot(label_map)]).to(next(vae.parameters()).device)
    return vae.decode(vae.encode(target)[0]).argmax(dim=1)


@torch.no_grad()
def decode(vae: PlainVAE, z: Tensor) -> Tensor:
    """(1, Z) -> label map (1, S, S)."""
    return vae.decode(z).argmax(dim=1)
