from collections import Counter

import numpy as np
import pytest
import torch

from activemri.data.slices import SliceInfo
from activemri.training.masks import center_lines
from tests.training.mixture import HeuristicMasks


def scan(width: int = 31) -> SliceInfo:
    return SliceInfo("volume", 0, "subject", "T2", (9, width), (9, width), 1)


@pytest.mark.parametrize("width", [18, 31])
def test_a_mask_holds_the_centre_and_as_many_further_lines_as_steps(width: int) -> None:
    generator = np.random.default_rng(0)
    masks = HeuristicMasks(4, budget=9)
    for step in (0, 1, 9) * 8:
        mask = masks(scan(width), generator, step=step)
        assert mask.dtype == torch.bool
        assert mask.shape == (width,)
        assert mask.sum() == 4 + step
        assert mask[center_lines((9, width), 4)].all()


def test_all_moments_of_an_episode_are_equally_frequent() -> None:
    generator = np.random.default_rng(0)
    masks = HeuristicMasks(4, budget=3)
    counts = Counter(int(masks(scan(), generator).sum()) - 4 for _ in range(800))
    assert sorted(counts) == [0, 1, 2, 3]
    assert all(abs(n - 200) < 60 for n in counts.values())  # 5 standard deviations


def test_every_line_is_visited_and_inner_lines_more_often() -> None:
    generator = np.random.default_rng(0)
    masks = HeuristicMasks(1, budget=10)
    visits = sum(masks(scan(), generator, step=10).int() for _ in range(400))
    assert isinstance(visits, torch.Tensor)
    assert visits.min() > 0
    assert visits[10:21].float().mean() > 1.3 * visits[:10].float().mean()


def test_a_budget_beyond_the_width_acquires_everything() -> None:
    masks = HeuristicMasks(4, budget=90)
    for seed in range(8):
        assert masks(scan(), np.random.default_rng(seed), step=90).all()


def test_the_generator_decides() -> None:
    masks = HeuristicMasks(4, budget=9)
    drawn = [masks(scan(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
