import pytest
import torch
from torch import Tensor

from activemri.agents.line_network import LineNetwork
from activemri.envs.line_features import N_FEATURES, NAMES, mirror_of


def observation(n_lines: int = 13, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(batch, N_FEATURES, n_lines, generator=generator)
    lines[:, NAMES.index("acquired")] = (torch.arange(n_lines) < 4).float()
    lines[:, NAMES.index("measurable")] = 1.0
    return {"lines": lines, "budget": torch.rand(batch, 1, generator=generator)}


def network(**options: object) -> LineNetwork:
    torch.manual_seed(0)
    return LineNetwork(N_FEATURES, 13, channels=6, blocks=2, **options)  # type: ignore[arg-type]


def test_every_line_gets_a_score_that_the_budget_changes() -> None:
    seen = observation()
    scores = network()(seen)
    assert scores.shape == (2, 13)
    other = network()({**seen, "budget": seen["budget"] + 1})
    assert not torch.allclose(scores, other)


def test_a_scan_does_not_depend_on_those_beside_it() -> None:
    seen = observation()
    both = network()(seen)
    alone = network()({name: value[1:] for name, value in seen.items()})
    torch.testing.assert_close(both[1:], alone)


def test_an_actions_score_is_the_mean_of_its_lines() -> None:
    seen = observation()
    groups = [[0, 1], [2, 3], [4, 4]]
    grouped = network(groups=groups)(seen)
    single = network()(seen)
    expected = torch.stack([single[:, group].mean(dim=1) for group in groups], dim=1)
    torch.testing.assert_close(grouped, expected)


def test_a_line_sees_its_mirror_image() -> None:
    seen = observation()
    changed = {**seen, "lines": seen["lines"].clone()}
    far = int(mirror_of(13)[1])
    changed["lines"][:, NAMES.index("energy"), far] += 5
    torch.manual_seed(0)
    one = LineNetwork(N_FEATURES, 13, channels=6, blocks=0)
    difference = (one(changed) - one(seen)).abs()[0]
    assert difference.nonzero().squeeze(1).tolist() == sorted([1, far])


def test_stop_is_compared_with_the_best_new_line() -> None:
    seen = observation()
    made = network(stops=True)
    assert made.stop is not None
    with torch.no_grad():
        made.stop.weight.zero_()
        made.stop.bias.fill_(0.25)
    scores = made(seen)
    assert scores.shape == (2, 14)
    torch.testing.assert_close(scores[:, -1], scores[:, 4:13].amax(dim=1) + 0.25)


@pytest.mark.parametrize("options", [{}, {"stops": True}, {"groups": [[0, 1], [2, 3]]}])
def test_settings_make_the_same_network(options: dict[str, object]) -> None:
    made = network(**options)
    again = LineNetwork(**made.settings)  # type: ignore[arg-type]
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(observation()), made(observation()))
