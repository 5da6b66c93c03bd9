"""What the tests of training share."""

from dataclasses import replace

import pytest
import worker

from cvae_utils.model.training import fit


@pytest.fixture
def again(slices, split, accelerator):
    """fit on the CPU in float32."""
    return lambda config, **options: fit(config, options.pop("slices", slices), split, accelerator,
                                         **options)


@pytest.fixture
def brief(config):
    """Two epochs, for what does not need a good model."""
    return replace(config, profile=replace(config.profile, epochs=2))


@pytest.fixture
def packed(slices, split, tmp_path_factory):
    """A function that packs a configuration for other processes."""
    folder = tmp_path_factory.mktemp("work")
    return lambda config: worker.pack(folder / f"{config.key}.pickle", config, slices, split)
