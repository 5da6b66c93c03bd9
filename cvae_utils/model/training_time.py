"""How long a training would take on this machine."""

import math
import time
from dataclasses import asdict

import torch

from cvae_utils.model import losses
from cvae_utils.model.hardware import mixed_precision
from cvae_utils.model.network import build_model, one_hot
from cvae_utils.profiles import Profile


def minutes(profile: Profile, device: torch.device, training: int, validation: int,
            steps: int = 5) -> float:
    """Minutes that all epochs of a profile would take with so many training and validation slices.

    A few steps are taken, on empty pictures, and multiplied. A validation slice counts as a third
    of a training slice, since it has no backward pass; the optimiser and reading do not count.
    """
    vae = build_model(asdict(profile)).to(device, memory_format=torch.channels_last)
    batch = min(profile.batch_size, training)
    target = one_hot(torch.zeros(batch, vae.size, vae.size, dtype=torch.uint8, device=device))
    noise = torch.zeros(batch, vae.latent_dim, device=device)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision(device))
    for step in range(1 + steps):
        if step == 1:  # the first one chooses algorithms
            _wait(device)
            started = time.monotonic()
        with torch.autocast(device.type, precision, enabled=precision is not None):
            scores, mu, logvar = vae(target, noise)
        losses.loss_terms(scores, target, mu, logvar).total(1.0).backward()
    _wait(device)
    seconds = (time.monotonic() - started) / steps
    return seconds * (training // batch + validation / batch / 3) * profile.epochs / 60


def say_what_the_report_takes(profile: Profile, device: torch.device, training: int,
                              validation: int) -> None:
    try:
        found = math.ceil(minutes(profile, device, training, validation))
        found = f"about {found} minute{'s' if found > 1 else ''} a training"
    except torch.cuda.OutOfMemoryError:
        found = "longer than can be told: a batch does not fit at once"
    print(f"The report's own sizes ({profile.size} x {profile.size}, {profile.epochs} epochs) "
          f"would take {found} on this GPU: set CVAE_PROFILE={profile.name} and start again.")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
