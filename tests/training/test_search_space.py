"""Texts that say what a search may vary."""

import pytest

from activemri.settings import TrainReconstructorSettings
from activemri.training.search_space import Range, apply, parse_space

SETTINGS = TrainReconstructorSettings()


def test_ranges_and_choices_are_told_apart() -> None:
    found = parse_space(
        ["lr=1e-4:1e-2:log", "batch-size=2:8", "loss=l1+ssim|l1", "network.channels=8|16"],
        SETTINGS,
    )
    assert found == {
        "lr": Range(1e-4, 1e-2, log=True, whole=False),
        "batch_size": Range(2, 8, log=False, whole=True),
        "loss": ("l1+ssim", "l1"),
        "network.channels": ("8", "16"),
    }


def test_arguments_of_networks_are_whole_numbers_if_their_range_is() -> None:
    found = parse_space(["network.blocks=1:4", "network.dropout=0.0:0.5"], SETTINGS)
    assert found["network.blocks"] == Range(1, 4, log=False, whole=True)
    assert found["network.dropout"] == Range(0.0, 0.5, log=False, whole=False)


def test_values_are_put_into_the_settings_with_their_types() -> None:
    values = {"lr": 0.25, "batch_size": "7", "network.channels": "16", "network.blocks": 2}
    found = apply(TrainReconstructorSettings(network=("channels=8", "skips=false")), values)
    assert (found.lr, found.batch_size) == (0.25, 7)
    assert found.network == ("skips=false", "channels=16", "blocks=2")
    assert found.loss == SETTINGS.loss


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "--space lr: expected key=low:high, key=low:high:log or key=a|b"),
        ("lr=", "expected key=low:high"),
        ("lr=a:b", "expected numbers around the colon"),
        ("batch_size=1:2.5", "expected whole numbers around the colon"),
        ("lr=1:1", "expected a smaller and a larger number$"),
        ("lr=2:1", "expected a smaller and a larger number$"),
        ("lr=0:1:log", "a smaller and a larger number above 0"),
        ("lr=nan:1", "a smaller and a larger number"),
        ("lr=0:1", r"--space lr=0:1: --lr: expected a number above 0; got 0\.0"),
        ("batch_size=2|x", "--space batch_size=2|x: invalid literal"),
        ("loss=l1|l9", "--space loss=l1|l9: unknown loss 'l9'"),
        ("network.height=1:2", "--space network.height=1:2: .* with an argument of cresnet"),
        ("network.channels=8|7", "--space network.channels=8|7: expected an even number"),
        ("height=1:2", "cannot search 'height'; expected one of .*lr.*, or network.ARGUMENT"),
        ("network.=1:2", "cannot search 'network.'"),
        ("budget=8|16", "cannot search 'budget'"),
        ("data=a|b", "cannot search 'data'"),
        ("network=channels=8|channels=16", "cannot search 'network'"),
        ("study=1:2", "cannot search 'study'"),
    ],
)
def test_texts_that_make_no_sense_are_quoted(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_space([word], SETTINGS)


def test_a_key_may_come_once() -> None:
    with pytest.raises(ValueError, match="lr is there twice"):
        parse_space(["lr=1:2", "lr=3|4"], SETTINGS)


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        parse_space([], SETTINGS)
