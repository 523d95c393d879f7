"""Labels of policies, and trainings that belong together."""

from pathlib import Path

import pytest

from activemri.benchmark.entrants import digest_of_files, label_policies, label_reconstructors


def test_names_stay_and_paths_get_short_labels() -> None:
    found = label_policies(["random", "runs/mine/best.safetensors", "orders/lbcs-unet.json", "a/b"])
    assert list(found) == ["random", "mine", "lbcs-unet", "b"]
    assert found["mine"] == ("runs/mine/best.safetensors",)


@pytest.mark.parametrize(
    "arguments", [["ddqn=r/s0,r/s1,r/s2"], ["ddqn=r/s0", "ddqn=r/s1", "ddqn=r/s2"]]
)
def test_trainings_with_several_seeds_are_one_policy(arguments: list[str]) -> None:
    found = label_policies(["lbcs", *arguments])
    assert found == {"lbcs": ("lbcs",), "ddqn": ("r/s0", "r/s1", "r/s2")}


def test_a_path_may_hold_an_equals_sign() -> None:
    assert label_policies(["runs/lr=1/best"]) == {"lr=1": ("runs/lr=1/best",)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/x", "b/x"], "would both be called 'x'"),
        (["random", "random"], "would both be called 'random'"),
        (["a/x", "x=b/y"], "would both be called 'x'"),
        (["x=b/y", "a/x"], "would both be called 'x'"),
        (["x=a/y,a/y"], "holds the same file twice"),
        (["x=a/y", "x=a/y"], "holds the same file twice"),
        (["x="], "expected LABEL=PATH"),
        (["=a/y"], "expected LABEL=PATH"),
        (["x=a/y,,b/y"], "expected LABEL=PATH"),
        (["lbcs=a/y"], "'lbcs' is a built-in policy"),
        (["best=oracle"], "'oracle' is a built-in policy"),
    ],
)
def test_labels_that_mislead_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_policies(arguments)


def test_two_reconstructors_of_one_label_are_refused() -> None:
    assert label_reconstructors(["unet", "runs/x/best"]) == {"unet": "unet", "x": "runs/x/best"}
    with pytest.raises(ValueError, match="would both be called 'x'"):
        label_reconstructors(["runs/x/best", "other/x"])


def test_digests_are_of_what_files_hold(tmp_path: Path) -> None:
    assert digest_of_files("random") == ""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.safetensors").write_bytes(b"weights")
        (tmp_path / name / "best.json").write_text("{}")
    paths = [tmp_path / "a", tmp_path / "a" / "best", tmp_path / "b" / "best.safetensors"]
    same = {digest_of_files(str(path)) for path in paths}
    assert len(same) == 1 and same != {""}
    (tmp_path / "b" / "best.json").write_text("{ }")
    assert digest_of_files(str(tmp_path / "b")) not in same
