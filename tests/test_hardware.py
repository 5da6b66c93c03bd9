"""What a machine can do; the machines are mostly made up."""

import ctypes
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from cvae_utils import hardware

CPU = torch.device("cpu")


@pytest.mark.parametrize(("cuda", "mps", "expected"), [
    (True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_best_device_is_a_gpu_where_there_is_one(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert hardware.best_device() == torch.device(expected)


@pytest.mark.parametrize(("capability", "expected"), [
    ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((10, 0), "bf16")])
def test_cuda_has_bfloat16_from_capability_8_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.mixed_precision(torch.device("cuda")) == expected


@pytest.mark.parametrize(("avx512", "amx", "expected"), [
    (False, False, "no"), (True, False, "bf16"), (False, True, "bf16"), (True, True, "bf16")])
def test_cpu_has_bfloat16_where_its_instructions_do(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.mixed_precision(CPU) == expected
    assert hardware.mixed_precision(torch.device("mps")) == "no"


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerator_is_this_process_alone_in_the_precision_asked_for(precision):
    try:
        accelerator = hardware.make_accelerator(CPU, precision)
        assert accelerator.mixed_precision == precision and accelerator.device == CPU
        assert accelerator.num_processes == 1 and accelerator.is_main_process
    finally:
        hardware.forget_accelerator()


def test_another_accelerator_can_be_made_once_one_is_forgotten():
    for precision in ("no", "bf16", "no"):
        assert hardware.make_accelerator(CPU, precision).mixed_precision == precision
        hardware.forget_accelerator()


# ----------------------------------------------------------------------------------------- memory
class Fits:
    """Attempts, which run out of memory with more than so many images."""

    def __init__(self, most, error):
        self.most, self.error, self.tried = most, error, []

    def __call__(self, images):
        self.tried.append(images)
        if images > self.most:
            raise self.error


OUT_OF_MEMORY = [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
                 RuntimeError("CUDA out of memory."),
                 RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(("most", "fits", "found", "tried"), [
    (100, 200, 100, [100]), (100, 60, 50, [100, 50]), (100, 12, 7, [100, 50, 25, 13, 7]),
    (3, 1, 1, [3, 2, 1]), (1, 1, 1, [1])])
def test_batch_is_halved_until_it_fits(error, most, fits, found, tried):
    attempt = Fits(fits, error)
    assert hardware.fitting_batch(attempt, most) == found
    assert attempt.tried == tried


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_batch_that_does_not_fit_with_one_image_raises_the_last_error(error):
    attempt = Fits(0, error)
    with pytest.raises(type(error)) as found:
        hardware.fitting_batch(attempt, 5)
    assert found.value is error and attempt.tried == [5, 3, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("other"),
                                   KeyboardInterrupt()])
def test_other_errors_are_raised_at_once(error):
    attempt = Fits(0, error)
    with pytest.raises(type(error)):
        hardware.fitting_batch(attempt, 8)
    assert attempt.tried == [8]


# ---------------------------------------------------------------------------------------- compiler
@pytest.fixture
def complete(tmp_path, monkeypatch):
    """A machine with a compiler and Python's headers."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in (
        "g++", "clang++", "icpx") else None)
    return tmp_path


def test_compiling_needs_a_compiler_and_the_headers_of_python(complete, monkeypatch):
    assert hardware.can_compile()
    monkeypatch.setenv("CXX", "icpx")
    assert hardware.can_compile()
    monkeypatch.setenv("CXX", "missing")
    assert not hardware.can_compile()
    monkeypatch.delenv("CXX")
    (complete / "Python.h").unlink()
    assert not hardware.can_compile()


@pytest.mark.parametrize(("platform", "compiler"), [("linux", "g++"), ("darwin", "clang++")])
def test_compiler_is_that_of_the_system(complete, monkeypatch, platform, compiler):
    monkeypatch.setattr(sys, "platform", platform)
    asked = []
    monkeypatch.setattr(shutil, "which", lambda name: asked.append(name))
    assert not hardware.can_compile() and asked == [compiler]


# ------------------------------------------------------------------------------------------ glibc
class Libc:
    """glibc, as far as it is used; notes what it is told."""

    def __init__(self):
        self.told = []

    def mallopt(self, option, value):
        self.told.append((option, value))

    def malloc_trim(self, pad):
        self.told.append("trim")

    def gnu_get_libc_version(self):
        return b"2.36"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_memory_is_kept_for_the_block_and_given_back_after_it(monkeypatch, error):
    libc = Libc()
    monkeypatch.setattr(hardware, "_glibc", lambda: libc)
    try:
        with hardware.freed_memory_is_reused():
            inside = list(libc.told)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    # M_MMAP_MAX is -4 and M_TRIM_THRESHOLD -1; glibc's own values are 65536 and 128 KiB.
    assert inside == [(-4, 0), (-1, 2**31 - 1)]
    assert libc.told[2:] == [(-4, 65536), (-1, 131072), "trim"]


@pytest.mark.parametrize(("platform", "library"), [
    ("darwin", Libc), ("win32", Libc), ("linux", object)])  # musl has no mallopt
def test_other_systems_and_libraries_are_left_as_they_are(monkeypatch, platform, library):
    libc = library()
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with hardware.freed_memory_is_reused():
        pass
    assert getattr(libc, "told", []) == []


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone")
def test_memory_that_was_kept_is_given_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    with hardware.freed_memory_is_reused():
        tensors = [torch.ones(2**18) for _ in range(200)]  # 200 MiB in all
        del tensors
    assert resident() - before < 100 * 2**20


def test_float16_is_for_cuda_alone():
    with pytest.raises(ValueError, match="expected bf16 or no on cpu, found fp16"):
        hardware.make_accelerator(torch.device("cpu"), "fp16")
