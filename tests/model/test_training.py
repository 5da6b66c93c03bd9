"""Training: what it learns and records, what a run is called, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from same import assert_same_curve, same_weights

from cvae_utils import shape_metrics
from cvae_utils.files import read_json
from cvae_utils.model import encoding, hardware, losses, runs, training
from cvae_utils.model.network import ConvVAE, one_hot
from cvae_utils.model.runs import Compute, load_or_train
from cvae_utils.model.training import RunConfig, Training, fit

CPU = torch.device("cpu")


@pytest.fixture
def seen(monkeypatch):
    """Training batches and noise, as the model sees them."""
    shown, forward = [], ConvVAE.forward
    monkeypatch.setattr(ConvVAE, "forward", lambda self, target, noise: (
        shown.append((target, noise)), forward(self, target, noise))[1])
    return shown


# --------------------------------------------------------------------------- learning and recording
def test_training_lowers_the_loss_and_records_it(again, config, tiny, split):
    model, history, steps, environment = again(
        replace(config, beta=1000.0, profile=replace(tiny, epochs=8)))
    assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]
    assert history["validation_loss"].iloc[-1] < 0.8 * history["validation_loss"].iloc[0]
    assert list(history.columns) == [
        "epoch", "beta", "train_loss", "train_cross_entropy", "train_dice_loss", "train_kl",
        "validation_loss", "validation_cross_entropy", "validation_dice_loss", "validation_kl",
        "validation_dice", "validation_RV", "validation_MYO", "validation_LV",
    ]
    assert history["epoch"].tolist() == list(range(1, 9)) and not model.training
    assert len(steps) == 8 * (len(split["train"]) // 8)  # the smaller last batch is dropped
    assert list(steps.columns) == ["epoch", "beta", "loss", "cross_entropy", "kl", "RV", "MYO",
                                   "LV"]
    means = steps.groupby("epoch").mean()
    means["dice_loss"] = 1 - means[["RV", "MYO", "LV"]].mean(axis=1)
    for name in ("loss", "cross_entropy", "dice_loss", "kl"):
        assert history[f"train_{name}"].tolist() == pytest.approx(means[name].tolist(), rel=1e-5)
    for part in ("train", "validation"):
        terms = (history[f"{part}_cross_entropy"] + history[f"{part}_dice_loss"]
                 + 1000 * history[f"{part}_kl"] / 256**2)
        assert history[f"{part}_loss"].to_numpy() == pytest.approx(terms.to_numpy(), rel=1e-3)
    assert environment["device"] == "cpu" and environment["epochs"] == 8
    assert environment["processes"] == 1 and environment["micro_batch"] == 8


@pytest.mark.parametrize(("precision", "name"), [("no", "float32"), ("bf16", "bfloat16")])
def test_environment_says_in_which_precision_was_computed(
        brief, slices, split, tmp_path, precision, name):
    found = load_or_train(brief, slices, split, tmp_path, Compute(CPU, precision=precision))
    assert read_json(found.folder / "environment.json") == found.environment
    assert found.environment["precision"] == name and found.environment["processes"] == 1


def test_one_seed_gives_one_run_wherever_the_slices_are_and_another_seed_another(
        again, brief, slices):
    assert isinstance(slices.aligned, np.memmap)
    mapped = again(brief)
    in_memory = again(brief, slices=replace(slices, aligned=np.array(slices.aligned)))
    assert same_weights(mapped[0], in_memory[0])
    pd.testing.assert_frame_equal(mapped[1], in_memory[1], check_exact=True)
    assert not same_weights(mapped[0], again(replace(brief, seed=1))[0])


def test_slices_are_read_a_batch_at_a_time_on_the_cpu(again, brief, slices, monkeypatch):
    class Watched(np.memmap):
        largest = 0

        def __getitem__(self, rows):
            Watched.largest = max(Watched.largest, np.size(rows))
            return super().__getitem__(rows)

    monkeypatch.setattr(encoding, "BATCH_PIXELS", 8 * 32**2)
    again(brief, slices=replace(slices, aligned=slices.aligned.view(Watched)))
    assert Watched.largest == 8


def test_images_pass_a_few_at_a_time_with_the_same_result(again, brief):
    """Micro-batches of 3, 3 and 2 of 8: their gradients are summed with their shares."""
    slow = replace(brief, profile=replace(brief.profile, learning_rate=1e-3, augment=1.0),
                   class_probes=True)
    whole, parts = again(slow), again(slow, micro_batch=3)
    assert (whole[3]["micro_batch"], parts[3]["micro_batch"]) == (8, 3)
    assert_same_curve(parts[1:3], whole[1:3])


def test_compiled_model_trains_as_the_plain_one(brief, slices, split, tmp_path, monkeypatch):
    """As traced for the compiler; to let it make machine code of that would take a minute."""
    accelerator, backends = hardware.Accelerator, []

    def traced(dynamo_backend, **options):
        backends.append(dynamo_backend)
        return accelerator(dynamo_backend=dynamo_backend.replace("inductor", "aot_eager"),
                           **options)

    monkeypatch.setattr(hardware, "Accelerator", traced)
    small = replace(brief, profile=replace(brief.profile, epochs=1, learning_rate=1e-3))
    plain, compiled = (
        load_or_train(small, slices, split, tmp_path / str(compiled),
                      Compute(CPU, precision="no", compiled=compiled))
        for compiled in (False, True))
    assert backends == ["no", "inductor"] and compiled.environment["compiled"]
    assert_same_curve([compiled.history, compiled.steps], [plain.history, plain.steps])
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()


def test_steps_can_tell_which_class_drives_the_gradient_and_how_large_each_is_drawn(
        again, config, brief, slices, split):
    steps = again(replace(config, class_probes=True))[2]
    areas = shape_metrics.areas(slices.aligned[split["train"]]).mean(axis=0) / slices.size**2
    drawn = steps[[f"area_{name}" for name in ("RV", "MYO", "LV")]].to_numpy()
    assert drawn[-26:].mean(axis=0) == pytest.approx(areas, rel=0.25)  # of two epochs
    gradient = steps.filter(like="gradient_")
    assert gradient.shape[1] == 4 and (gradient > 0).all(axis=None)
    # Most pixels are background: it drives the first epoch, and is learnt by the last.
    first, last = (part["gradient_BACKGROUND"].sum() / part.sum().sum()
                   for part in (gradient.head(13), gradient.tail(13)))
    assert first > 2 * last
    assert same_weights(again(brief)[0], again(replace(brief, class_probes=True))[0])


@pytest.mark.parametrize("batch", [2, 256])
def test_validation_scores_are_means_over_slices(
        accelerator, config, untrained, slices, split, batch, monkeypatch):
    """Of five slices, one of them without RV, in batches of any size."""
    maps = np.array(slices.aligned[:5])
    maps[2][maps[2] == 1] = 0
    monkeypatch.setattr(encoding, "BATCH_PIXELS", batch * 32**2)
    small = replace(config, beta=1000.0, profile=replace(config.profile, batch_size=2))
    of_five = Training(small, replace(slices, aligned=maps),
                       split | {"validation": np.arange(5), "train": np.arange(2)}, accelerator)
    of_five.vae.load_state_dict(untrained.state_dict())
    found = of_five.validate()
    dice = shape_metrics.dice_per_class(encoding.reconstruct(untrained, maps), maps)
    assert found["validation_dice"] == pytest.approx(np.nanmean(dice, axis=1).mean(), rel=1e-5)
    for name, value in shape_metrics.mean_by_class(dice).items():
        assert found[f"validation_{name}"] == pytest.approx(value, rel=1e-5)
    with torch.no_grad():
        target = one_hot(torch.from_numpy(maps))
        mu, logvar = untrained.encode(target)
        terms = losses.loss_terms(untrained.decode(mu), target, mu, logvar)
    assert found["validation_loss"] == pytest.approx(terms.total(1000.0).item(), rel=1e-4)
    assert found["validation_kl"] == pytest.approx(terms.kl.item(), rel=1e-4)


# ------------------------------------------------------------- beta, augmentation and optimiser
def test_beta_is_moved_until_kl_is_at_its_rate(again, config):
    """From beta = 1000, where KL would stay far below, and from 1, where it would be far above."""
    for start in (1000.0, 1.0):
        _, history, steps, environment = again(replace(config, beta=start, rate=5.0))
        assert history["train_kl"].tail(4).mean() == pytest.approx(5, rel=0.15)
        assert steps["beta"].iloc[0] == start and environment["best_epoch"] == len(history)
        assert history["validation_loss"].iloc[-1] == pytest.approx(
            history["validation_cross_entropy"].iloc[-1] + history["validation_dice_loss"].iloc[-1]
            + steps["beta"].iloc[-1] * history["validation_kl"].iloc[-1] / 256**2, rel=0.02)


def test_a_schedule_rises_to_a_beta_that_then_follows_the_rate(again, brief):
    profile = replace(brief.profile, epochs=4)
    steps = again(replace(brief, profile=profile, beta=1000.0, schedule="linear", rate=5.0))[2]
    rising, after = np.split(steps["beta"].to_numpy(), 2)
    assert rising == pytest.approx(np.linspace(1, 1000, len(rising), endpoint=False), rel=1e-3)
    kl = steps["kl"].to_numpy()[len(rising):]
    expected = 1000 * np.exp(40 / len(steps) * np.cumsum(np.clip(kl / 5 - 1, -1, 1)))
    assert after[1:] == pytest.approx(expected[:-1], rel=1e-3)


def test_augmentation_shows_the_model_other_slices(again, brief, seen):
    again(brief)
    plain, seen[:] = [target for target, _ in seen], []
    again(replace(brief, profile=replace(brief.profile, augment=1.0)))
    assert not any(torch.equal(a, b) for a, (b, _) in zip(plain, seen, strict=True))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_plain_auto_encoder_decodes_mu(again, brief, seen, beta):
    again(replace(brief, beta=beta))
    assert torch.stack([noise for _, noise in seen]).any() == (beta > 0)


def test_decay_inside_adam_is_another_optimiser(again, brief):
    profile = replace(brief.profile, weight_decay=0.3)
    decoupled, coupled = (again(replace(brief, profile=replace(profile, coupled_decay=inside)))[0]
                          for inside in (False, True))
    assert not same_weights(decoupled, coupled)


def test_learning_rate_warms_up_and_then_falls_along_half_a_cosine(tiny):
    profile = replace(tiny, warmup_steps=4)
    found = [training.learning_rate_factor(s, 104, profile) for s in (0, 1, 3, 4, 54, 104, 110)]
    assert found == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0, 0])
    constant = replace(tiny, warmup_steps=0, decay="constant")
    assert [training.learning_rate_factor(s, 9, constant) for s in (0, 5, 9)] == [1, 1, 1]


def test_largest_beta_still_trains(again, brief):
    history = again(replace(brief, beta=1.8e19))[1]
    assert np.isfinite(history["train_loss"]).all() and history["train_kl"].iloc[-1] < 0.01


# ------------------------------------------------------------------------------ the best epoch
@pytest.mark.parametrize(("validation_losses", "best", "epochs", "settings"), [
    ([3, 1, 2, 2, 0, 0], 2, 4, {}),  # stops two epochs after the best and never sees the 0
    ([3, 2, 2, 1, 2, 1], 4, 6, {}),  # a tie is not better
    ([6, 5, 4, 3, 2, 1], 6, 6, {}),
    ([0, 0, 0, 4, 3, 5], 5, 6, {"schedule": "linear"}),  # before beta has risen, none is the best
    ([0, 0, 0, 4, 3, 5], 6, 6, {"rate": 5.0}),  # nor while it moves
])
def test_weights_are_those_of_the_best_epoch(
        again, config, tiny, monkeypatch, validation_losses, best, epochs, settings):
    weights, validate = [], Training.validate

    def told(self):
        weights.append({name: value.clone() for name, value in self.vae.state_dict().items()})
        return validate(self) | {"validation_loss": validation_losses[len(weights) - 1]}

    monkeypatch.setattr(Training, "validate", told)
    patient = replace(config, profile=replace(tiny, epochs=6, patience=2, batch_size=16),
                      **settings)
    model, history, _, environment = again(patient)
    assert (environment["best_epoch"], environment["epochs"], len(history)) == (best, epochs,
                                                                                  epochs)
    assert all(torch.equal(x, weights[best - 1][k]) for k, x in model.state_dict().items())
    assert not torch.equal(weights[0]["from_z.weight"], weights[1]["from_z.weight"])


# ------------------------------------------------------------------------------- names of runs
def test_whatever_a_run_depends_on_is_in_its_name(config, tiny, tmp_path):
    others = [replace(config, **change) for change in (
        {}, {"beta": 1.0}, {"schedule": "linear"}, {"seed": 1}, {"split_by": "slice"}, {"rate": 6},
        {"data": "other"}, {"class_probes": True}, {"profile": replace(tiny, weight_decay=0.0)},
        {"profile": replace(tiny, name="other")},
    )]
    names = [runs.place(other, tmp_path).name for other in others]
    assert len(set(names)) == len(names)
    assert names[0].startswith("tiny-beta10-seed0-")
    assert names[2].startswith("tiny-beta10-linear-seed0-")
    same = {runs.place(replace(config, beta=beta, seed=seed, rate=rate), tmp_path).name
            for beta, seed, rate in ((10, 0, 0), (10.0, np.int64(0), 0.0), (np.int32(10), 0, 0),
                                     (np.float64(10), 0, -0.0))}
    measured_otherwise = replace(tiny, samples=7, phantom_patients=3)  # which trains nothing anew
    same |= {runs.place(replace(config, profile=measured_otherwise), tmp_path).name}
    assert same == {names[0]}
    assert names[0] == runs.place(RunConfig(tiny, 10.0, data=config.data), tmp_path).name


# ---------------------------------------------------------------------- what makes no sense
NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, -1e-9, None, "10", True, [1], 10**400]
NO_COUNTS = [*NO_NUMBERS, 1.5, 2.0]


def settings(**values):
    return [(name, value) for name, some in values.items() for value in some]


@pytest.mark.parametrize(("name", "value"), settings(
    beta=[*NO_NUMBERS, 1e39, 1e20], rate=NO_NUMBERS, seed=[*NO_COUNTS, 2**32],
    schedule=["steep", "", None, ["linear"]], split_by=["heart", "", None]))
def test_configuration_without_sense_is_refused(config, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found .*\. Change this setting"):
        replace(config, **{name: value})


@pytest.mark.parametrize(("name", "value"), settings(
    size=[*NO_COUNTS, 0, 8, 33], decay=["steep", None], coupled_decay=["no", None],
    network=["deep", None],
    learning_rate=[*NO_NUMBERS, 0], gradient_clip=[*NO_NUMBERS, 0],
    weight_decay=NO_NUMBERS, augment=NO_NUMBERS, warmup_steps=NO_COUNTS,
    **dict.fromkeys(("base_channels", "epochs", "batch_size", "patience", "samples", "latent_dim",
                     "phantom_patients"), [*NO_COUNTS, 0])))
def test_profile_without_sense_is_refused(tiny, name, value):
    with pytest.raises(ValueError, match=rf"^{name} of profile tiny: expected .*, found .*\. Chan"):
        replace(tiny, **{name: value})


@pytest.mark.parametrize(("name", "value"), settings(
    processes=[*NO_COUNTS, 0], micro_batch=NO_COUNTS, precision=["fp8", "fp16", None]))
def test_compute_without_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found "):
        Compute(**{"device": CPU, name: value})


@pytest.mark.parametrize("change", [{"rate": 5.0}, {"schedule": "exponential"},
                                    {"schedule": "late-exponential"}])
def test_what_cannot_move_a_beta_of_zero_is_refused(config, change):
    assert replace(config, beta=0, schedule="linear").beta == 0
    with pytest.raises(ValueError, match="^beta: expected a number above 0, .* found 0"):
        replace(config, beta=0.0, **change)


def test_slices_of_another_size_and_more_processes_than_images_are_refused(
        again, config, tiny, slices, split):
    with pytest.raises(ValueError, match="expected slices of 64 pixels, found 32"):
        again(replace(config, profile=replace(tiny, size=64)))
    nine = SimpleNamespace(device=CPU, num_processes=9, process_index=0)
    with pytest.raises(ValueError, match="expected at most 8 processes, one for .* found 9"):
        fit(config, slices, split, nine)
    with pytest.raises(ValueError, match="expected at most 5 processes, .* the validation slices"):
        fit(config, slices, split | {"validation": split["validation"][:5]}, nine)


def test_loss_that_is_no_number_stops_with_a_remedy(again, config, tiny):
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss of step \d+ of 13 .*Lower the "
                                                 r"learning rate \(1e\+30\) or raise warmup_steps "
                                                 r"\(0\)\.$"):
        again(replace(config, profile=replace(tiny, learning_rate=1e30, warmup_steps=0)))
