"""When two trainings are the same."""

import pandas as pd
import pytest
import torch

from cvae_utils.model.runs import RUN_FILES


def same_weights(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def assert_same_curve(found, expected):
    """History and steps, but for rounding."""
    for a, b in zip(found, expected):
        pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b), rtol=1e-3, atol=1e-4,
                                      check_dtype=False)
    assert list(found[1]["loss"]) == pytest.approx(list(expected[1]["loss"]), rel=1e-4)


def end_of(folder):
    """The files of a run that are the same to the byte if it is the same run."""
    assert {path.name for path in folder.iterdir()} == set(RUN_FILES)
    return {name: (folder / name).read_bytes() for name in RUN_FILES if name != "environment.json"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())
