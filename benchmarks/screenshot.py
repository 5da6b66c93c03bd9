"""The README's picture of the explorer: JupyterLab in Chromium, written to figures/explorer.png.

    python benchmarks/screenshot.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from lab import opened_notebook

from cvae_utils.files import REPOSITORY

CELL = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cvae_utils.explorer.atlas import pretrained_folders
from cvae_utils.explorer.widget import Explorer
explorer = Explorer(pretrained_folders())
explorer.group.value, explorer.phase.value = "HCM", "ED"
explorer.sliders[0].value = 1.5
explorer.sliders[1].value = -1.2
explorer.widget
"""


def main() -> None:
    with opened_notebook([CELL], height=1400) as page:
        page.wait_for_timeout(1500)
        box = page.locator(".cvae-explorer").bounding_box()
        strip = page.locator("img.cvae-strip").bounding_box()
        box["width"] = strip["x"] + strip["width"] + 6 - box["x"]  # the rest is empty
        page.screenshot(path=REPOSITORY / "figures" / "explorer.png", clip=box)


if __name__ == "__main__":
    main()
