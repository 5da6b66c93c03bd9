"""How fast the VAE is trained, beside the loop that such projects usually have (plain_loop.py).

    python benchmarks/training.py                 speed, memory and latency, at three sizes
    python benchmarks/training.py --choices       what each choice made here is worth
    python benchmarks/training.py --dice          whether both ways learn the same
    python benchmarks/training.py --report        on a GPU: the report's own profile, end to end

Each way is a process of its own that trains so many optimiser steps when it is told to and waits
otherwise, so that all ways take turns on a machine that they have to themselves; medians over the
rounds are given, the first round warms up. "here" is training.fit itself, in one epoch that is
long enough for all rounds; a hook after each optimiser step counts them. In the same turns a large
product and convolution are timed: what the machine can do at most. All compute with CVAE_FAST=1
(see rounding). Written to benchmarks/mine, of a GPU in sections of their own.
"""

import contextlib
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["CVAE_FAST"] = "1"  # what this processor can do, in the processes started here, too
import plain_loop
import results
from training_memory import status_mb

from cvae_utils import sweep
from cvae_utils.analysis import run_results
from cvae_utils.data import sources, splits
from cvae_utils.data.slices import Slices, load_or_align
from cvae_utils.files import REPOSITORY, machine, output_root
from cvae_utils.model import encoding, hardware, network, training
from cvae_utils.model.runs import Compute
from cvae_utils.model.training import RunConfig
from cvae_utils.profiles import PROFILES, Profile
from scripts import write_tables

SPAWN = multiprocessing.get_context("spawn")  # a fork would share torch's threads and memory
DEVICE = hardware.best_device()
ON_GPU = DEVICE.type == "cuda"
#: Batch of each size, and optimiser steps a round: about as long at each.
BATCHES = {64: 32, 128: 32, 256: PROFILES["report"].batch_size if ON_GPU else 8}
STEPS = {64: 40, 128: 20, 256: 10} if ON_GPU else {64: 60, 128: 4, 256: 4}
PROFILED_SIZE = 128
#: Sizes of the matrix product and the convolution that tell what the machine can do at most.
MATRIX, CHANNELS = (8192, 1024) if ON_GPU else (3072, 192)
DICE_EPOCHS, DICE_BETA, DICE_SEEDS = 20, 10.0, (0, 1, 2)
#: Operators by what they belong to, the first that fits; the rest is "rest". The same additions and
#: products serve the loss and, for a few numbers, the latent sample.
GROUPS = {
    "convolutions, backward": "convolution_backward",
    "convolutions, forward": "convolution",
    "ELU": "elu",
    "optimiser and clipping": "fused_adam|_foreach|norm$",
    "copies and layouts": "copy|clone|contiguous|cat$|zero|fill|repeat|index|empty|resize",
    "linear layers": "mm$",
    "loss": "softmax|exp|mul|sum|div|mean|add|sub|neg|pow|eq|expand|stack",
}


