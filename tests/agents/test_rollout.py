"""Episodes: seeds, batches, bookkeeping, and policies that misbehave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents import heuristic
from activemri.agents.policy import Greedy, Traits, choose
from activemri.agents.rollout import (
    PADDING,
    batches_of_a_kind,
    episode_generator,
    rollout,
    rollout_dataset,
)
from activemri.data.slices import Slice, SliceList
from activemri.envs.scan import IDLE, STOP, Scan, State, View

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


@dataclass(frozen=True)
class Stubborn:
    """Always the same action."""

    action: int
    name: str = "stubborn"
    traits: ClassVar[Traits] = Traits()

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.full((len(view.legal),), self.action)


def test_choose_takes_the_first_of_the_best_legal_actions() -> None:
    legal = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    priority = torch.tensor([1.0, 9.0, 2.0, 2.0])
    assert choose(priority, legal).tolist() == [2, IDLE, 1]


def test_choose_is_legal_even_where_all_priorities_are_unusable() -> None:
    legal = torch.tensor([[False, False, True, True]])
    for unusable in (torch.nan, -torch.inf):
        assert choose(torch.full((4,), unusable), legal).tolist() == [2]
    assert choose(torch.tensor([9.0, 9.0, torch.nan, 0.0]), legal).tolist() == [3]


def test_episodes_record_what_happened_at_every_step(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scans = make_protocol(), [make_scan(0), make_scan(1)]
    seen: list[tuple[int, list[int], list[float]]] = []

    def watch(step: int, state: State) -> None:
        seen.append((step, state.view.n_acquired.tolist(), state.scores["nmse"].tolist()))

    episodes = rollout(protocol, heuristic.random(), scans, on_step=watch)
    assert episodes.policy == "random"
    assert [scan.volume for scan in episodes.scans] == ["volume0", "volume1"]
    assert episodes.actions.shape == (2, 5)
    assert episodes.n_acquired.tolist() == [[2, 3, 4, 5, 6, 7]] * 2
    assert set(episodes.scores) == set(protocol.metrics)
    assert [step for step, *_ in seen] == list(range(6))
    assert [n for _, n, _ in seen] == episodes.n_acquired.T.tolist()
    assert [values for *_, values in seen] == episodes.scores["nmse"].T.tolist()


def test_scores_are_those_of_the_masks_that_were_acquired(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    """The second way: begin a scan with the mask that the episode had."""
    protocol, scan = make_protocol(), make_scan(0)
    episodes = rollout(protocol, heuristic.random(), [scan])
    mask = episodes.start_mask.clone()
    for step, action in enumerate(episodes.actions[0].tolist()):
        mask[0, action] = True
        fresh = protocol.start([scan], start_masks=mask.clone())
        for name, value in fresh.scores.items():
            assert float(episodes.scores[name][0, step + 1]) == pytest.approx(
                float(value), rel=1e-4
            )


def test_shorter_episodes_are_padded_and_keep_their_score(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scans = make_protocol(budget=8), [make_scan(0), make_scan(1)]
    masks = protocol.start(scans).view.start_mask
    masks[1, :8] = True
    episodes = rollout(protocol, heuristic.low_frequency_first(), scans, start_masks=masks)
    n_left = int(13 - masks[1].sum())
    assert episodes.n_steps.tolist() == [8, n_left]
    assert episodes.actions[1, n_left:].tolist() == [PADDING] * (8 - n_left)
    assert len(set(episodes.scores["mse"][1, n_left:].tolist())) == 1
    assert set(episodes.n_acquired[1, n_left:].tolist()) == {13}


def test_area_is_the_trapezoid_over_steps(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    episodes = rollout(make_protocol(), heuristic.random(), [make_scan(0)])
    curve = episodes.scores["ssim"][0].numpy()
    assert float(episodes.area("ssim")[0]) == pytest.approx(np.trapezoid(curve) / 5)


def test_a_policy_may_stop(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    episodes = rollout(make_protocol(), Stubborn(STOP), [make_scan(0)])
    assert episodes.n_steps.tolist() == [0]
    assert episodes.scores["ssim"].shape == (1, 2)


@pytest.mark.parametrize("action", [IDLE, -3])
def test_a_policy_that_does_nothing_is_named(
    make_scan: MakeScan, make_protocol: MakeProtocol, action: int
) -> None:
    with pytest.raises(ValueError, match=r"'stubborn' chose -.* for scan 0, which is not finished"):
        rollout(make_protocol(), Stubborn(action), [make_scan(0)])


def test_an_illegal_action_is_refused(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    with pytest.raises(ValueError, match="action 6 of scan 0 was acquired already"):
        rollout(make_protocol(), Stubborn(6), [make_scan(0)])


@pytest.mark.parametrize(
    ("actions", "came"),
    [
        (lambda view: torch.full((len(view),), 6.0), r"got torch.float32 of shape \(2,\)"),
        (lambda view: torch.full((len(view), 1), 6), r"got torch.int64 of shape \(2, 1\)"),
        (lambda view: view.legal.any(dim=1), "got torch.bool"),
        (lambda view: torch.tensor(6), r"of shape \(\)"),
        (lambda view: [6, 6], "got list"),
        (lambda view: None, "got NoneType"),
        (lambda view: torch.full((len(view),), 99), "action 99 of scan 0 is out of range"),
    ],
)
def test_a_policy_that_gives_no_actions_is_named_in_one_line(
    actions: Any, came: str, make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    class Own(Stubborn):
        def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
            return actions(view)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=f"policy 'stubborn': .*{came}") as caught:
        rollout(make_protocol(), Own(0), [make_scan(0), make_scan(1)])
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_any_kind_are_actions(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    class Own(Stubborn):
        def act(self, view: View, generators: Sequence[np.random.Generator]) -> Any:
            first = view.legal.byte().argmax(dim=1).to(torch.int32)
            return first.numpy() if self.action else first

    for own in (Own(0), Own(1)):
        assert rollout(make_protocol(), own, [make_scan(0)]).actions.dtype == torch.int64


@pytest.mark.parametrize(
    ("scores", "traits", "reason"),
    [
        (lambda view: view.legal * torch.nan, Traits(), "numbers as scores of legal .*got NaN"),
        (lambda view: torch.zeros(3), Traits(), r"scores of shape .*got Tensor of shape \(3,\)"),
        (lambda view: 1.0, Traits(), "got float of shape"),
        (lambda view: view.legal.float() - 1, Traits(is_random=True), "numbers above 0"),
    ],
)
def test_scores_that_choose_nothing_are_refused_with_the_name_of_the_policy(
    scores: Any, traits: Traits, reason: str, make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    with pytest.raises(ValueError, match=f"policy 'mine'.*{reason}"):
        rollout(make_protocol(), Greedy("mine", scores, traits), [make_scan(0)])


def test_random_start_lines_are_shared_by_all_policies_and_depend_on_the_seed(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scan = make_protocol(n_random_lines=3), make_scan(0)
    starts = [
        rollout(protocol, policy, [scan], seed=seed).start_mask.tolist()
        for seed in (0, 1)
        for policy in (heuristic.random(), heuristic.equispaced())
    ]
    assert starts[0] == starts[1] != starts[2] == starts[3]


def test_generators_differ_between_slices_seeds_and_purposes(make_scan: MakeScan) -> None:
    scan = make_scan(0)
    draws = [
        episode_generator(0, scan, "random").random(),
        episode_generator(1, scan, "random").random(),
        episode_generator(0, scan, "start").random(),
        episode_generator(0, replace(scan, index=5), "random").random(),
        episode_generator(0, replace(scan, volume="other"), "random").random(),
    ]
    assert len(set(draws)) == 5


def test_generators_are_the_same_in_every_process(make_scan: MakeScan) -> None:
    """Python's own hash of strings would not be."""
    drawn = episode_generator(3, make_scan(0), "random").integers(1 << 60)
    assert drawn == 266145318659700103


