"""Learning fixed orders, checked against slow loops."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from activemri.agents.oracles import oracle
from activemri.agents.order import KINDS, Order, fit_order
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice, SliceList
from activemri.envs.scan import Scan

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


def score(protocol: Scan, scan: Slice, lines: list[int], metric: str) -> float:
    """Score with the start lines and some others, from scratch."""
    whole = protocol.start([scan])
    mask = whole.view.start_mask.clone()
    mask[0, lines] = True
    mask &= whole.view.measurable
    return float(protocol.preview_masks(whole, mask[None], (metric,))[metric])


def lbcs_slowly(
    protocol: Scan, scans: list[Slice], *, n_lines: int, metric: str, sign: int
) -> list[int]:
    chosen: list[int] = []
    started = protocol.start(scans[:1]).view.start_mask[0].nonzero().flatten().tolist()
    for _ in range(n_lines):
        left = [line for line in range(13) if line not in started + chosen]
        means = {
            line: sign * sum(score(protocol, scan, [*chosen, line], metric) for scan in scans)
            for line in left
        }
        chosen.append(max(left, key=lambda line: means[line]))
    return chosen


@pytest.mark.parametrize("smaller", [(9, 13), (8, 9)])
@pytest.mark.parametrize(("metric", "sign"), [("ssim", 1), ("mse", -1)])
def test_lbcs_takes_the_line_of_the_best_mean_score_at_each_step(
    make_scan: MakeScan,
    make_protocol: MakeProtocol,
    metric: str,
    sign: int,
    smaller: tuple[int, int],
) -> None:
    """A line that a smaller scan does not have leaves its score as it is."""
    scans = [make_scan(0), make_scan(1, smaller), make_scan(2, smaller), make_scan(3)]
    protocol = make_protocol()
    order = fit_order("lbcs", protocol, scans, metric=metric, n_lines=4)
    assert order.n_learned == 4
    assert list(order.actions[:4]) == lbcs_slowly(
        protocol, scans, n_lines=4, metric=metric, sign=sign
    )


def test_an_order_for_the_final_score_holds_a_set_that_no_exchange_improves(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol(budget=4)
    started = protocol.start([make_scan(0)]).view.start_mask[0].nonzero().flatten().tolist()
    for first in (0, 2, 4):
        scans = [make_scan(first), make_scan(first + 1)]

        def final(lines: list[int], scans: list[Slice] = scans) -> float:
            return sum(score(protocol, scan, lines, "ssim") for scan in scans)

        best = list(fit_order("lbcs-final", protocol, scans).actions[:4])
        for dropped in best:
            rest = [line for line in best if line != dropped]
            others = [line for line in range(13) if line not in (*best, *started)]
            assert all(final([*rest, line]) < final(best) + 1e-7 for line in others)
        # It is taken in greedy order.
        assert final(best[:1]) == max(final([line]) for line in best)


def test_the_average_oracle_follows_its_definition(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    scans = [make_scan(seed) for seed in range(4)]
    protocol = make_protocol()
    order = fit_order("average-oracle", protocol, scans, n_lines=4)
    started = protocol.start(scans[:1]).view.start_mask[0].nonzero().flatten().tolist()
    gain = torch.zeros(4, 13, dtype=torch.float64)
    taken: list[list[int]] = [[] for _ in scans]
    expected: list[int] = []
    for _ in range(4):
        for row, scan in enumerate(scans):
            now = score(protocol, scan, taken[row], "ssim")
            left = [line for line in range(13) if line not in started + taken[row]]
            for line in left:
                gain[row, line] = score(protocol, scan, [*taken[row], line], "ssim") - now
            taken[row].append(max(left, key=lambda line, row=row: float(gain[row, line])))  # type: ignore[misc]
        mean = gain.mean(dim=0)
        left = [line for line in range(13) if line not in expected]
        expected.append(max(left, key=lambda line: float(mean[line])))
    assert list(order.actions[:4]) == expected


def test_the_two_orders_differ(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    scans = [make_scan(seed) for seed in range(6)]
    kinds = ("lbcs", "average-oracle")
    lbcs, average = (fit_order(kind, make_protocol(), scans, n_lines=8) for kind in kinds)
    assert lbcs.actions != average.actions


@pytest.mark.parametrize("kind", ["lbcs", "average-oracle"])
def test_for_a_single_scan_every_learned_order_is_its_oracle(
    make_scan: MakeScan, make_protocol: MakeProtocol, kind: str
) -> None:
    protocol, scan = make_protocol(), make_scan(0)
    order = fit_order(kind, protocol, [scan])
    episodes = rollout(protocol, oracle(), [scan])
    assert list(order.actions[:5]) == episodes.actions[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_ends_with_what_was_not_learned_from_the_centre_outwards(
    make_scan: MakeScan, make_protocol: MakeProtocol, kind: str
) -> None:
    order = fit_order(kind, make_protocol(), [make_scan(0), make_scan(1)], n_lines=2, data="mine")
    assert sorted(order.actions) == list(range(13))
    outwards = [6, 5, 7, 4, 8, 3, 9, 2, 10, 1, 11, 0, 12]
    assert list(order.actions[2:]) == [line for line in outwards if line not in order.actions[:2]]
    assert (order.kind, order.data, order.n_scans, order.shape) == (kind, "mine", 2, (9, 13))
    assert (order.metric, order.reconstructor) == ("ssim", "ZeroFilled")


@pytest.mark.parametrize("kind", KINDS)
def test_scans_of_different_sizes_share_an_order(
    make_scan: MakeScan, make_protocol: MakeProtocol, kind: str
) -> None:
    shapes = [(9, 13), (8, 10), (9, 13)]
    dataset = SliceList([make_scan(seed, shape) for seed, shape in enumerate(shapes)])
    protocol = make_protocol(budget=None)
    order = fit_order(kind, protocol, dataset)
    assert order.n_scans == 3
    assert rollout(protocol, order, [dataset[0]]).n_steps.tolist() == [11]
    small = rollout(protocol, order, [dataset[1]])
    assert sorted(small.actions[0].tolist()) == [1, 2, 3, 4, 7, 8, 9, 10]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("geometry", ["conjugate-columns", "points"])
def test_orders_are_learned_in_every_geometry(
    make_scan: MakeScan, make_protocol: MakeProtocol, kind: str, geometry: str
) -> None:
    protocol = make_protocol(geometry, lines_per_action=2, budget=4)
    order = fit_order(kind, protocol, [make_scan(0), make_scan(1)])
    assert sorted(order.actions) == list(range(protocol.geometry.n_actions))
    assert 0 < order.n_learned <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_the_scans_is_drawn_by_the_seed(
    make_scan: MakeScan, make_protocol: MakeProtocol, kind: str
) -> None:
    scans = [make_scan(seed) for seed in range(6)]
    protocol, learn = make_protocol(), partial(fit_order, kind)
    first = learn(protocol, scans, n_scans=2, seed=1)
    assert learn(protocol, scans, n_scans=2, seed=1) == first
    assert any(learn(protocol, scans, n_scans=2, seed=s).actions != first.actions for s in range(5))
    assert learn(protocol, scans, n_scans=6).actions == learn(protocol, scans).actions


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_cannot_be_learned_from_nothing(make_protocol: MakeProtocol, kind: str) -> None:
    with pytest.raises(ValueError, match="at least one scan; got none"):
        fit_order(kind, make_protocol(), [])


def test_a_learned_order_is_taken_as_it_is(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    order = Order(
        kind="lbcs",
        actions=(12, 6, 0, 5, *(line for line in range(13) if line not in (12, 6, 0, 5))),
        n_learned=4,
        geometry="columns",
        lines_per_action=1,
        shape=(9, 13),
        metric="ssim",
        reconstructor="ZeroFilled",
        data="none",
        n_scans=1,
    )
    episodes = rollout(make_protocol(), order, [make_scan(0)])
    assert episodes.actions[0].tolist() == [12, 0, 1, 2, 3]  # 5 and 6 are there from the start
