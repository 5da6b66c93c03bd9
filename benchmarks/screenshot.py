"""The README's pictures of the explorer: JupyterLab in Chromium, written to figures/explorer.png,
and a heart that beats, by the explorer's own export, to figures/heart.gif.

    python benchmarks/screenshot.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from lab import opened_notebook

from cvae_utils.files import REPOSITORY

FIGURES = REPOSITORY / "figures"
CELL = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cvae_utils.explorer.atlas import pretrained_folders
from cvae_utils.explorer.widget import Explorer
explorer = Explorer(pretrained_folders())
explorer
"""


def main() -> None:
    with opened_notebook([CELL], height=1500) as page:
        def find(name):
            return page.locator(f".heart-explorer [data-id={name}]")

        find("level").select_option(label="middle")
        find("group").select_option("0")  # the mean heart without a disease
        find("beat").click()
        find("play").click()              # which stops it
        find("way").fill("0.6")
        page.wait_for_timeout(2500)
        page.locator(".heart-explorer").screenshot(path=FIGURES / "explorer.png")
        find("files").evaluate("(element) => { element.open = true; }")
        with page.expect_download() as waiting:
            find("gif").click()
        waiting.value.save_as(FIGURES / "heart.gif")


if __name__ == "__main__":
    main()
