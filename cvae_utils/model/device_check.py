"""Whether Apple's GPU computes what the CPU does: there, training has gone wrong in silence."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from cvae_utils.model import losses
from cvae_utils.model.network import ConvVAE, one_hot

CPU = torch.device("cpu")
#: Largest difference of a gradient or loss, as a share of its own size, that is still rounding: in
#: float32 it is a thousand times smaller, and a wrong operator makes one of about 1.
ROUNDING = 1e-3


@functools.cache  # once in a process
def trusted(device: torch.device,
            step: Callable[[torch.device], dict[str, Tensor]] | None = None) -> torch.device:
    """The device itself; or the CPU, after a notice, if the device is Apple's GPU and a training
    step does not come out there as on the CPU. step: see training_step, which is the default."""
    if device.type != "mps":
        return device
    step = step or training_step
    try:
        wrong = differences(step(device), step(CPU))
    except Exception as error:  # a device can fail in any way
        wrong = [str(error).partition("\n")[0]]
    if not wrong:
        return device
    print(f"Apple's GPU does not train as the CPU does ({', '.join(wrong[:3])}): the CPU is used. "
          "A newer torch or macOS may help.")
    return CPU


def training_step(device: torch.device) -> dict[str, Tensor]:
    """Loss, and its gradient by every weight, of a small model on a fixed batch, in float32; on the
    CPU, by name."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = ConvVAE(32, 8, 8)
    vae = vae.to(device, memory_format=torch.channels_last)
    target = one_hot(torch.randint(0, 4, (8, 32, 32), generator=draw).to(device))  # (8, 4, 32, 32)
    noise = torch.randn(8, 8, generator=draw).to(device)
    scores, mu, logvar = vae(target, noise)
    loss = losses.loss_terms(scores, target, mu, logvar).total(1000.0)
    loss.backward()
    found = {"loss": loss.detach()} | {name: weight.grad for name, weight in vae.named_parameters()}
    return {name: value.cpu() for name, value in found.items()}


def differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of the values that differ by more than ROUNDING of their norm, or are no numbers."""
    return [name for name, value in expected.items()
            if not (found[name] - value).norm() <= ROUNDING * value.norm()]
