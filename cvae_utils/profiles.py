"""Every size and hyper-parameter, in three profiles, and which of them is active.

`smoke` is for continuous integration, `quick` for a CPU, `report` has the report's own sizes and
wants a GPU. `CVAE_PROFILE` chooses; without it, `quick`. A profile has variants, which the
notebooks beyond the report train.
"""

import numbers
import operator
import os
import sys
from dataclasses import dataclass, replace

#: The weights of the KL term that notebook 03 compares.
BETAS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
#: The two of them whose latent spaces notebooks 03 and 05 set beside each other.
LOW_BETA, HIGH_BETA = 1.0, 1000.0
#: The report's choice: the beta of notebooks 02 and 04.
REPORT_BETA = 1000.0
#: The profile whose ACDC results are those of figures/ and of the committed notebooks.
PUBLISHED = "quick"
#: The beta of `sharp`.
SHARP_BETA = 60.0


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
    network: str = "conv"  # the report's, or "field": see model.network
    weight_decay: float = 1e-2  # decoupled (AdamW); L2 inside Adam collapses the posterior
    coupled_decay: bool = False  # that L2 inside Adam, to show what it does
    augment: float = 0.0  # strength of augmentation.warp on the training slices; 0 is off
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
        choice(f"network of profile {self.name}", self.network, ("conv", "field"))
        choice(f"coupled_decay of profile {self.name}", self.coupled_decay, (False, True))
        if self.size % 16:
            _refuse(f"size of profile {self.name}", "a multiple of 16", self.size)

    def variant(self, name: str, **changes) -> "Profile":
        """This profile under another name, with some settings changed."""
        return replace(self, name=f"{self.name}-{name}", **changes)

    @property
    def published(self) -> "Profile":
        """`sharp` for the slices of published numbers: see analysis.published_protocol."""
        return self.sharp.variant("published", **VARIANTS[self.name]["published"])

    @property
    def sharp(self) -> "Profile":
        """What reconstructs best: smooth fields (model.network.FieldVAE), and augmentation."""
        return self.variant("sharp", network="field", augment=3.0, **VARIANTS[self.name]["sharp"])

    @property
    def seeds(self) -> int:
        """Splits and trainings, where a number comes with its spread."""
        return SEEDS[self.name]


PROFILES = {
    profile.name: profile
    for profile in (
        # Seconds, for continuous integration: everything runs, nothing is learnt well.
        Profile("smoke", size=32, base_channels=8, epochs=12, batch_size=16, learning_rate=4e-3,
                decay="cosine", warmup_steps=10, patience=12, samples=100, phantom_patients=15),
        # Minutes on two CPU cores.
        Profile("quick", size=64, base_channels=16, epochs=18, batch_size=16, learning_rate=2e-3,
                decay="cosine", warmup_steps=50, patience=18, samples=1000, phantom_patients=60),
        # The report's own sizes and optimiser settings; wants a GPU.
        Profile("report", size=256, base_channels=48, epochs=180, batch_size=100,
                learning_rate=6e-5, decay="constant", warmup_steps=0, patience=30, samples=1000,
                phantom_patients=150),
    )
}

#: How often the notebooks beyond the report repeat a split and a training.
SEEDS = {"smoke": 2, "quick": 5, "report": 5}

#: What the variants change besides: {profile: {variant: {setting: value}}}.
VARIANTS = {
    "smoke": {"sharp": {}, "published": {}},
    "quick": {"sharp": {"epochs": 70, "patience": 70, "batch_size": 32, "warmup_steps": 100},
              "published": {"size": 128, "epochs": 36}},
    "report": {"sharp": {"base_channels": 16, "patience": 180, "batch_size": 32,
                         "learning_rate": 2e-3, "decay": "cosine", "warmup_steps": 100},
               "published": {"size": 128}},
}


def active_profile() -> Profile:
    """The profile that CVAE_PROFILE names, else `quick`. Raises ValueError for an unknown name."""
    name = os.environ.get("CVAE_PROFILE", "").strip() or "quick"
    if name not in PROFILES:
        raise ValueError(f"CVAE_PROFILE: expected one of {', '.join(PROFILES)}, found {name!r}")
    return PROFILES[name]
