"""Orders and probabilities, checked by hand on small frames."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.policy import Policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]
Play = Callable[..., list[int]]


@pytest.fixture
def play(make_scan: MakeScan, make_protocol: MakeProtocol) -> Play:
    """Actions of one episode."""

    def play(
        policy: Policy,
        *,
        geometry: str = "columns",
        size: tuple[int, int] = (9, 13),
        **settings: int,
    ) -> list[int]:
        protocol = make_protocol(geometry, (9, 13), **settings)
        actions: list[int] = rollout(protocol, policy, [make_scan(0, size)]).actions[0].tolist()
        return actions

    return play


def test_low_frequencies_come_from_the_centre_outwards_in_an_odd_frame(play: Play) -> None:
    order = play(heuristic.low_frequency_first(), n_center_lines=1, budget=12)
    assert order == [5, 7, 4, 8, 3, 9, 2, 10, 1, 11, 0, 12]


def test_low_frequencies_come_from_the_centre_outwards_in_an_even_frame(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol("columns", (9, 10), n_center_lines=1, budget=9)
    episodes = rollout(protocol, heuristic.low_frequency_first(), [make_scan(0, (9, 10))])
    assert episodes.actions[0].tolist() == [4, 6, 3, 7, 2, 8, 1, 9, 0]


def test_low_frequencies_of_a_smaller_scan_lie_around_its_own_centre(play: Play) -> None:
    order = play(heuristic.low_frequency_first(), size=(9, 8), n_center_lines=1, budget=7)
    assert order == [5, 7, 4, 8, 3, 9, 2]


def test_rows_are_ordered_by_their_height(play: Play) -> None:
    order = play(heuristic.low_frequency_first(), geometry="rows", n_center_lines=1, budget=8)
    assert order == [3, 5, 2, 6, 1, 7, 0, 8]


def test_points_grow_as_a_disc(play: Play) -> None:
    order = play(heuristic.low_frequency_first(), geometry="points", n_center_lines=1, budget=8)
    # In units of the highest frequency a step along the width (1/6) is shorter than along the
    # height (1/4).
    centre = 4 * 13 + 6
    assert order[:4] == [centre - 1, centre + 1, centre - 13, centre + 13]
    assert set(order[4:]) == {centre + d for d in (-14, -12, 12, 14)}


def test_echo_trains_of_equal_distance_are_ties(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    """The first train's mean distance, (5 + 4 + 3) / 3, must not differ from 4 by rounding."""
    protocol = make_protocol("columns", (9, 10), lines_per_action=3, n_center_lines=1, budget=9)
    episodes = rollout(protocol, heuristic.high_frequency_first(), [make_scan(0, (9, 10))])
    assert episodes.actions[0].tolist() == [0, 3, 2, 1]


def test_high_frequencies_come_from_the_edges_inwards(play: Play) -> None:
    assert play(heuristic.high_frequency_first(), budget=5) == [0, 12, 1, 11, 2]


def test_an_equispaced_mask_is_spread_out_at_every_moment(play: Play) -> None:
    # Twelve legal lines, six wanted: every second one, in bit-reversed order.
    order = play(heuristic.equispaced(), n_center_lines=1, budget=6)
    legal = [line for line in range(13) if line != 6]
    assert sorted(order) == [legal[2 * i + 1] for i in range(6)]
    assert order == [legal[2 * i + 1] for i in (0, 4, 2, 1, 5, 3)]


def test_an_equispaced_mask_of_all_lines_is_complete(play: Play) -> None:
    order = play(heuristic.equispaced(), n_center_lines=1, budget=12)
    assert sorted(order) == [line for line in range(13) if line != 6]


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 24, 100])
def test_places_are_spread_evenly(k: int) -> None:
    places = heuristic._spread(100, k)
    gaps = places.sort().values.diff()
    assert len(set(places.tolist())) == k and 0 <= int(places.min()) <= int(places.max()) < 100
    assert k == 1 or int(gaps.max() - gaps.min()) <= 1


def test_one_side_comes_first_if_the_other_follows_from_symmetry(play: Play) -> None:
    order = play(heuristic.conjugate_symmetric(), n_center_lines=1, budget=12)
    assert order == [5, 4, 3, 2, 1, 0, 7, 8, 9, 10, 11, 12]


def test_the_unpaired_line_of_an_even_frame_is_not_left_to_symmetry(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol("columns", (9, 10), n_center_lines=0, budget=10)
    episodes = rollout(protocol, heuristic.conjugate_symmetric(), [make_scan(0, (9, 10))])
    assert episodes.actions[0].tolist() == [5, 4, 3, 2, 1, 0, 6, 7, 8, 9]


def test_random_actions_are_uniform(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    protocol, scans = make_protocol(budget=1), [replace(make_scan(0), index=i) for i in range(550)]
    counts = Counter(rollout(protocol, heuristic.random(), scans).actions[:, 0].tolist())
    legal = [line for line in range(13) if line not in (5, 6)]
    assert set(counts) == set(legal)
    # 50 expected each; the standard deviation is 6.7.
    assert all(20 < counts[line] < 80 for line in legal)


def test_variable_density_follows_its_polynomial(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    n = 600
    protocol, scans = make_protocol(budget=1), [replace(make_scan(0), index=i) for i in range(n)]
    counts = Counter(rollout(protocol, heuristic.variable_density(), scans).actions[:, 0].tolist())
    distance = torch.tensor([abs(line - 6) / 6 for line in range(13) if line not in (5, 6)])
    weight = (1 - distance) ** heuristic.DENSITY_POWER + heuristic.DENSITY_FLOOR
    expected = n * weight / weight.sum()
    observed = torch.tensor([counts[line] for line in range(13) if line not in (5, 6)])
    assert bool(((observed - expected).abs() < 4 * expected.sqrt() + 1).all())


def test_density_reaches_from_the_centre_to_the_edge_of_a_smaller_scan(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol(n_center_lines=0)
    scans = [make_scan(seed, (9, 7)) for seed in range(2)]
    weight = heuristic.polynomial_density(protocol.start(scans).view)
    assert weight.shape == (2, 13)
    assert float(weight[0, 6]) == 1 + heuristic.DENSITY_FLOOR
    assert float(weight[0, 3]) == float(weight[0, 9]) == heuristic.DENSITY_FLOOR
