"""The network that looks at images."""

from collections.abc import Callable

import pytest
import torch

from activemri.agents.image_network import ImageNetwork
from activemri.agents.learned import LearnedPolicy, load_policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan
from activemri.envs.observation import Frame

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


def network(n_lines: int = 13, **changes: object) -> ImageNetwork:
    options: dict[str, object] = {"channels": 4, "blocks": 1, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ImageNetwork((1, 9, 13), n_lines, **options).eval()  # type: ignore[arg-type]


def seen(batch: int = 2, n_lines: int = 13) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (batch, 1, 9, 13), generator=generator, dtype=torch.uint8),
        "mask": torch.randint(0, 2, (batch, n_lines), generator=generator, dtype=torch.int8),
        "budget": torch.rand(batch, 1, generator=generator),
    }


def test_every_part_of_what_is_seen_changes_the_scores() -> None:
    whole, one = network(), seen()
    scores = whole(one)
    assert scores.shape == (2, 13)
    for key, other in (
        ("image", 255 - one["image"]),
        ("mask", 1 - one["mask"]),
        ("budget", 1 - one["budget"]),
    ):
        assert not torch.allclose(whole({**one, key: other}), scores)


def test_bytes_and_numbers_from_0_to_1_are_the_same_image() -> None:
    one = seen()
    torch.testing.assert_close(
        network()({**one, "image": one["image"].float() / 255}), network()(one)
    )


def test_how_often_lines_were_measured_is_seen() -> None:
    both = network(repeats=True)
    one = {**seen(), "repeats": torch.zeros(2, 2, 13)}
    assert not torch.allclose(both({**one, "repeats": torch.ones(2, 2, 13)}), both(one))


def test_stop_comes_last_and_is_measured_against_the_best_new_line() -> None:
    stopping, one = network(stops=True), seen()
    one["mask"][0] = 1
    with torch.no_grad():
        stopping.stop.weight.zero_()  # type: ignore[union-attr]
        stopping.stop.bias.fill_(0.25)  # type: ignore[union-attr]
    scores = stopping(one)
    assert scores.shape == (2, 14)
    assert scores[0, -1] == 0.25  # no line is left
    best = scores[1, :-1][one["mask"][1] == 0].max()
    torch.testing.assert_close(scores[1, -1], best + 0.25)


@pytest.mark.parametrize("groups", [None, [[2 * i, 2 * i + 1] for i in range(6)]])
def test_pointing_outwards_is_low_frequency_first_among_new_lines(
    groups: list[list[int]] | None,
) -> None:
    made = network(groups=groups)
    made.point_outwards(10.0)
    one = seen(batch=1)
    one["mask"][:] = 0
    one["mask"][0, 5:8] = 1
    place = torch.arange(13)
    expected = -10 * ((place - 6).abs() / 6 + one["mask"][0])
    if groups is not None:
        expected = expected[torch.tensor(groups)].mean(dim=1)
    torch.testing.assert_close(made(one)[0], expected)


def test_it_is_saved_and_acts_as_before(
    make_scan: MakeScan, make_protocol: MakeProtocol, tmp_path: object
) -> None:
    policy = LearnedPolicy(network(), "image", Frame((9, 13), (9, 13), 1, 13))
    path = policy.save(f"{tmp_path}/best", info={})
    scans = [make_scan(seed) for seed in range(3)]
    mine, theirs = (rollout(make_protocol(), one, scans) for one in (policy, load_policy(path)))
    assert torch.equal(mine.actions, theirs.actions)
