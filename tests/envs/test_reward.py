"""Rewards by name, and what may be passed instead."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from activemri.envs.reward import REWARDS, Scores, gain, make_reward
from activemri.metrics import METRICS


def one_score(name: str, value: float) -> dict[str, Tensor]:
    return {name: torch.tensor([value], dtype=torch.float64)}


@pytest.mark.parametrize(
    "metric",
    [metric for metric in METRICS.values() if metric.needs != "task"],
    ids=lambda metric: metric.name,
)
def test_a_better_score_earns_a_positive_reward_for_every_metric(metric: object) -> None:
    found = METRICS[metric.name]  # type: ignore[attr-defined]
    prefix = "" if found.higher_is_better else "-"
    reward = make_reward(f"{prefix}delta_{found.name}")
    worse, better = (0.2, 0.5) if found.higher_is_better else (0.5, 0.2)
    gained = reward(one_score(found.name, worse), one_score(found.name, better))
    assert gained.item() == pytest.approx(0.3)
    lost = reward(one_score(found.name, better), one_score(found.name, worse))
    assert lost.item() == pytest.approx(-0.3)


def test_the_name_of_a_reward_tells_its_sign() -> None:
    assert "delta_nmse" not in REWARDS
    assert "-delta_ssim" not in REWARDS
    assert {"delta_ssim", "delta_psnr", "-delta_nmse", "uncertainty_drop"} <= set(REWARDS)


def test_a_falling_uncertainty_is_rewarded() -> None:
    reward = make_reward("uncertainty_drop")
    gained = reward(one_score("uncertainty", 0.5), one_score("uncertainty", 0.4))
    assert gained.item() == pytest.approx(0.1)


def test_unknown_rewards_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown reward 'ssim'; choose from delta_ssim"):
        make_reward("ssim")
    with pytest.raises(ValueError, match="unknown metric 'sssim'"):
        make_reward(gain("sssim"))


def test_a_reward_may_be_an_object_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Both:
        scores: tuple[str, ...] = ("ssim", "nmse")

        def __call__(self, before: Scores, after: Scores) -> Tensor:
            return (after["ssim"] - before["ssim"]) - (after["nmse"] - before["nmse"])

    mine = make_reward(Both())
    assert (mine.scores, mine.function) == (("ssim", "nmse"), Both())
    assert make_reward(mine) is mine
