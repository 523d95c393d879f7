"""Numbers that make no sense, in every option of every command: taken, or refused in one line."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from activemri import cli
from activemri.agents.learners import LEARNERS, find_learner
from activemri.envs.protocol import ScanProtocol
from activemri.options import Compute, _is_bare, _kinds, with_values
from activemri.training.construction import new_reconstructor, trainable
from activemri.training.reconstructor import TrainReconstructorSettings

TEXTS = ("nan", "inf", "-inf", "-1", "0", "1e300", "1e-300", "1000000000", "1" + "0" * 30, "")
#: Commands that cannot do without a path, and their line.
WITH_PATHS = {
    "curves": "x --out y", "data split": "x", "data convert": "x --out y", "data inspect": "x",
    "data card": "x",
}  # fmt: skip


def settings_of_all() -> Iterator[tuple[str, Any]]:
    """Settings of every command, of every learner and of every network."""
    for name, command in cli.COMMANDS.items():
        if name in WITH_PATHS:
            continue
        made = cli.load(command)[1]()
        yield name, made
        for algo in LEARNERS if name == "train policy" else ():
            yield f"{name} {algo}", find_learner(algo)()
        for network in trainable() if name == "train reconstructor" else ():
            protocol = replace(made.protocol, reconstructor=network)
            yield f"{name} {network}", replace(made, protocol=protocol).adapted(lambda _: None)


def numeric(settings: Any, prefix: str = "") -> Iterator[str]:
    """Names of options that take a number."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if is_dataclass(value):
            yield from numeric(value, prefix if _is_bare(hints[field.name]) else f"{name}.")
        elif isinstance(value, dict):
            yield from (f"{name}.{k}" for k, v in value.items() if type(v) in (int, float))
        elif {int, float} & _kinds(hints[field.name]):
            yield name


def refusal(settings: Any, option: str, text: str) -> str:
    """The one line that refuses a value; empty where it is taken."""
    try:
        with_values(settings, {option: text})
    except ValueError as error:
        return str(error)
    return ""


ALL = dict(settings_of_all())


@pytest.mark.parametrize("name", ALL)
def test_every_number_is_taken_or_refused_in_one_line_that_names_the_option(name: str) -> None:
    settings = ALL[name]
    for option in numeric(settings):
        for text in TEXTS:
            message = refusal(settings, option, text)
            shown = option.rpartition(".")[2].replace("_", "-")
            if text in ("nan", "inf", "-inf", "1e300", ""):
                assert message, (option, text)
            assert "\n" not in message, (option, text)
            assert not message or shown in message.replace("_", "-"), (option, text, message)


@pytest.mark.parametrize(
    "line",
    [
        "curves {} --seed 1" + "0" * 30,
        "data split {} --seed -1",
        "data split {} --seed 1e300",
        "data convert {} --coils nan",
        "train policy --learner.lr 1e300",
        "train reconstructor --network.channels 1000000000",
        "benchmark --severity nan",
        "benchmark --budget nan",
        "benchmark --tr inf",
        "benchmark --matrix-size 1000000000000000000000000000000",
        "train order --threads 100000",
        "throughput --seconds inf",
        "sweep --trials 1000000000000000000000 train joint",
        "sweep --folds 2 train joint --lr 1e300",
    ],
)
def test_such_a_number_at_the_command_line_is_one_line_with_status_2(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(n for n in cli.COMMANDS if line.startswith(n))
    words = line.replace("{}", WITH_PATHS.get(name, "")).split()
    option = [word for word in words if word.startswith("--")][-1]
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("activemri: error: ") and option.lstrip("-") in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "option", [name for name in numeric(ScanProtocol()) if name not in ("tr", "step_cost")]
)
def test_scans_are_prepared_or_refused_in_one_line(option: str) -> None:
    """Numbers that a protocol takes, its scans take as well."""
    small = ScanProtocol(matrix_size=16, n_center_lines=4, budget=4)
    needs: dict[str, Any] = {"tile": {"geometry": "tiles"}, "n_spokes": {"geometry": "radial"}}
    needs |= {name: {"scanner": "noisy"} for name in ("severity", "repeats")}
    needs["navigator_noise"] = {"scanner": "moving"}
    small = replace(small, **needs.get(option, {}))
    for text in TEXTS:
        if refusal(small, option, text):
            continue
        protocol = with_values(small, {option: text})
        try:
            dataset = protocol.dataset()
            protocol.scan(dataset)
        except ValueError as error:
            message = str(error).replace("_", "-").replace(" ", "-")
            assert "\n" not in message and option.replace("_", "-") in message, (text, message)


@pytest.mark.parametrize("name", trainable())
def test_networks_are_made_or_refused_in_one_line(name: str) -> None:
    settings = TrainReconstructorSettings(protocol=ScanProtocol(reconstructor=name))
    settings = settings.adapted(lambda _: None)
    for option in settings.network:
        for number in (-1, 0, 1_000_000_000):
            try:
                new_reconstructor(name, {**settings.network, option: number}, seed=0)
            except ValueError as error:
                message = str(error).replace("-", "_")
                assert "\n" not in message and option in message, (option, number, message)


def test_more_memory_than_there_is_is_refused_before_it_is_taken() -> None:
    with pytest.raises(ValueError, match=r"needs [\d,.]+ GB of memory to be trained"):
        new_reconstructor("unet", {"channels": 2048, "pools": 8}, seed=0)


def test_more_threads_than_torch_can_start_are_refused() -> None:
    with pytest.raises(ValueError, match="--threads: expected at most 1024; got 100000"):
        Compute(threads=100_000)
