"""What the machine can do: device, precision, how much fits, and memory that is kept for reuse."""

import contextlib
import ctypes
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.memory import should_reduce_batch_size

from cvae_utils.profiles import choice

#: What accelerate and its launchers read from the environment, besides RANKS: settings, and the
#: ranks that MPI and its like give. Here, Compute and RunConfig say it all.
FOREIGN = re.compile("ACCELERATE_.*|FSDP_.*|MEGATRON_LM_.*|PARALLELISM_CONFIG_.*|FORK_LAUNCHED|"
                     "TPU_NAME|PJRT_DEVICE|PMI_.*|OMPI_COMM_.*|MV2_COMM_.*|MPI_LOCAL.*")
#: Who this process is among several: torch's launcher says so, but other tools and schedulers too.
RANKS = re.compile("(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|NPROC|MASTER_ADDR|MASTER_PORT|"
                   "TORCHELASTIC_.*")
#: What torch's launcher sets at least.
LAUNCHED = {"TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}

#: Largest side, in pixels, of pictures that are too small for threads to share: they would wait for
#: each other; benchmarks/sweep.py compares the ways.
SMALL = 64

# glibc's numbers for mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def best_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def mixed_precision(device: torch.device) -> str:
    """The precision in which the model computes there, by accelerate's name: bf16, fp16 or no.

    bf16 where the hardware has it: CUDA from compute capability 8.0 on, CPUs with AVX512-bf16 or
    AMX, with CVAE_FAST (see rounding). Older CUDA devices have fast float16 alone, which
    needs a loss scaler. Elsewhere half precision is emulated and slower than float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())):
        return "bf16"
    return "no"


@contextlib.contextmanager
def own_settings():
    """Hide from accelerate what other tools have set in the environment, for the length of the
    block or, as a decorator, of the function.

    RANK and its like are hidden unless torch's launcher has set them, which torchrun, accelerate
    launch and notebook_launcher use: else this process would wait for others that never come.
    """
    launched = set(os.environ) >= LAUNCHED
    hidden = {name: os.environ.pop(name) for name in list(os.environ)
              if FOREIGN.fullmatch(name) or not launched and RANKS.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


@own_settings()
def make_accelerator(device: torch.device | None = None, precision: str = "",
                     compiled: bool = False) -> Accelerator:
    """What trains there: this process alone, or, started by torchrun, accelerate launch or
    notebook_launcher, this process and the others. precision: see mixed_precision; empty chooses.
    What other tools have set in the environment does not count. Raises ValueError as
    check_precision does.
    """
    device = device or best_device()
    check_precision(precision, device)
    return Accelerator(
        mixed_precision=precision or mixed_precision(device), cpu=device.type == "cpu",
        dynamo_backend="inductor" if compiled else "no")


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ValueError for a precision that the device does not compute fast, or that is none."""
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision: expected bf16 or no on {device.type}, found fp16, which only "
                         "CUDA devices compute fast")
    choice("precision", precision, ("", "bf16", "fp16", "no"))


def forget_accelerator() -> None:
    """Let a later notebook_launcher start processes: it refuses once an Accelerator was made."""
    AcceleratorState._reset_state(reset_partial_state=True)


def can_compile() -> bool:
    """Whether torch.compile has what it needs for the CPU: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return headers.is_file() and shutil.which(compiler) is not None


def fitting_batch(attempt, most: int) -> int:
    """The largest of most, most / 2, most / 4, ... images with which attempt(images) does not run
    out of memory. Raises the error of the last attempt if not even one image fits."""
    images = most
    while True:
        try:
            attempt(images)
            return images
        except Exception as error:
            if images == 1 or not should_reduce_batch_size(error):
                raise
        # Outside of `except`: there, the error's frames would still hold the tensors.
        torch.cuda.empty_cache()
        images = (images + 1) // 2


def threads_for(size: int, device: torch.device) -> int:
    """Threads on which pictures of so many pixels a side are trained there: one for small ones on a
    CPU, else as many as torch has."""
    return 1 if device.type == "cpu" and size <= SMALL else torch.get_num_threads()


@contextlib.contextmanager
def threads(count: int):
    """Compute on so many threads of the CPU for the length of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def freed_memory_is_reused():
    """On Linux, keep freed memory in the process for the length of the block.

    By default glibc gives every large tensor back to the system when it is freed and asks for it
    anew in the next step, and the system fills it with zeros page by page: half of the time of a
    plain training loop. Other systems, and other C libraries, are left as they are.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # glibc's own defaults, but that the threshold for mapping no longer adapts itself.
        libc.mallopt(M_MMAP_MAX, 65536)
        libc.mallopt(M_TRIM_THRESHOLD, 2**17)
        libc.malloc_trim(0)


def _glibc():
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None
