"""What the tests of atlas, patients and widget begin with."""

import pytest
from atlases import small_atlas


@pytest.fixture
def table(slices, split):
    """Rows of the slice table, of the training slices."""
    return slices.table.iloc[split["train"]]


@pytest.fixture
def atlas(table):
    return small_atlas(table)
