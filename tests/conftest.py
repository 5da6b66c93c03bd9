"""A tiny phantom, its slices and a tiny profile, made once for all tests."""

import contextlib
import os
from pathlib import Path

import lab
import numpy as np
import pytest
import torch

from cvae_utils import sweep
from cvae_utils.data import sources, splits
from cvae_utils.data.phantom import write_phantom
from cvae_utils.data.slices import load_or_align
from cvae_utils.files import REPOSITORY
from cvae_utils.model import hardware
from cvae_utils.model.network import build_model
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import RunConfig
from cvae_utils.profiles import Profile

torch.set_num_threads(1)  # in models as small as these, threads would wait for each other
REAL_ROOT = os.environ.get("ACDC_ROOT", "").strip()


@pytest.fixture(autouse=True)
def settings_of_the_user_and_of_notebooks_do_not_count(monkeypatch):
    for name in ("ACDC_ROOT", "CVAE_DATA", "CVAE_PROFILE", "CVAE_OUT", "CVAE_LABELS",
                 "CVAE_PATTERN", "CVAE_PROCESSES", "TQDM_MININTERVAL", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny():
    return Profile("tiny", size=32, base_channels=4, epochs=20, batch_size=8, learning_rate=1e-2,
                   decay="cosine", warmup_steps=2, patience=20, samples=20, phantom_patients=10,
                   latent_dim=6)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Ten synthetic patients, two of each group, labels alone."""
    root = tmp_path_factory.mktemp("source") / "phantom"
    return sources.open_source("phantom", write_phantom(root, patients=10, images=False,
                                                        progress=False))


@pytest.fixture(scope="session")
def slices(source, tmp_path_factory):
    return load_or_align(source, 32, tmp_path_factory.mktemp("processed"), progress=False)


@pytest.fixture(scope="session")
def split(slices):
    return splits.split(slices.table)


@pytest.fixture(scope="session")
def config(tiny, slices):
    return RunConfig(tiny, beta=10.0, data=slices.fingerprint)


@pytest.fixture(scope="session")
def run(config, slices, split, tmp_path_factory):
    """One finished run, measured; leave its folder as it is."""
    job = sweep.Job(config, slices, split, tmp_path_factory.mktemp("runs"))
    return sweep.train(job, Compute(torch.device("cpu")))


@pytest.fixture
def accelerator():
    """This process alone, on the CPU, in float32."""
    yield hardware.make_accelerator(torch.device("cpu"), "no")
    hardware.forget_accelerator()


@pytest.fixture
def untrained(tiny):
    """A model whose hearts change visibly with z."""
    torch.manual_seed(0)
    model = build_model(vars(tiny)).eval()
    with torch.no_grad():
        model.from_z.weight.mul_(10)
    return model


@pytest.fixture
def random_maps():
    """Five label maps of independent random pixels, (5, 32, 32)."""
    return np.random.default_rng(0).integers(0, 4, (5, 32, 32)).astype(np.uint8)


@pytest.fixture(scope="session")
def real_source():
    """The label volumes of ACDC, where ACDC_ROOT names them."""
    if not REAL_ROOT:
        pytest.skip("ACDC_ROOT is not set: point it at ACDC, all 150 patients")
    root = (REPOSITORY / Path(REAL_ROOT).expanduser()).resolve()
    return sources.open_source("ACDC", root)


@pytest.fixture(scope="module")  # its event loop must not outlive the tests that need it
def browser():
    """Chromium without a network; what needs it is skipped where there is none."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(lab.chromium())
        except lab.NoBrowser as error:
            pytest.skip(str(error))
        yield found
