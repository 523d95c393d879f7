import numpy as np
import torch

from activemri.mri.spectrum import line_distances, power_law


def test_distances_are_those_from_the_centre() -> None:
    assert line_distances((1, 5)).tolist() == [2, 1, 0, 1, 2]
    expected = [np.hypot(y - 1, x - 2) for y in range(3) for x in range(4)]
    assert np.allclose(line_distances((3, 4)).numpy(), expected)


def test_a_power_law_is_found_from_the_acquired_lines_alone() -> None:
    distance = line_distances((1, 12))
    law = 0.3 * (1 + distance) ** -1.7
    acquired = torch.zeros(2, 12, dtype=torch.bool)
    acquired[0, 4:9] = acquired[1, ::3] = True
    energy = torch.where(acquired, law, 7 * torch.ones(12, dtype=torch.float64))
    assert torch.allclose(power_law(energy, acquired, distance), law.expand(2, -1))


def test_a_law_that_would_rise_outwards_is_held_level() -> None:
    distance = line_distances((1, 9))
    acquired = torch.ones(1, 9, dtype=torch.bool)
    expected = power_law((1 + distance)[None], acquired, distance)
    assert torch.allclose(expected, expected[:, :1].expand(-1, 9))
