"""Where a benchmark writes: into benchmarks/mine, or with --publish over what the docs show."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import results_file

BENCHMARKS = Path(__file__).resolve().parent


def command_line(doc: str) -> argparse.ArgumentParser:
    """Parser of a command line. doc: of the script; its first line says what it does."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--publish", action="store_true", help="write over benchmarks/results.json, "
                      "from which scripts/write_tables.py makes docs/benchmarks.md")
    return made


def record(chosen: argparse.Namespace, section: str, found: dict) -> None:
    """Put a benchmark's numbers into results.json, and say where that is."""
    folder = BENCHMARKS if chosen.publish else BENCHMARKS / "mine"
    results_file.record(folder, section, found)
    print(f"written to {folder / results_file.FILE_NAME}")
