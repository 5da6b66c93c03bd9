"""Trainings in processes of their own, for tests to interrupt, to kill, and to join together.

    python tests/model/worker.py WORK TASK ARGUMENTS      WORK: what `pack` has written
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from cvae_utils import files, profiles
from cvae_utils.files import REPOSITORY
from cvae_utils.model import checkpoint, hardware, runs, training
from cvae_utils.model.progress import Reporter

ALONE = runs.Compute(torch.device("cpu"))
LAUNCHERS = {
    "alone": (),
    "two": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    "accelerate": ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
                   "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
}


def pack(path, config, slices, split):
    path.write_bytes(pickle.dumps((config, slices, split)))
    return path


def start(work, task, *arguments, launcher="alone", **environment):
    """What has become of a process that does a task of this file, or of several that do it."""
    return subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], __file__, work, task, *map(str, arguments)],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment, text=True,
        capture_output=True, timeout=300)


# ---------------------------------------------------------------------------- one that is stopped
def trained(config, slices, split, epochs, *folders):
    """Train in each of these folders, with Ctrl-C when so many epochs are done; 0 is never."""
    at_each_step(lambda done: done == float(epochs) and os.kill(os.getpid(), signal.SIGINT))
    for folder in folders:
        runs.load_or_train(config, slices, split, Path(folder), ALONE)


def killed(config, slices, split, out):
    """At each of MOMENTS let a training kill itself, and train again. Prints, by moment, what the
    killed one has left, and how many steps the second one took."""
    found = {}
    import torch._dynamo  # noqa: F401  once, and not in each child by its optimiser

    for moment, prepare in MOMENTS.items():
        folder, (reader, writer) = Path(out) / moment, os.pipe()
        for kill in (True, False):
            child = os.fork()
            if not child:
                prepare() if kill else at_each_step(lambda _, to=writer: os.write(to, b"."))
                runs.load_or_train(config, slices, split, folder, ALONE)
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


def in_an_epoch():
    at_each_step(lambda epochs: epochs > 1.5 and die())


def while_the_state_is_written():
    calls = []
    files.os.fsync = lambda _: calls.append(1) or (len(calls) == 3 and die())


def with_half_of_the_files_written():
    write = runs.write_json
    runs.write_json = lambda path, value: (write(path, value),
                                           path.name == "environment.json" and die())


def with_the_run_complete_and_its_state_still_there():
    remove = Path.unlink
    Path.unlink = lambda path, **options: (path.suffix == checkpoint.SUFFIX and die(),
                                           remove(path, **options))


MOMENTS = {moment.__name__: moment for moment in (
    in_an_epoch, while_the_state_is_written, with_half_of_the_files_written,
    with_the_run_complete_and_its_state_still_there)}


# ------------------------------------------------------------------------------- several together
def main(config, slices, split, out, *arguments):
    """What the shell's command does, with this profile as `smoke`; writes what each rank wrote."""
    from scripts import train

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
    """Train each of [changes of the profile, micro_batch, epochs to stop after or 0, seed], and
    write history, steps and environment. A seed that was used before goes on where that training
    stopped."""
    accelerator = hardware.make_accelerator(ALONE.device, "no")
    for number, task in enumerate(map(json.loads, tasks)):
        changes, micro_batch, last, seed = task
        changed = replace(config, profile=replace(config.profile, **changes), seed=seed)
        try:
            _, history, steps, environment = training.fit(
                changed, slices, split, accelerator, Path(folder, f"{seed}.checkpoint"),
                micro_batch, stop_after(last) if last else lambda *_, **__: None)
        except Stopped:
            continue
        if accelerator.is_main_process:
            Path(folder, f"{number}.json").write_text(json.dumps(
                [history.to_dict("list"), steps.to_dict("list"), environment]))
    accelerator.end_training()


# ---------------------------------------------------------------------------------------- support
class Stopped(Exception):
    """Ends a training where a test wants it to end."""


def stop_after(steps_of_epochs):
    """A `report` of training.fit that ends it once the steps of so many epochs are taken."""
    def report(epochs, **_):
        if epochs >= steps_of_epochs:
            raise Stopped

    return report


def at_each_step(act):
    """Have `act` called after each step of a training, with the epochs that are done."""
    class Telling(Reporter):
        def __call__(self, epochs, loss=None, dice=None):
            super().__call__(epochs, loss, dice)
            if loss is None:
                act(epochs)

    runs.Reporter = Telling


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process can be forked as long as no thread has worked for it
    with open(sys.argv[1], "rb") as packed:
        globals()[sys.argv[2]](*pickle.load(packed), *sys.argv[3:])
