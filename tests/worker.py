"""Training in processes of their own, for tests to interrupt, to kill, and to join together.

    python tests/worker.py WORK TASK ARGUMENTS      WORK: what `pack` has written
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cvae_utils import checkpoint, evaluation, hardware, profiles, runs, storage, train
from cvae_utils.storage import REPOSITORY

ALONE = train.Machinery(torch.device("cpu"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def pack(path, config, slices, split):
    path.write_bytes(pickle.dumps((config, slices, split)))
    return path


def start(work, task, *arguments, processes=1, **environment):
    """The process that does a task of this file, or that starts several ones to do it together."""
    launcher = (*TORCHRUN, str(processes)) if processes > 1 else ()
    return subprocess.run(
        [sys.executable, *launcher, __file__, work, task, *map(str, arguments)], cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment, text=True,
        capture_output=True, timeout=300)


# ---------------------------------------------------------------------------- one that is stopped
def trained(config, slices, split, step, *folders):
    """Train in each of these folders, with Ctrl-C in the optimiser step of this number."""
    tell_steps(lambda number: number == int(step) and os.kill(os.getpid(), signal.SIGINT))
    for folder in folders:
        train.load_or_train(config, slices, split, Path(folder), ALONE, progress=False)


def killed(config, slices, split, out, times):
    """Kill so many trainings of one run, each a random while after a random step, then let one be;
    beside it, one that is left alone. Prints the epoch that was kept at each death."""
    random, state = np.random.default_rng(0), state_of(config, Path(out) / "killed")
    for _ in range(int(times)):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            tell_steps(lambda number, writer=writer: os.write(writer, b"."))
            train.load_or_train(config, slices, split, Path(out) / "killed", ALONE, False)
            os._exit(0)
        os.close(writer)
        for _ in range(random.integers(5, 25)):
            os.read(reader, 1)  # blocks until the step begins
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reader)
        print(checkpoint.load(state)["epoch"] if state.is_file() else 0)
    for name in ("killed", "alone"):
        train.load_or_train(config, slices, split, Path(out) / name, ALONE, progress=False)


def killed_when(config, slices, split, out):
    """At each of MOMENTS let a training kill itself, and train again. Prints, by moment, what the
    killed one has left, and how many steps the second one took."""
    found = {}
    for moment, prepare in MOMENTS.items():
        folder, (reader, writer) = Path(out) / moment, os.pipe()
        for kill in (True, False):
            child = os.fork()
            if not child:
                prepare() if kill else tell_steps(lambda *_, writer=writer: os.write(writer, b"."))
                train.load_or_train(config, slices, split, folder, ALONE, progress=False)
                os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert ended == (-signal.SIGKILL if kill else 0), f"{moment}: {ended}"
            if kill:
                left = sorted(path.name for path in folder.iterdir())
        os.close(writer)
        found[moment] = [left, len(os.read(reader, 10_000))]
        os.close(reader)
    print(json.dumps(found))


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def while_the_state_is_written():
    calls = []
    storage.os.fsync = lambda _: calls.append(1) or (len(calls) == 3 and die())


def in_the_evaluation():
    evaluation.evaluate = die


def with_half_of_the_files_written():
    write = runs.write_json
    runs.write_json = lambda path, value: (write(path, value),
                                           path.name == "results.json" and die())


def with_the_run_complete_and_its_state_still_there():
    remove = Path.unlink
    Path.unlink = lambda path, **options: (path.suffix == checkpoint.SUFFIX and die(),
                                           remove(path, **options))


MOMENTS = {moment.__name__: moment for moment in (
    while_the_state_is_written, in_the_evaluation, with_half_of_the_files_written,
    with_the_run_complete_and_its_state_still_there)}


# ------------------------------------------------------------------------------- several together
def main(config, slices, split, out, *arguments):
    """What the shell's command does, with this profile as `smoke`; writes what each rank wrote."""
    written = []

    def seen(event, given):
        writes = event != "open" or given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and writes:
            written.append(str(given[0]))

    sys.addaudithook(seen)
    os.environ["CVAE_OUT"] = out
    profiles.PROFILES["smoke"] = config.profile
    rank = os.environ.get("RANK", "0")
    train.main(["--profile", "smoke", "--precision", "no", *arguments])
    written = [path for path in written if path.startswith(f"{out}/data/")]
    Path(out, f"rank{rank}.json").write_text(json.dumps(written))


def fits(config, slices, split, folder, *tasks):
    """Train each of [changes of the profile, micro_batch, epoch to stop in or 0, seed], and write
    history, steps and environment. A seed that was used before goes on where that training
    stopped."""
    accelerator, row = hardware.make_accelerator(ALONE.device, "no"), train._epoch_row
    for number, task in enumerate(map(json.loads, tasks)):
        changes, micro_batch, last, seed = task
        train._epoch_row = lambda epoch, *rest, last=last: stop() if epoch == last else row(epoch,
                                                                                           *rest)
        changed = replace(config, profile=replace(config.profile, **changes), seed=seed)
        try:
            _, history, steps, environment = train.fit(
                changed, slices, split, accelerator, Path(folder, f"{seed}.checkpoint"),
                micro_batch, progress=False)
        except Stopped:
            continue
        if accelerator.is_main_process:
            Path(folder, f"{number}.json").write_text(json.dumps(
                [history.to_dict("list"), steps.to_dict("list"), environment]))
    accelerator.end_training()


class Stopped(Exception):
    pass


def stop():
    raise Stopped


# ---------------------------------------------------------------------------------------- support
def tell_steps(tell):
    """Have `tell` called with its number, from 1 on, before each optimiser step."""
    factor, count = train.learning_rate_factor, iter(range(1, 10**9))
    train.learning_rate_factor = lambda *given: (tell(next(count)), factor(*given))[1]


def state_of(config, runs):
    return runs / f"{config.folder_name}{checkpoint.SUFFIX}"


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process can be forked as long as no thread has worked for it
    with open(sys.argv[1], "rb") as packed:
        globals()[sys.argv[2]](*pickle.load(packed), *sys.argv[3:])
