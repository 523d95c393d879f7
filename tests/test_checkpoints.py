import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from activemri import checkpoints
from activemri.checkpoints import CheckpointError


def small_network(seed: int = 0) -> nn.Linear:
    network = nn.Linear(3, 2)
    values = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=values))
    return network


def saved(path: Path, seed: int = 0) -> nn.Linear:
    network = small_network(seed)
    checkpoints.save(
        path,
        kind="linear",
        settings={"inputs": 3},
        state_dict=network.state_dict(),
        info={"data": "phantom", "metrics": {"ssim": 0.5}},
    )
    return network


def test_a_loaded_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    network = saved(tmp_path / "made" / "net")
    loaded = checkpoints.load(tmp_path / "made" / "net")
    assert loaded.kind == "linear"
    assert loaded.settings == {"inputs": 3}
    assert loaded.info["metrics"] == {"ssim": 0.5}
    assert "package_version" in loaded.info
    again = small_network(seed=1)
    loaded.fill(again)
    for name, weights in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights)


def test_the_json_file_states_the_hash_of_the_weights_file(tmp_path: Path) -> None:
    saved(tmp_path / "net")
    described = json.loads((tmp_path / "net.json").read_text())
    weights = (tmp_path / "net.safetensors").read_bytes()
    assert described["sha256"] == hashlib.sha256(weights).hexdigest()
    assert described["format_version"] == checkpoints.FORMAT_VERSION


@pytest.mark.parametrize("given", ["net", "net.json", "net.safetensors", "."])
def test_a_checkpoint_is_found_by_either_file_by_its_name_or_by_its_folder(
    tmp_path: Path, given: str
) -> None:
    saved(tmp_path / "net")
    assert checkpoints.load(tmp_path / given).path == tmp_path / "net"


def test_a_dot_in_the_name_of_a_checkpoint_is_kept(tmp_path: Path) -> None:
    saved(tmp_path / "net.v2")
    assert (tmp_path / "net.v2.safetensors").is_file()
    assert checkpoints.load(tmp_path / "net.v2").kind == "linear"


def test_a_folder_with_several_checkpoints_means_the_best(tmp_path: Path) -> None:
    saved(tmp_path / "last")
    saved(tmp_path / "other")
    with pytest.raises(CheckpointError, match="found last, other"):
        checkpoints.load(tmp_path)
    saved(tmp_path / "best")
    assert checkpoints.load(tmp_path).path.name == "best"


def test_a_path_without_checkpoint_says_which_files_are_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected net\.safetensors and net\.json"):
        checkpoints.load(tmp_path / "net")
    with pytest.raises(CheckpointError, match="found none"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("gone", [".json", ".safetensors"])
def test_a_missing_half_is_named(tmp_path: Path, gone: str) -> None:
    saved(tmp_path / "net")
    (tmp_path / f"net{gone}").unlink()
    with pytest.raises(CheckpointError, match=rf"net\{gone} is not"):
        checkpoints.load(tmp_path / "net")


def test_a_changed_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    saved(tmp_path / "net")
    path = tmp_path / "net.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoints.load(tmp_path / "net")


def test_a_truncated_weights_file_is_noticed_even_when_the_hash_was_made_to_fit(
    tmp_path: Path,
) -> None:
    saved(tmp_path / "net")
    path = tmp_path / "net.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cut off"):
        checkpoints.load(tmp_path / "net")
    described = json.loads((tmp_path / "net.json").read_text())
    described["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "net.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoints.load(tmp_path / "net")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"kind": "linear"}', "'format_version'"),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    saved(tmp_path / "net")
    (tmp_path / "net.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(tmp_path / "net")


def test_a_newer_format_asks_for_a_newer_version(tmp_path: Path) -> None:
    saved(tmp_path / "net")
    described = json.loads((tmp_path / "net.json").read_text())
    described["format_version"] += 1
    (tmp_path / "net.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="install a newer one"):
        checkpoints.load(tmp_path / "net")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 2), r"'weight' should have shape \(2, 4\); found \(2, 3\)"),
        (nn.Linear(3, 2, bias=False), r"'bias' should have shape none"),
        (nn.Bilinear(3, 1, 2), r"'weight' should have shape \(2, 3, 1\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_both_shapes(
    tmp_path: Path, network: nn.Module, message: str
) -> None:
    saved(tmp_path / "net")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(tmp_path / "net").fill(network)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = saved(tmp_path / "net")
    synced: list[int] = []

    def full_at_second_file(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_at_second_file)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path / "net", seed=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    assert torch.equal(checkpoints.load(tmp_path / "net").state_dict["weight"], old.weight)


@pytest.mark.parametrize("n_renames", [0, 1])
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_the_renames_leaves_one_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_renames: int, first: bool
) -> None:
    old = None if first else saved(tmp_path / "net")
    replace, done = os.replace, list[Path]()

    def killed(source: Path, destination: Path) -> None:
        if len(done) == n_renames:
            raise KeyboardInterrupt
        done.append(source)
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path / "net", seed=1)
    expected = old if n_renames == 0 else small_network(seed=1)
    if expected is None:
        with pytest.raises(CheckpointError, match="found no checkpoint"):
            checkpoints.load(tmp_path / "net")
    else:
        loaded = checkpoints.load(tmp_path / "net").state_dict["weight"]
        assert torch.equal(loaded, expected.weight)
    new = saved(tmp_path / "net", seed=2)
    assert torch.equal(checkpoints.load(tmp_path / "net").state_dict["weight"], new.weight)
