"""The explorer as one HTML file: its sliders decode in the browser, with no kernel or network."""

import json
from collections.abc import Sequence
from pathlib import Path

from cvae_utils.explorer import front
from cvae_utils.explorer.atlas import Atlas, load, pretrained_folders
from cvae_utils.files import write_text

TEMPLATE = Path(__file__).with_name("page.html")


def runs_of_repository() -> list[Atlas]:
    """The runs of figures/explorer.html: all that come with the repository."""
    return [load(folder) for folder in pretrained_folders()]


def build(atlases: Sequence[Atlas]) -> str:
    """The page of these runs, as HTML text: see front.describe. The same runs make the same text.

    Raises ValueError if there is no run.
    """
    data = front.describe(atlases, decoders=True)
    # A "<" might end the script element in which the block lies.
    block = json.dumps(data, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, content in (("style", front.style()), ("script", front.script()), ("data", block)):
        text = text.replace("{{" + name + "}}", content)
    return text


def write(atlases: Sequence[Atlas], path: Path) -> Path:
    """Write the page of these runs; the file appears only when complete. Returns the path.

    Raises ValueError if there is no run.
    """
    text = build(atlases)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