# ------------------------------------------------------------------- processes that take turns
@contextlib.contextmanager
def worker(act, *arguments):
    """A process that runs act(pipe, *arguments); yields a function that calls it and waits."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_until_closed, args=(act, theirs, *arguments))
    process.start()
    theirs.close()

    def call(what: str = "go"):
        ours.send(what)
        return ours.recv()

    try:
        yield call
    finally:
        ours.close()
        process.join()


def _until_closed(act, pipe, *arguments) -> None:
    with contextlib.suppress(EOFError):
        act(pipe, *arguments)


def reach_peak(pipe) -> None:
    """Answers each call with GFLOP/s of a product of two large matrices and of a large convolution,
    the best of four, by precision. For float32 on some processors, the library for matrices does
    not reach what that for convolutions does; 5 x 5 windows allow no short cut."""
    while pipe.recv():
        found = {"product": {}, "convolution": {}}
        for dtype in (torch.float32, torch.bfloat16, *[torch.float16] * ON_GPU):
            def draw(*shape, dtype=dtype):
                return torch.randn(shape, device=DEVICE).to(dtype)

            a, b = draw(MATRIX, MATRIX), draw(MATRIX, MATRIX)
            image, weight = draw(8, CHANNELS, 64, 64), draw(CHANNELS, CHANNELS, 5, 5)
            image = image.to(memory_format=torch.channels_last)
            acts = {"product": (2 * MATRIX**3, lambda a=a, b=b: a @ b),
                    "convolution": (2 * image.numel() * weight[0].numel(),
                                    lambda image=image, weight=weight:
                                    conv2d(image, weight, padding=2))}
            for kind, (flop, act) in acts.items():
                found[kind][str(dtype).removeprefix("torch.")] = (
                    flop / 1e9 / min(_seconds(act) for _ in range(4)))
        pipe.send(found)


def train_in_rounds(pipe, way: str, shape: Profile, steps: int, rounds: int) -> None:
    """Answers each of the first calls with the seconds of so many optimiser steps, and each later
    one with the milliseconds that a single slice takes in the trained model."""
    slices, split = load(shape)
    rows = np.resize(split["train"], rounds * steps * shape.batch_size)  # one long epoch
    split = {"train": rows, "validation": split["validation"][:shape.batch_size]}
    shape = replace(shape, epochs=1)
    stop = Pause(pipe, steps)
    register_optimizer_step_post_hook(stop)
    if way in ("plain", "reused"):
        reused = hardware.freed_memory_is_reused() if way == "reused" else contextlib.nullcontext()
        with reused:
            stop.wait()
            vae = plain_loop.train(shape, 1.0, slices, split, DEVICE)
    else:
        if way in CHOICES:
            CHOICES[way]()
        accelerator = hardware.make_accelerator(compiled=way == "compiled")
        stop.precision = training.PRECISIONS[accelerator.mixed_precision]
        with hardware.freed_memory_is_reused():
            stop.wait()
            trained, *_ = training.fit(RunConfig(shape, 1.0), slices, split, accelerator)
        vae = network.build_model(asdict(shape))  # as a run is when it is loaded
        vae.load_state_dict(trained.state_dict())
        vae.to(DEVICE).eval()
    one = np.array(slices.aligned[:1])
    while True:
        pipe.send(latency(vae, one))
        pipe.recv()


def without_channels_last() -> None:
    def contiguous(label_maps):
        return network.one_hot(label_maps).contiguous()

    training.one_hot, torch.channels_last = contiguous, torch.contiguous_format


def without_elu_in_place() -> None:
    def build(shape: dict):
        vae = network.build_model(shape)
        for layer in vae.modules():
            layer.inplace = False
        return vae

    training.build_model = build


def without_fused_optimiser() -> None:
    adamw = torch.optim.AdamW
    torch.optim.AdamW = lambda *arguments, fused, **more: adamw(*arguments, **more)


#: Each leaves one choice out, in a process that does nothing else.
CHOICES = {
    "bfloat16": lambda: setattr(hardware, "mixed_precision", lambda device: "no"),
    "freed memory reused": lambda: setattr(hardware, "freed_memory_is_reused",
                                           contextlib.nullcontext),
    "upsampling as a matrix product": lambda: setattr(network.Upsample, "forward",
                                                      nn.ConvTranspose2d.forward),
    "channels-last": without_channels_last,
    "ELU in place": without_elu_in_place,
    "fused optimiser": without_fused_optimiser,
}


class Pause:
    """After every so many optimiser steps, send what they cost and wait for the next call."""

    def __init__(self, pipe, steps: int):
        self.pipe, self.steps, self.taken = pipe, steps, 0
        self.precision, self.profiler = "float32", None

    def wait(self) -> None:
        if self.pipe.recv() == "profile":
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_GPU
            self.profiler = profile(activities=kinds)
            self.profiler.start()
        _synchronise()
        self.started = time.perf_counter()

    def __call__(self, *_) -> None:
        self.taken += 1
        if self.taken % self.steps:
            return
        _synchronise()
        found = {"seconds": time.perf_counter() - self.started, "peak_mb": peak_mb(),
                 "precision": self.precision}
        if self.profiler:
            self.profiler.stop()
            found["shares"], self.profiler = shares(self.profiler), None
        self.pipe.send(found)
        self.wait()


def peak_mb() -> float:
    """The most memory so far: of the GPU what tensors took, else what the process had."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform.startswith("linux"):
        return status_mb("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


def shares(profiler: profile) -> dict[str, float]:
    """Share of each group of operators in the time of all."""
    times = defaultdict(float)
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):  # an operator; its kernels are counted in it
            group = next((name for name, pattern in GROUPS.items()
                          if re.search(pattern, event.key)), "rest")
            times[group] += (event.self_device_time_total if ON_GPU else
                             event.self_cpu_time_total)
    return {name: cost / sum(times.values())
            for name, cost in sorted(times.items(), key=lambda item: -item[1])}


def latency(vae, one: np.ndarray, times: int = 20) -> dict[str, float]:
    """Milliseconds to encode and decode one label map (1, S, S), and to decode one z."""
    z = np.zeros((1, vae.latent_dim), dtype=np.float32)
    if isinstance(vae, plain_loop.PlainVAE):
        acts = (lambda: plain_loop.reconstruct(vae, torch.from_numpy(one[0])).cpu(),
                lambda: plain_loop.decode(vae, torch.from_numpy(z).to(DEVICE)).cpu())
    else:
        acts = lambda: encoding.reconstruct(vae, one), lambda: encoding.decode(vae, z)
    return {name: 1000 * median([_seconds(act) for _ in range(times + 3)][3:])
            for name, act in zip(("reconstruct_ms", "decode_ms"), acts)}


