"""Reconstructors from the settings of a training."""

from pathlib import Path

import pytest
import torch

from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.registry import save_reconstructor
from activemri.settings import TrainReconstructorSettings
from activemri.training.construction import new_reconstructor, trainable

SMALL = ("channels=4", "layers=2", "iterations=1")


def test_a_warm_start_may_change_what_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    first = new_reconstructor(TrainReconstructorSettings(name="modl", network=SMALL, seed=3))
    path = save_reconstructor(tmp_path / "first", first, info={})
    settings = TrainReconstructorSettings(warm_start=path, network=("iterations=6",))
    longer = new_reconstructor(settings)
    assert isinstance(longer, MoDL) and longer.training
    assert longer.settings == {**first.settings, "iterations": 6}
    for name, weight in first.state_dict().items():
        assert torch.equal(longer.state_dict()[name], weight)


def test_a_warm_start_with_another_size_is_refused_with_the_weight(tmp_path: Path) -> None:
    first = new_reconstructor(TrainReconstructorSettings(name="modl", network=SMALL))
    path = save_reconstructor(tmp_path / "first", first, info={})
    settings = TrainReconstructorSettings(warm_start=path, network=("channels=8",))
    with pytest.raises(ValueError, match=r"do not fit .* tensor 'network.layers.0.weight'"):
        new_reconstructor(settings)


@pytest.mark.parametrize("name", ["zero-filled", "cg-sense", "wavelet", "total-variation"])
def test_what_has_no_weights_cannot_be_trained(name: str) -> None:
    with pytest.raises(ValueError, match=f"--name {name}: .* one of unet, cresnet, modl"):
        new_reconstructor(TrainReconstructorSettings(name=name))


@pytest.mark.parametrize("name", trainable())
def test_everything_else_can_be_made_by_name_and_has_its_seed(name: str) -> None:
    one, same, other = (
        new_reconstructor(TrainReconstructorSettings(name=name, seed=seed)) for seed in (1, 1, 2)
    )
    weights = [torch.cat([w.flatten() for w in r.parameters()]) for r in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
