import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from activemri import checkpoints
from activemri.checkpoints import CheckpointError
from activemri.reconstruction import registry
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import (
    RECONSTRUCTORS,
    WRAPPERS,
    describe,
    make_reconstructor,
    save_reconstructor,
)
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled


def saved(path: Path, *, kind: str = "unet", channels: int = 2) -> UNet:
    network = UNet(2, pools=2)
    checkpoints.save(
        path,
        kind=kind,
        settings={"channels": channels, "pools": 2},
        state_dict=network.state_dict(),
        info={},
    )
    return network


def test_zero_filled_comes_by_name() -> None:
    assert isinstance(make_reconstructor("zero-filled"), ZeroFilled)


def test_a_checkpoint_comes_with_its_weights_and_ready_for_use(tmp_path: Path) -> None:
    network = saved(tmp_path / "net")
    made = make_reconstructor(str(tmp_path / "net"))
    assert not made.training
    assert made.settings == network.settings
    for name, weights in network.state_dict().items():
        assert torch.equal(made.state_dict()[name], weights)


@pytest.mark.parametrize("name", ["net", "net.safetensors", "."])
def test_a_checkpoint_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    saved(tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    assert isinstance(make_reconstructor(name), UNet)


def test_a_reconstructor_is_returned_as_it_is_in_evaluation_mode() -> None:
    network = UNet(2, pools=2).train()
    assert make_reconstructor(network) is network
    assert not network.training


def test_weights_that_come_with_the_package_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="no trained weights of 'unet'"):
        make_reconstructor("unet")
    network = saved(tmp_path / "unet")
    made = make_reconstructor("unet")
    assert torch.equal(next(made.parameters()), next(network.parameters()))


def test_an_unknown_name_lists_the_known_ones_and_says_that_a_path_works() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.* zero-filled, .*unet.*, or the path"):
        make_reconstructor("resnet")


def test_a_path_without_checkpoint_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no checkpoint"):
        make_reconstructor(tmp_path / "net")
    with pytest.raises(CheckpointError, match="found no checkpoint"):
        make_reconstructor("runs/none/best")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "net", kind="evaluator")
    with pytest.raises(CheckpointError, match="'evaluator', which is no known reconstructor"):
        make_reconstructor(tmp_path / "net")


def test_weights_of_another_size_than_the_settings_say_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "net", channels=3)
    with pytest.raises(CheckpointError, match=r"should have shape \(3, 2, 3, 3\); found \(2, 2"):
        make_reconstructor(tmp_path / "net")


@pytest.mark.parametrize("settings", [{"width": 3}, {"channels": "many"}, {"channels": 0}])
def test_settings_that_make_no_network_are_refused(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    saved(tmp_path / "net")
    path = tmp_path / "net.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    with pytest.raises(CheckpointError, match="do not make a 'unet'"):
        make_reconstructor(tmp_path / "net")


def test_a_checkpoint_holds_all_that_an_ensemble_is_made_of(tmp_path: Path) -> None:
    members = [UNet(2, pools=1), UNet(3, pools=2)]
    save_reconstructor(tmp_path / "net", Ensemble([*members, ZeroFilled()]), info={"by": "me"})
    assert json.loads((tmp_path / "net.json").read_text())["settings"] == {
        "members": [
            {"kind": "unet", "settings": {"channels": 2, "pools": 1}},
            {"kind": "unet", "settings": {"channels": 3, "pools": 2}},
            {"kind": "zero-filled", "settings": {}},
        ]
    }
    made = make_reconstructor(tmp_path / "net")
    assert isinstance(made, Ensemble) and not made.members[1].training
    for member, again in zip(members, made.members, strict=False):
        for name, weights in member.state_dict().items():
            assert torch.equal(again.state_dict()[name], weights)


def test_a_member_of_unknown_kind_is_named(tmp_path: Path) -> None:
    save_reconstructor(tmp_path / "net", Ensemble([UNet(2, pools=1), ZeroFilled()]), info={})
    path = tmp_path / "net.json"
    path.write_text(path.read_text().replace('"zero-filled"', '"resnet"'))
    with pytest.raises(CheckpointError, match="do not make a 'ensemble': unknown kind 'resnet'"):
        make_reconstructor(tmp_path / "net")


def test_a_method_that_is_not_registered_cannot_be_saved(tmp_path: Path) -> None:
    class Own(Reconstructor):
        settings: dict[str, object] = {}  # noqa: RUF012

    with pytest.raises(ValueError, match="Own can be found neither in a module"):
        save_reconstructor(tmp_path / "net", Ensemble([Own(), ZeroFilled()]), info={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_is_made_around_others_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown reconstructor '{name}'"):
        make_reconstructor(name)


def test_a_description_can_be_written_as_json_and_read_again() -> None:
    described = describe(Ensemble([UNet(2, pools=1), ZeroFilled()]))
    again = registry.rebuild(json.loads(json.dumps(described)))
    assert describe(again) == described


def test_every_name_is_a_class_with_a_docstring() -> None:
    for name, kind in RECONSTRUCTORS.items():
        assert name == name.lower()
        assert kind.__doc__


def test_no_reconstructor_imports_torchvision() -> None:
    code = (
        "import sys; from activemri.reconstruction.registry import *\n"
        "assert 'fastmri' not in sys.modules, 'fastmri at import'\n"
        "[kind() for kind in RECONSTRUCTORS.values()]\n"
        "assert 'torchvision' not in sys.modules, 'torchvision'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
