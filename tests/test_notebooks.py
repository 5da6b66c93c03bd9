"""What a reader may expect of every notebook and of the README."""

import json
import re

import pytest

from cvae_utils.files import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))


def cells_of(path):
    """(kind, text) of each cell."""
    book = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_asks_one_question_in_short_cells_and_ends_with_exercises(path):
    cells = cells_of(path)
    assert len(cells) <= 40
    assert re.search(r"\*\*Question\.\*\* .+\?", cells[0][1]) and "**run time**" in cells[0][1]
    assert cells[-1][1].startswith("## Try it\n\n1. ")
    assert any("**What do you expect" in text for _, text in cells)
    assert [text for kind, text in cells if kind == "code" and text.count("\n") >= 15] == []


def test_readme_is_one_page():
    words = len((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert 900 <= words <= 1100