def test_a_data_set_of_different_sizes_is_played_in_batches_of_a_kind(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    shapes = [(9, 13), (8, 10), (9, 13), (9, 13), (8, 10)]
    dataset = SliceList([make_scan(seed, shape) for seed, shape in enumerate(shapes)])
    protocol = make_protocol()
    played = list(rollout_dataset(protocol, heuristic.random(), dataset, seed=3))
    assert [[one.volume for one in episodes.scans] for episodes in played] == [
        ["volume0", "volume2", "volume3"],
        ["volume1", "volume4"],
    ]
    together = rollout(protocol, heuristic.random(), dataset, seed=3)
    for position in range(5):
        alone = rollout(protocol, heuristic.random(), [dataset[position]], seed=3)
        batch, row = ((0, 0), (1, 0), (0, 1), (0, 2), (1, 1))[position]
        for found in (played[batch].actions[row], together.actions[position]):
            assert alone.actions[0].tolist() == found.tolist()
    assert list(batches_of_a_kind(dataset, [4, 3, 0, 2, 1], 2)) == [[4, 1], [3, 0], [2]]


def test_scans_with_and_without_maps_may_share_a_batch(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    dataset = SliceList(
        [make_scan(0, n_coils=3), replace(make_scan(1, n_coils=3), sensitivity=None)]
    )
    (episodes,) = rollout_dataset(make_protocol(), heuristic.random(), dataset)
    for row in (0, 1):
        alone = rollout(make_protocol(), heuristic.random(), [dataset[row]])
        assert torch.equal(episodes.actions[row], alone.actions[0])
        torch.testing.assert_close(episodes.scores["ssim"][row], alone.scores["ssim"][0])


def test_a_batch_size_of_zero_is_refused(make_scan: MakeScan) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        next(batches_of_a_kind(SliceList([make_scan(0)]), [0], 0))