def _seconds(act) -> float:
    _synchronise()
    started = time.perf_counter()
    act()
    _synchronise()
    return time.perf_counter() - started


def _synchronise() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------- what is trained
def profile_of(size: int) -> Profile:
    """`quick`, or the report's model at this size; its small learning rate suits short runs."""
    if size == PROFILES["quick"].size:
        return PROFILES["quick"]
    return replace(PROFILES["report"], size=size, batch_size=BATCHES[size], phantom_patients=15)


def load(shape: Profile) -> tuple[Slices, dict[str, np.ndarray]]:
    data = output_root() / "data"
    source = sources.find_source(data, shape, REPOSITORY)
    slices = load_or_align(source, shape.size, data / "processed", progress=False)
    return slices, splits.split(slices.table)


def flops_an_image(size: int, channels: int, latent_dim: int = 32) -> int:
    """Additions and multiplications of a forward and a backward pass, convolutions and linear
    layers counted one by one from their shapes; nothing is computed."""
    with torch.device("meta"):
        vae = plain_loop.PlainVAE(size, channels, latent_dim)
        target, noise = torch.empty(1, 4, size, size), torch.empty(1, latent_dim)
    with FlopCounterMode(display=False) as counter:
        vae(target, noise)[0].sum().backward()
    return counter.get_total_flops()


# ---------------------------------------------------------------------------------- measurements
def compare(size: int, ways: list[str], steps: int, rounds: int) -> dict:
    """Rounds of all ways and of what the machine can do at most, in turns."""
    shape = profile_of(size)
    slices, _ = load(shape)  # made once, before the processes read it
    total = 1 + rounds + (size == PROFILED_SIZE)
    found, peaks, delays = {w: [] for w in ways}, [], {w: [] for w in ways}
    with contextlib.ExitStack() as stack:
        call = {way: stack.enter_context(worker(train_in_rounds, way, shape, steps, total))
                for way in ways}
        peak = stack.enter_context(worker(reach_peak))
        for way in ways:
            print(f"{size}: {way} warms up, {call[way]()['seconds']:.1f} s", flush=True)
        for number in range(rounds):
            peaks.append(peak())
            first = number % len(ways)  # else one of them would always follow the matrix product
            for way in ways[first:] + ways[:first]:
                found[way].append(call[way]())
        profiled = {}
        if total > 1 + rounds:
            profiled = {way: call[way]("profile" if way == "here" else "go") for way in ways}
        for _ in range(rounds):
            for way in ways:
                delays[way].append(call[way]())
    rate = {way: shape.batch_size * steps / median(r["seconds"] for r in found[way])
            for way in ways}
    gflop = flops_an_image(size, shape.base_channels) / 1e9
    row = {"size": size, "channels": shape.base_channels, "batch": shape.batch_size,
           "steps": steps, "rounds": rounds, "gflop_an_image": gflop, "data": slices.source,
           "peak_gflops": best_of(peaks), "ways": {}}
    for way in ways:
        row["ways"][way] = {
            "images_a_second": rate[way], "times_plain": rate[way] / rate[ways[0]],
            "gflops": gflop * rate[way], "precision": found[way][-1]["precision"],
            "peak_mb": found[way][-1]["peak_mb"],
            "seconds": [r["seconds"] for r in found[way]],
            **{name: median(d[name] for d in delays[way]) for name in delays[way][0]}}
    if profiled:
        row["shares"] = profiled["here"]["shares"]
    return row


def best_of(peaks: list[dict]) -> dict:
    """The most that was reached, by kind and precision."""
    return {kind: {name: max(peak[kind][name] for peak in peaks) for name in by_precision}
            for kind, by_precision in peaks[0].items()}


def shares_of(peaks: dict, gflops: float, precision: str) -> dict[str, float]:
    return {f"share_of_{kind}": gflops / found[precision] for kind, found in peaks.items()}


def compare_choices(sizes: list[int], rounds: int) -> list[dict]:
    """How many times faster training here is than without each choice, the others kept."""
    rows = []
    for size in sizes:
        rate = {way: found["images_a_second"] for way, found in compare(
            size, ["here", *CHOICES], STEPS[size], rounds)["ways"].items()}
        rows.append({"size": size, "gains": {way: rate["here"] / rate[way] for way in CHOICES}})
        print(rows[-1], flush=True)
    return rows


