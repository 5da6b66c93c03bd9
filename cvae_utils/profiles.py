"""Every size and hyper-parameter, in three profiles, and which of them is active.

`CVAE_PROFILE` chooses; else `report` on a CUDA device and `quick` elsewhere.
"""

import numbers
import operator
import os
import sys
from dataclasses import dataclass, replace

#: The weights of the KL term that notebook 03 compares.
BETAS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
#: The report's choice: the beta of notebooks 02 and 04.
REPORT_BETA = 1000.0
#: The profile whose ACDC results are those of figures/ and of the committed notebooks.
PUBLISHED = "quick"
#: What notebook 06 trains with several seeds: betas of the profile itself and of its `sharp`
#: variant, and the KL (nats) at which `thrifty` is held, a little below what counts as few.
STUDY_BETAS, SHARP_BETAS, LOW_RATE, FEW_NATS = (1.0, 10.0, 100.0, 1000.0), (50.0,), 6.4, 6.5
#: The two ends whose latent spaces notebooks 03 and 05 compare.
LOW_BETA, HIGH_BETA = 1.0, 1000.0


def whole(name: str, value, least: int = 1, most: int = 2**31 - 1) -> int:
    """A setting that counts something, as an int. Raises ValueError if it is no whole number from
    `least` to `most`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not least <= value <= most:
        _refuse(name, f"a whole number from {least} to {most}", value)
    return operator.index(value)


def number(name: str, value, zero: bool = True, most: float = sys.float_info.max) -> float:
    """A setting that measures something, as a float. Raises ValueError if it is no number above
    zero, or from zero on if that is allowed, up to `most`, which infinity and NaN never are."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most or not (value or zero):
        _refuse(name, f"a number {'of at least' if zero else 'above'} 0 and at most {most:.2g}",
                value)
    return abs(float(value))  # no -0.0


def choice(name: str, value, choices) -> None:
    """Raises ValueError if a setting is none of the choices."""
    if value not in choices:
        _refuse(name, f"one of {', '.join(map(repr, choices))}", value)


def _refuse(name: str, expected: str, value) -> None:
    raise ValueError(f"{name}: expected {expected}, found {value!r}. Change this setting.")


@dataclass(frozen=True)
class Profile:
    """One size of the whole study. Raises ValueError for a value that makes no sense."""

    name: str
    size: int  # side of the aligned slices, pixels; a multiple of 16
    base_channels: int  # channels of the first encoder block
    epochs: int
    batch_size: int
    learning_rate: float
    decay: str  # "cosine" to zero, or "constant"
    warmup_steps: int
    patience: int  # epochs without a better validation loss before training stops
    samples: int  # hearts drawn from the prior for each share of valid samples
    phantom_patients: int
    latent_dim: int = 32
    weight_decay: float = 1e-2  # decoupled (AdamW); L2 inside Adam collapses the posterior
    coupled_decay: bool = False  # that L2 inside Adam, to show what it does
    augment: float = 0.0  # strength of augment.warp on the training slices; 0 is off
    gradient_clip: float = 1.0  # norm

    def __post_init__(self):
        def settle(check, *names, **limits):
            for name in names:
                found = check(f"{name} of profile {self.name}", getattr(self, name), **limits)
                object.__setattr__(self, name, found)

        settle(whole, "size", "base_channels", "epochs", "batch_size", "patience", "samples",
               "phantom_patients", "latent_dim")
        settle(whole, "warmup_steps", least=0)
        settle(number, "learning_rate", "gradient_clip", zero=False)
        settle(number, "weight_decay", "augment")
        choice(f"decay of profile {self.name}", self.decay, ("cosine", "constant"))
        choice(f"coupled_decay of profile {self.name}", self.coupled_decay, (False, True))
        if self.size % 16:
            _refuse(f"size of profile {self.name}", "a multiple of 16", self.size)

    @property
    def published(self) -> "Profile":
        """What is trained to stand beside published numbers: see protocol."""
        return replace(self, name=f"{self.name}-published", augment=1.0,
                       **FURTHER[self.name]["published"])

    @property
    def sharp(self) -> "Profile":
        """What reconstructs best: a wider model, trained for longer on augmented slices."""
        return replace(self, name=f"{self.name}-sharp", augment=1.0,
                       **FURTHER[self.name]["sharp"])

    @property
    def thrifty(self) -> "Profile":
        """`sharp`, trained for longer still: what few nats can tell is learnt slowly."""
        return replace(self.sharp, name=f"{self.name}-thrifty", **FURTHER[self.name]["thrifty"])

    @property
    def seeds(self) -> int:
        """Splits and trainings, where a number comes with its spread."""
        return FURTHER[self.name]["seeds"]


PROFILES = {
    profile.name: profile
    for profile in (
        # Seconds, for continuous integration: everything runs, nothing is learnt well.
        Profile("smoke", size=32, base_channels=8, epochs=40, batch_size=16, learning_rate=4e-3,
                decay="cosine", warmup_steps=10, patience=40, samples=100, phantom_patients=15),
        # Minutes on two CPU cores.
        Profile("quick", size=64, base_channels=16, epochs=40, batch_size=16, learning_rate=2e-3,
                decay="cosine", warmup_steps=50, patience=20, samples=1000, phantom_patients=60),
        # The report's own sizes and optimiser settings; wants a GPU.
        Profile("report", size=256, base_channels=48, epochs=180, batch_size=100,
                learning_rate=6e-5, decay="constant", warmup_steps=0, patience=30, samples=1000,
                phantom_patients=150),
    )
}

#: What notebook 06 changes in a profile, and how often it repeats a training. Not in the profile
#: itself, because a run's name depends on all that is in there.
FURTHER = {
    "smoke": {"sharp": {"epochs": 30}, "thrifty": {}, "published": {"epochs": 20}, "seeds": 2},
    "quick": {"sharp": {"base_channels": 24, "epochs": 60, "patience": 60},
              "thrifty": {"epochs": 80, "patience": 80},
              "published": {"size": 128, "epochs": 20, "patience": 20}, "seeds": 3},
    "report": {"sharp": {"learning_rate": 5e-4, "decay": "cosine", "warmup_steps": 50,
                         "patience": 180},
               "thrifty": {}, "published": {"size": 128, "learning_rate": 5e-4, "decay": "cosine",
                             "warmup_steps": 50, "patience": 180}, "seeds": 3},
}


def active_profile() -> Profile:
    """The profile that CVAE_PROFILE names, else `report` on CUDA and `quick` elsewhere.

    Raises ValueError for an unknown name.
    """
    name = os.environ.get("CVAE_PROFILE", "").strip()
    if not name:
        import torch  # here, so that reading a profile does not cost the import of torch

        name = "report" if torch.cuda.is_available() else "quick"
    if name not in PROFILES:
        raise ValueError(f"CVAE_PROFILE: expected one of {', '.join(PROFILES)}, found {name!r}")
    return PROFILES[name]
