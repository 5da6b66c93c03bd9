"""Several processes that train together, other tools' settings, the shell, and a notebook's kernel.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
import worker
from jupyter_client.manager import start_new_kernel
from same import assert_same_curve, end_of, names

from cvae_utils import profiles
from cvae_utils import study as study_module
from cvae_utils.files import REPOSITORY, DataError, read_json
from cvae_utils.model import checkpoint, hardware, runs
from cvae_utils.model.runs import RUN_FILES, Compute, load_or_train
from cvae_utils.model.training import Training
from scripts import train

CPU = torch.device("cpu")
#: Settings of accelerate's own, and ranks that a scheduler or another tool has left behind.
OTHERS = {
    "ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_DYNAMIC": "maybe",
    "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true", "ACCELERATE_USE_SAGEMAKER": "true",
    "ACCELERATE_USE_CPU": "maybe", "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_FP8_BACKEND": "TE", "ACCELERATE_DEBUG_MODE": "maybe",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2",
    "FORK_LAUNCHED": "1", "PMI_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}
RANKS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1",
         "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "1"}


@pytest.fixture
def slow(config):
    """Three epochs with a learning rate at which rounding does not grow."""
    return replace(config, profile=replace(config.profile, epochs=3, learning_rate=1e-3))


def test_settings_of_other_tools_change_nothing(brief, packed, slices, split, tmp_path):
    load_or_train(brief, slices, split, tmp_path / "alone", worker.ALONE)
    ended = worker.start(packed(brief), "trained", 0, tmp_path / "among others", **OTHERS | RANKS)
    assert ended.returncode == 0, ended.stderr
    alone, among = (end_of(runs.place(brief, tmp_path / name)) for name in ("alone",
                                                                           "among others"))
    assert alone == among


def test_two_processes_train_as_one_whatever_the_batch_and_wherever_they_stop(
        slow, packed, again, tmp_path):
    slow = replace(slow, profile=replace(slow.profile, augment=1.0), rate=5.0, class_probes=True)
    tasks = [[{}, 0, 0, 0], [{"batch_size": 7}, 0, 0, 1], [{"batch_size": 7}, 3, 0, 2],
             [{}, 0, 2, 3], [{}, 0, 0, 3], [{}, 0, 3, 4]]
    ended = worker.start(packed(slow), "fits", tmp_path, *map(json.dumps, tasks), launcher="two",
                         **OTHERS)
    assert ended.returncode == 0, ended.stderr
    for number, (changes, micro_batch, _, seed) in enumerate(tasks):
        one = replace(slow, profile=replace(slow.profile, **changes), seed=seed)
        expected = again(one)
        if number == 5:  # stopped, and gone on with by one process
            assert not (tmp_path / "5.json").exists()
            found = again(one, state=tmp_path / "4.checkpoint")[1:3]
        elif number == 3:
            continue
        else:
            *found, environment = read_json(tmp_path / f"{number}.json")
            assert environment["processes"] == 2
            assert environment["micro_batch"] == (micro_batch or 4)
        assert_same_curve(found, expected[1:3])
    assert not list(tmp_path.glob(".*"))  # no half of a file


def test_launchers_make_the_run_of_one_process_and_the_first_alone_writes(slow, packed, tmp_path):
    work, made = packed(replace(slow, profile=replace(slow.profile, name="smoke"))), {}
    for launcher, processes in (("accelerate", 1), ("two", 2)):
        out = tmp_path / launcher
        out.mkdir()
        ended = worker.start(work, "main", out, "--beta", "10", launcher=launcher,
                             **OTHERS | RANKS)
        assert ended.returncode == 0, ended.stderr
        (folder,) = (out / "data" / "runs").iterdir()
        assert ended.stdout.count(f"{folder}\n") == 1 and "test Dice" in ended.stdout
        made[launcher] = runs.load_run(folder, CPU)
        assert made[launcher].environment["processes"] == processes
        assert {path.name for path in folder.iterdir()} > set(RUN_FILES)
    assert len({one.folder.name for one in made.values()}) == 1
    one, two = made.values()
    assert_same_curve([two.history, two.steps], [one.history, one.steps])
    by_first, by_second = (read_json(tmp_path / "two" / f"rank{rank}.json") for rank in (0, 1))
    assert by_second == []
    assert any(path.endswith("aligned.npy") for path in by_first)
    assert any(".checkpoint" in path for path in by_first)


def test_processes_that_cannot_help_are_not_started(slow, slices, split, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "notebook_launcher", None)
    with pytest.raises(ValueError, match="expected at most 8 processes, .* found 1000000"):
        load_or_train(slow, slices, split, tmp_path, Compute(CPU, 10**6))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(DataError, match="Restart it, or train from a shell: torchrun --standalone "
                                        "--nproc_per_node 2 scripts/train.py --beta 10$"):
        load_or_train(slow, slices, split, tmp_path, Compute(CPU, processes=2))


# ------------------------------------------------------------------------------ a notebook's kernel
@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A function that runs a cell: its reply, and what was printed."""
    for name, value in {"IPYTHONDIR": tmp_path / "ipython", "CVAE_PROFILE": "smoke",
                        "CVAE_OUT": tmp_path / "out", "CVAE_DATA": "phantom"}.items():
        monkeypatch.setenv(name, str(value))
    manager, client = start_new_kernel(cwd=str(REPOSITORY / "tests" / "model"))

    def run(cell):
        printed = []
        reply = client.execute_interactive(cell, timeout=120, output_hook=lambda message: (
            printed.append(message["content"].get("text", ""))))
        return reply["content"], "".join(printed)

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


