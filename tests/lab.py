"""A real browser without a network, and JupyterLab in it with a notebook that is run."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat

#: No news banner, and outputs that are scrolled away stay in the page.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Without a sandbox, because containers have none. The rest cuts the network, but for this machine.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


class NoBrowser(Exception):
    """There is no browser to drive; says what to install."""


@contextlib.contextmanager
def chromium():
    """Chromium, driven by Playwright: CHROMIUM, else one on the path, else Playwright's own.

    Raises NoBrowser if there is none.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("playwright is not installed: pip install -r requirements.txt") from None
    with sync_playwright() as playwright:
        found = [os.environ.get("CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES),
                 playwright.chromium.executable_path]
        path = next(filter(None, found))
        if not Path(path).is_file():
            raise NoBrowser("no Chromium found: install it, or set CHROMIUM to its path")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def jupyter_lab(root: Path, settings: Path, **environment: str):
    """Run JupyterLab on the files of `root`; yields a function from a notebook's path to its URL.

    settings: an empty folder, in place of the user's own. environment: variables for the kernels.
    """
    for name, values in SETTINGS.items():
        path = settings / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(8), f"http://127.0.0.1:{port}"
    environment = os.environ | environment | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(settings / "config"), "IPYTHONDIR": str(settings / "ipython")}
    log = (settings / "lab.log").open("w")
    server = subprocess.Popen([
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}", "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True"], env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"{address}/api?token={token}", server, settings / "lab.log")
        yield lambda notebook: f"{address}/doc/tree/{notebook}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: int = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
CELLS = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"


@contextlib.contextmanager
def opened_notebook(cells: list[str], height: int = 1200):
    """A notebook of these cells in JupyterLab, run: its Playwright page, 1500 pixels wide."""
    with tempfile.TemporaryDirectory() as folder:
        root, settings = Path(folder) / "root", Path(folder) / "settings"
        root.mkdir()
        book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(book, root / "cells.ipynb")
        with jupyter_lab(root, settings) as url_of, chromium() as browser:
            page = browser.new_page(viewport={"width": 1500, "height": height})
            run_notebook(page, url_of("cells.ipynb"))
            yield page


def run_notebook(page, url: str, seconds: int = 300) -> None:
    """Open a notebook that has not been run in a Playwright page and run all of its cells.

    Raises AssertionError with the traceback if a cell fails, or if it takes longer.
    """
    page.goto(url)
    page.wait_for_selector(IDLE, timeout=60_000)
    end, asked = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        cells = [c for c in page.evaluate(CELLS) if c["cell_type"] == "code"]
        failed = [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
        assert not failed, "\n".join(failed[0]["traceback"])
        counts = [c["execution_count"] for c in cells]
        if all(counts) and page.locator(IDLE).count():
            return
        # Just after the kernel's start the command gets lost now and then. To ask again while a
        # cell runs would begin it anew.
        idle = page.locator(IDLE).count()
        if idle and not any(counts) and time.monotonic() > asked + 15:
            asked = time.monotonic()
            time.sleep(3)
            page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        time.sleep(0.5)
    raise AssertionError(f"{url}: cells did not end within {seconds} s, counts {counts}")
