"""Processors with and without AVX512 round alike: a run comes to the numbers of the tables."""

import os
from pathlib import Path

#: Sums over wider vectors are rounded otherwise, and a training amplifies that until the third
#: digit of a Dice differs. With these, torch, its libraries, NumPy and BLAS compute as on a
#: processor with AVX2, whatever else there is.
ON_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2",
           "OPENBLAS_CORETYPE": "Haswell",
           "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}


def as_everywhere() -> dict[str, str]:
    """Set ON_AVX2 for this process and those that it starts, or, with CVAE_FAST=1, take it back.

    Returns what it has set. To be called before NumPy and torch are imported, which read it then.
    Linux on x86 alone.
    """
    about = Path("/proc/cpuinfo")
    if os.environ.get("CVAE_FAST", "") not in ("", "0"):
        for name, value in ON_AVX2.items():  # of a process that has started this one
            if os.environ.get(name) == value:
                del os.environ[name]
    elif about.is_file() and "avx2" in about.read_text().split():
        os.environ.update(ON_AVX2)
        return ON_AVX2
    return {}