BEGIN = """
import os, signal, sys
from dataclasses import replace
import torch
sys.path.insert(0, "../..")
import worker
from cvae_utils import profiles
from cvae_utils.model import hardware, training
from cvae_utils.study import begin
profiles.PROFILES["smoke"] = replace(profiles.PROFILES["smoke"], epochs=3, batch_size=8,
    base_channels=4, samples=20, phantom_patients=10, learning_rate=1e-3)
hardware.best_device = lambda: torch.device("cpu")
study = begin("02_train_vae")
study.slices
"""
INTERRUPTED = """
worker.at_each_step(lambda epochs: epochs == 2 and os.kill(os.getpid(), signal.SIGINT))
study.run(10.0)
"""
NEXT_EPOCH = """
def told(self, report):
    raise SystemError(f"epoch {self.done.epoch + 1}")
training.Training.epoch = told
study.run(10.0)
"""


def test_interrupted_cell_ends_and_the_same_cell_goes_on(kernel, tmp_path):
    reply, printed = kernel(BEGIN)
    assert reply["status"] == "ok", printed
    reply, printed = kernel(INTERRUPTED)
    assert reply["ename"] == "KeyboardInterrupt"
    assert "Stopped in epoch 2 of 3. The state after epoch 1 is kept" in printed
    assert "load_unfinished" in printed
    (state,) = (tmp_path / "out" / "data" / "runs").iterdir()
    assert checkpoint.load(state)["epoch"] == 1
    reply, _ = kernel(NEXT_EPOCH)
    assert (reply["ename"], reply["evalue"]) == ("SystemError", "epoch 2")


BOTH = f"""
os.environ.update({OTHERS | RANKS})
os.cpu_count = lambda: 4  # as if there were two cores for each of two processes
torch.set_num_threads(4)
print("side by side", *study.runs([1.0, 100.0]))
for folder, processes in (("one", 1), ("two", 2)):
    study.data_folder, study.processes = study.data_folder.parent / folder, processes
    print("environment", study.run(10.0).environment["processes"])
assert os.environ["RANK"] == "1"
"""


