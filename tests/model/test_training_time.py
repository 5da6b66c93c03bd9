"""What is said about the time of a training that has not begun."""

import itertools
import time

import pytest
import torch

from cvae_utils.model import training_time

CPU = torch.device("cpu")


def test_minutes_are_those_of_all_steps_and_of_validation(tiny, monkeypatch, capsys):
    clock = itertools.count()  # a second passes between two looks: for five steps
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    batches = 80 / tiny.batch_size + 24 / tiny.batch_size / 3
    expected = pytest.approx(0.2 * batches * tiny.epochs / 60)
    assert training_time.minutes(tiny, CPU, 80, 24) == expected
    training_time.say_what_the_report_takes(tiny, CPU, 80, 24)
    assert "would take about 1 minute a training on this GPU: set CVAE_PROFILE=tiny" in (
        capsys.readouterr().out)
