"""The evaluator's architecture scores the lines of complex images."""

import pytest
import torch

from activemri.agents.evaluator_network import EvaluatorNetwork, most_layers
from activemri.agents.learned import network_class


def seen(height: int, width: int, n_lines: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(3, 2, height, width, generator=generator),
        "mask": (torch.rand(3, n_lines, generator=generator) < 0.4).to(torch.int8),
        "budget": torch.ones(3, 1),
    }


def network(**changes: object) -> EvaluatorNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EvaluatorNetwork(12, channels=2, layers=2, **changes).eval()  # type: ignore[arg-type]


def test_scores_are_those_of_the_evaluator_for_the_image_and_its_mask() -> None:
    made, given = network(), seen(8, 12, 12)
    image = torch.complex(given["image"][:, 0], given["image"][:, 1])
    expected = made.evaluator(image, given["mask"].bool())
    assert made.n_actions == 12
    torch.testing.assert_close(made(given), expected)
    other = {**given, "mask": 1 - given["mask"]}
    assert not torch.allclose(made(other), expected)


def test_rows_are_scored_as_the_columns_of_the_turned_image() -> None:
    given = seen(12, 8, 12)
    turned = {**given, "image": given["image"].transpose(-2, -1)}
    torch.testing.assert_close(network(along_height=True)(given), network()(turned))


def test_an_action_of_several_lines_scores_their_mean() -> None:
    given, groups = seen(8, 12, 12), [[0, 1, 2], [3, 4, 11]]
    made = network(groups=groups)
    assert made.n_actions == 2
    torch.testing.assert_close(made(given), network()(given)[:, groups].mean(dim=-1))


def test_settings_make_the_same_network_again() -> None:
    made = network(groups=[[0, 1], [2, 3]], along_height=True)
    again = network_class(made.kind)(**made.settings)
    assert again.settings == made.settings
    again.load_state_dict(made.state_dict())


@pytest.mark.parametrize(("width", "layers"), [(368, 4), (128, 4), (16, 4), (15, 3), (4, 2)])
def test_small_images_have_fewer_layers(width: int, layers: int) -> None:
    assert most_layers(width) == layers
    EvaluatorNetwork(width, channels=1, layers=layers)