def test_processes_start_from_a_kernel_that_has_already_trained_with_threads(kernel, tmp_path):
    """To fork after OpenMP's threads have worked can hang; this fails then."""
    kernel(BEGIN)
    reply, printed = kernel(BOTH)
    assert reply["status"] == "ok", printed
    for said in ("side by side 1.0 100.0\n", "environment 1\n", "environment 2\n"):
        assert said in printed
    one, two = (runs.load_run(next((tmp_path / "out" / name / "runs").iterdir()), CPU)
                for name in ("one", "two"))
    assert names(one.folder.parent) == names(two.folder.parent) == [one.folder.name]
    assert_same_curve([two.history, two.steps], [one.history, one.steps])


# ---------------------------------------------------------------------------------- from the shell
@pytest.fixture
def shell(tmp_path, monkeypatch, config):
    """train.main with outputs to tmp_path, and a tiny profile as `smoke`."""
    for name, value in {"CVAE_OUT": tmp_path, "CVAE_PROFILE": "smoke"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(config.profile, name="smoke", epochs=1))
    monkeypatch.setitem(profiles.VARIANTS["smoke"], "sharp", {})
    monkeypatch.setattr(hardware, "best_device", lambda: CPU)
    yield lambda *arguments: train.main(list(arguments))
    hardware.forget_accelerator()


@pytest.mark.parametrize(("arguments", "beta", "settings", "at"), [
    ((), 1000.0, {}, {}),
    (("--beta", "12.5", "--schedule", "linear", "--precision", "no", "--micro-batch", "3"), 12.5,
     {"schedule": "linear"}, {}),
    (("--beta", "5", "--seed", "3", "--split-by", "slice"), 5.0, {},
     {"seed": 3, "split_by": "slice"}),
    (("--sharp", "--rate", "6.5"), 1000.0, {"rate": 6.5}, {}),
])
def test_run_from_the_shell_is_the_one_that_a_notebook_asks_for(
        shell, tmp_path, monkeypatch, capsys, arguments, beta, settings, at):
    shell("--profile", "smoke", *arguments)
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "data" / "runs").iterdir()
    monkeypatch.setattr(Training, "epoch", None)
    study = study_module.begin("03", **at)
    if "--sharp" in arguments:
        study = study.at(profile=study.profile.sharp)
    found = study.run(beta, **settings)
    assert found.folder == folder and str(folder) in printed
    assert f"test Dice {found.results['test_dice']:.3f}" in printed
    assert f"split by {study.split_by}, seed {study.seed}" in printed
    extra = [beta] if not settings and beta not in profiles.BETAS else []
    assert ("-sharp-" in folder.name) == ("--sharp" in arguments)
    assert study.betas() == sorted([*profiles.BETAS, *extra])
    assert found.environment["micro_batch"] == (3 if "--micro-batch" in arguments else 8)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--profile", "huge"), "--profile: invalid choice: 'huge'"),
    (("--schedule", "steep"), "--schedule: invalid choice: 'steep'"),
    (("--split-by", "heart"), "--split-by: invalid choice: 'heart'"),
    (("--precision", "fp8"), "--precision: invalid choice: 'fp8'"),
    (("--beta", "ten"), "--beta: invalid float value: 'ten'"),
    (("--beta", "-5"), "--beta: expected a number of at least 0 .*, found -5.0. Change this"),
    (("--rate", "-3"), "--rate: expected a number of at least 0"),
    (("--seed", "-1"), "--seed: expected a whole number from 0 to 4294967295, found -1"),
    (("--micro-batch", "-1"), "--micro-batch: expected a whole number from 0 to .*, found -1"),
    (("--precision", "fp16"), "--precision: expected bf16 or no on cpu, found fp16"),
    (("--compile",), "--compile: expected a C.. compiler and the headers of Python; leave it out"),
])
def test_wrong_argument_is_named_and_nothing_is_made(
        shell, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(hardware, "can_compile", lambda: False)
    with pytest.raises(SystemExit) as ended:
        shell(*arguments)
    assert ended.value.code == 2 and re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
