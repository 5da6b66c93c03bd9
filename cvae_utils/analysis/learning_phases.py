"""When each structure was learnt during a training."""

from collections.abc import Sequence

import pandas as pd

from cvae_utils.labels import STRUCTURE_NAMES

#: A structure counts as learnt from this soft Dice on.
LEARNT = 0.5


def learning_phases(steps: pd.DataFrame, structures: Sequence[str] = STRUCTURE_NAMES,
                    window: int = 10) -> dict:
    """When each structure was learnt, from the soft Dice of every optimiser step.

    structures: those that the training slices have. Smoothed over `window` steps. order: structures
    by the step at which they pass half of their final value (half_step). dip: the largest fall of a
    structure below its own best while another one rises from 10 % to 90 % of its final value,
    counted from the step on at which all together are lowest (before that, the model learns that
    most pixels are background); NaN for a single structure. noise: the largest such fall over the
    second half of training, when nothing new is learnt. final: soft Dice at the end; below LEARNT,
    the order tells nothing.
    """
    dice = steps[list(structures)].rolling(window, min_periods=1).mean()

    def passed(name: str, share: float) -> int:
        return int((dice[name].iloc[start:] >= share * dice[name].iloc[-1]).idxmax())

    def deepest_fall(part: pd.DataFrame) -> float:
        return float((part.cummax() - part).max().max())

    start = int(dice.iloc[:max(1, len(dice) // 2)].mean(axis=1).idxmin())
    half_step = {name: passed(name, 0.5) for name in structures}
    falls = [deepest_fall(dice.iloc[passed(name, 0.1):passed(name, 0.9) + 1].drop(columns=name))
             for name in structures]
    return {"order": sorted(half_step, key=half_step.get), "half_step": half_step,
            "dip": max(falls), "noise": deepest_fall(dice.iloc[len(dice) // 2:]),
            "final": {name: float(dice[name].iloc[-1]) for name in structures}}
