"""What a machine can do; the machines are mostly made up."""

import ctypes
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from cvae_utils.model import device_check, hardware

CPU, MPS = torch.device("cpu"), torch.device("mps")


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


@pytest.mark.parametrize(("vectors", "avx512", "amx", "expected"), [
    ("AVX512", False, False, "no"), ("AVX512", True, False, "bf16"),
    ("AVX512", False, True, "bf16"), ("AVX2", True, True, "no")])
def test_cpu_has_bfloat16_where_its_instructions_do_and_are_used(monkeypatch, vectors, avx512, amx,
                                                                 expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.mixed_precision(CPU) == expected
    assert hardware.mixed_precision(MPS) == "no"


def test_accelerator_is_this_process_alone_in_the_precision_asked_for_again_and_again():
    for precision in ("no", "bf16", "no"):
        accelerator = hardware.make_accelerator(CPU, precision)
        assert accelerator.mixed_precision == precision and accelerator.device == CPU
        assert accelerator.num_processes == 1 and accelerator.is_main_process
        hardware.forget_accelerator()
    with pytest.raises(ValueError, match="expected bf16 or no on cpu, found fp16"):
        hardware.make_accelerator(CPU, "fp16")  # that is for CUDA alone


# ------------------------------------------------------------------------------ Apple's GPU
def changed(name, factor, noise=0.0):
    """A training step as on the CPU, but with one value wrong, and all of them noisy, elsewhere."""
    def step(device):
        found = device_check.training_step(CPU)
        if device != CPU:
            torch.manual_seed(0)
            found = {key: value * (1 + noise * torch.randn_like(value))
                     for key, value in found.items()}
            found[name] = found[name] * factor
        return found

    return step


def missing(device):
    if device != CPU:
        raise NotImplementedError("The operator 'aten::x' is not implemented for MPS.\nMore.")


@pytest.mark.parametrize(("step", "named"), [
    (changed("loss", 1.01), "loss"), (changed("to_mu.weight", 0.0), "to_mu.weight"),
    (changed("decoder.1.bias", float("nan")), "decoder.1.bias"),
    (changed("encoder.0.weight", -1.0), "encoder.0.weight"),
    (missing, "The operator 'aten::x' is not implemented for MPS."),
])
def test_gpu_of_apple_that_computes_something_else_is_not_used(capsys, step, named):
    assert device_check.trusted(MPS, step) == device_check.trusted(MPS, step) == CPU
    assert capsys.readouterr().out == (  # once
        f"Apple's GPU does not train as the CPU does ({named}): the CPU is used. A newer torch or "
        "macOS may help.\n")


def test_gpu_of_apple_that_differs_by_rounding_is_used_and_others_are_not_asked(capsys):
    assert device_check.trusted(MPS, changed("loss", 1.0, noise=1e-5)) == MPS
    for device in (CPU, torch.device("cuda")):
        assert device_check.trusted(device, missing) == device
    assert capsys.readouterr().out == ""


def test_training_step_has_a_gradient_for_every_weight_and_is_the_same_again():
    before = torch.get_rng_state()
    found, same = device_check.training_step(CPU), device_check.training_step(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) > 40 and all(value.norm() > 0 for value in found.values())
    assert device_check.differences(found, same) == []


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


@pytest.mark.parametrize(("error", "tried"), [
    *[(error, [5, 3, 2, 1]) for error in OUT_OF_MEMORY], (RuntimeError("shape mismatch"), [5]),
    (ValueError("other"), [5]), (KeyboardInterrupt(), [5])])
def test_an_image_that_does_not_fit_alone_and_other_errors_are_raised(error, tried):
    attempt = Fits(0, error)
    with pytest.raises(type(error)) as found:
        hardware.fitting_batch(attempt, 5)
    assert found.value is error and attempt.tried == tried


# ---------------------------------------------------------------------------------------- compiler
@pytest.mark.parametrize(("platform", "chosen", "headers", "expected"), [
    ("linux", "", True, "g++"), ("darwin", "", True, "clang++"), ("linux", "icpx", True, "icpx"),
    ("linux", "missing", True, ""), ("linux", "", False, "")])
def test_compiling_needs_the_compiler_of_the_system_and_the_headers_of_python(
        tmp_path, monkeypatch, platform, chosen, headers, expected):
    if headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CXX", chosen)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(shutil, "which", lambda name: name if name == expected else None)
    assert hardware.can_compile() == bool(expected)


# ------------------------------------------------------------------------------------------ glibc
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone")
def test_freed_memory_is_kept_for_the_block_and_then_given_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    with pytest.raises(KeyboardInterrupt), hardware.freed_memory_is_reused():
        tensors = [torch.ones(2**18) for _ in range(200)]  # 200 MiB in all
        del tensors
        assert resident() - before > 150 * 2**20
        raise KeyboardInterrupt
    assert resident() - before < 100 * 2**20


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_systems_without_glibc_are_left_as_they_are(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl, which has no mallopt
    with pytest.raises(KeyboardInterrupt), hardware.freed_memory_is_reused():
        raise KeyboardInterrupt
