"""Processors compute alike: what the libraries themselves say they use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvae_utils import rounding
from cvae_utils.files import REPOSITORY

COMPUTE = """
import cvae_utils
import json
import numpy, torch
from threadpoolctl import threadpool_info
torch.nn.Conv2d(8, 8, 3)(torch.ones(2, 8, 16, 16))
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "blas": [pool["architecture"] for pool in threadpool_info() if "architecture" in pool],
    "numpy": numpy.show_config(mode="dicts")["SIMD Extensions"]["found"]}))
"""

CPU = Path("/proc/cpuinfo")
avx2 = pytest.mark.skipif(not CPU.is_file() or "avx2" not in CPU.read_text().split(),
                          reason="no processor with AVX2")


def computed(code=COMPUTE, **settings):
    """What libraries say of a fresh process, and whether oneDNN's own word is that it has AVX2."""
    others = {name: value for name, value in os.environ.items() if name not in rounding.ON_AVX2}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=others | settings | {"ONEDNN_VERBOSE": "1"},
        cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1]) | {"onednn": "isa:Intel AVX2\n" in printed}


@avx2
def test_every_processor_computes_on_vectors_of_avx2():
    found = computed()
    assert found["torch"] == "AVX2" and found["onednn"]
    assert set(found["blas"]) == {"Haswell"}
    assert not {"X86_V4", "AVX512_ICL", "AVX512_SPR"} & set(found["numpy"])


@avx2
def test_a_processor_that_is_to_be_fast_is_left_alone():
    own = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Haswell"}
    found = computed(CVAE_FAST="1", **own)
    assert found["torch"] == "DEFAULT" and not found["onednn"]
    assert computed(CVAE_FAST="0", **own)["torch"] == "AVX2"


def test_what_was_set_is_taken_back_where_a_process_is_to_be_fast(monkeypatch):
    for name, value in rounding.ON_AVX2.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("CVAE_FAST", "1")
    rounding.as_everywhere()
    assert {name: os.environ.get(name) for name in rounding.ON_AVX2} == {
        name: "COMPATIBLE" if name == "MKL_CBWR" else None for name in rounding.ON_AVX2}


@avx2
def test_a_training_from_a_shell_is_no_exception():
    code = COMPUTE.replace("import cvae_utils", "from scripts import train")
    assert set(computed(code)["blas"]) == {"Haswell"}


def test_other_systems_are_left_alone(monkeypatch, tmp_path):
    for name in rounding.ON_AVX2:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CVAE_FAST", raising=False)
    about = tmp_path / "cpuinfo"
    monkeypatch.setattr(rounding, "Path", lambda path: about)
    assert rounding.as_everywhere() == {}
    about.write_text("Features : fp asimd\n")
    assert rounding.as_everywhere() == {}
    assert not rounding.ON_AVX2.keys() & os.environ.keys()
    about.write_text("flags : fma avx2\n")
    assert rounding.as_everywhere().items() <= os.environ.items()
    assert rounding.ON_AVX2.items() <= os.environ.items()