def compare_dice(epochs: int) -> dict:
    """Test Dice of both ways, trained from the same weights on the same split, per seed."""
    shape = replace(PROFILES["quick"], epochs=epochs)
    slices, split = load(shape)
    pairs = []
    for seed in DICE_SEEDS:
        accelerator = hardware.make_accelerator()
        with hardware.freed_memory_is_reused():
            here, *_ = training.fit(RunConfig(shape, DICE_BETA, seed=seed), slices, split,
                                    accelerator)
        plain = plain_loop.train(shape, DICE_BETA, slices, split, DEVICE, seed)
        pairs.append({"seed": seed} | {
            name: run_results.evaluate(vae, slices, split, samples=10)["test_dice"]
            for name, vae in (("plain", plain), ("here", here))})
        print("seed {seed}: plain {plain:.3f}, here {here:.3f}".format(**pairs[-1]), flush=True)
    return {"pairs": pairs, "epochs": epochs, "beta": DICE_BETA, "size": shape.size,
            "channels": shape.base_channels, "data": slices.source,
            "mean_difference": np.mean([pair["here"] - pair["plain"] for pair in pairs])}


def train_report(shape: Profile) -> dict:
    """A whole training of a profile, as `python scripts/train.py` does it, eager and compiled:
    seconds, validation and what is kept of each epoch included, but not what is measured then."""
    slices, split = load(shape)
    with worker(reach_peak) as call:
        peak = call()
    config = RunConfig(shape, 1000.0, data=slices.fingerprint)
    flops = flops_an_image(shape.size, shape.base_channels)
    found = {"profile": shape.name, "beta": config.beta, "data": slices.source, "ways": {},
             "peak_gflops": peak}
    for way in ("here", *["compiled"] * hardware.can_compile()):
        with tempfile.TemporaryDirectory() as folder:
            run = sweep.train(sweep.Job(config, slices, split, Path(folder)),
                              Compute(compiled=way == "compiled"))
        spent = run.environment
        images = len(run.steps) * min(shape.batch_size, len(split["train"]))
        rate = images / spent["seconds"]
        found["ways"][way] = {
            "seconds": spent["seconds"], "epochs": spent["epochs"], "images_a_second": rate,
            "gflops": flops * rate / 1e9, "precision": spent["precision"],
            **shares_of(peak, flops * rate / 1e9, spent["precision"]),
            "test_dice": run.results["test_dice"], "peak_mb": peak_mb()}
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
    return found


def main() -> None:
    parser = results.command_line(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="optimiser steps a round")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--choices", action="store_true", help="leave out one choice at a time")
    parser.add_argument("--dice", action="store_true", help="compare quality, not speed")
    parser.add_argument("--epochs", type=int, default=DICE_EPOCHS, help="with --dice")
    parser.add_argument("--report", action="store_true", help="train the report's profile")
    chosen = parser.parse_args()
    if chosen.report and not ON_GPU:
        parser.error("--report: expected a CUDA device, where this takes minutes and not days")
    suffix = "_gpu" if ON_GPU else ""
    threads = {"machine": machine(), "threads": torch.get_num_threads()}
    if chosen.choices:
        results.record(chosen, f"training_choices{suffix}", threads | {
            "sizes": compare_choices(chosen.sizes, chosen.rounds)})
        return
    if chosen.dice:
        results.record(chosen, f"training_dice{suffix}",
                            threads | compare_dice(chosen.epochs))
        return
    if chosen.report:
        found = train_report(PROFILES["report"])
        results.record(chosen, f"training_report{suffix}", threads | found)
        print(found)
        return
    ways = [way for way in write_tables.WAYS if way != "compiled" or
            hardware.can_compile() and not chosen.no_compile]
    if not sys.platform.startswith("linux") or ON_GPU:
        ways.remove("reused")  # what is reused is the processor's memory, by a setting of glibc
    rows = [compare(size, ways, chosen.steps or STEPS[size], chosen.rounds)
            for size in chosen.sizes]
    best = best_of([row["peak_gflops"] for row in rows])
    for way in (way for row in rows for way in row["ways"].values()):
        way |= shares_of(best, way["gflops"], way["precision"])
    results.record(chosen, f"training{suffix}",
                        threads | {"matrix": MATRIX, "convolution": CHANNELS, "peak_gflops": best,
                                   "sizes": rows})
    for row in rows:
        for name, way in row["ways"].items():
            print(f"{row['size']:4d} {name:9s}{way['images_a_second']:8.1f} images/s "
                  f"({way['times_plain']:.2f} times plain), {way['gflops']:.0f} GFLOP/s, "
                  f"{100 * way['share_of_product']:.0f} % of the {way['precision']} product, "
                  f"{way['peak_mb']:.0f} MB; one slice {way['reconstruct_ms']:.1f} ms, decoding "
                  f"{way['decode_ms']:.1f} ms")
        for name, share in row.get("shares", {}).items():
            print(f"     {name:26s}{100 * share:5.1f} %")


if __name__ == "__main__":
    main()
