"""The command line: one table of commands, a settings dataclass and a function each.

Mistakes of the user (a value that makes no sense, a file that is missing or broken, a folder that
cannot be written, an extra that is not installed) end with one line and status 2. Anything else
is a mistake of ours and keeps its traceback; with ACTIVEMRI_TRACEBACK=1 in the environment
every error keeps it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import activemri


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: one line for the list of commands.
        settings: "module:class" of a frozen dataclass whose defaults work, imported when it is
            needed. Its field `protocol`, if there is one, takes ``--env ID``.
        run: "module:function" that takes the settings and gives what is to be printed, or None.
        interrupted: how to go on after an interruption.
    """

    summary: str
    settings: str
    run: str
    interrupted: str = ""


_AGAIN = "start the same command again to continue"
_RESUME = "start the same command with --resume to continue"

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "acquire phantom scans with every policy, and report",
        "activemri.benchmark.demo:DemoSettings",
        "activemri.benchmark.demo:run_demo",
    ),
    "benchmark": Command(
        "compare policies and reconstructors on the scans of one split",
        "activemri.benchmark.plan:BenchmarkSettings",
        "activemri.benchmark.run:run_benchmark",
        _AGAIN,
    ),
    "calibrate": Command(
        "recalibrate a reconstructor's uncertainty, and report",
        "activemri.benchmark.calibrate:CalibrateSettings",
        "activemri.benchmark.calibrate:run_calibration",
    ),
    "curves": Command(
        "draw learning curves of trainings",
        "activemri.benchmark.learning_curves:CurvesSettings",
        "activemri.benchmark.learning_curves:draw_learning_curves",
    ),
    "train reconstructor": Command(
        "train a reconstructor",
        "activemri.settings:TrainReconstructorSettings",
        "activemri.training.commands:train_reconstructor_command",
        _RESUME,
    ),
    "train joint": Command(
        "train a reconstructor and its evaluator",
        "activemri.settings:TrainJointSettings",
        "activemri.training.commands:train_joint_command",
        _RESUME,
    ),
    "train order": Command(
        "learn a fixed order of actions",
        "activemri.settings:TrainOrderSettings",
        "activemri.training.commands:train_order_command",
    ),
    "train policy": Command(
        "train a policy",
        "activemri.settings:TrainPolicySettings",
        "activemri.agents.learning.run:train_policy",
        _RESUME,
    ),
    "train alternating": Command(
        "train a policy and a reconstructor in turns",
        "activemri.settings:TrainAlternatingSettings",
        "activemri.alternating:train_alternating",
        _RESUME,
    ),
    "demonstrate": Command(
        "write down what actions would gain, by an oracle",
        "activemri.settings:DemonstrateSettings",
        "activemri.agents.learning.demonstrate:demonstrate",
    ),
    "tune": Command(
        "search for hyper-parameters",
        "activemri.settings:TuneSettings",
        "activemri.training.commands:tune_command",
        _RESUME,
    ),
    "data inspect": Command(
        "list files, subjects, shapes and problems of a data folder",
        "activemri.settings:InspectSettings",
        "activemri.data.inspection:run_inspection",
    ),
    "data split": Command(
        "split subjects into train, val and test",
        "activemri.settings:SplitSettings",
        "activemri.data.split_file:draw_split_file",
    ),
    "data convert": Command(
        "convert scans of any format to the one that is read fastest",
        "activemri.settings:ConvertSettings",
        "activemri.data.conversion:convert",
        _AGAIN,
    ),
    "data card": Command(
        "describe a data folder in a document",
        "activemri.settings:CardSettings",
        "activemri.data.card:write_card",
    ),
    "throughput": Command(
        "measure steps a second",
        "activemri.benchmark.throughput:ThroughputSettings",
        "activemri.benchmark.throughput:run_throughput",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: what follows the program's name; None means ``sys.argv[1:]``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"activemri {activemri.__version__}")
        return 0
    name = next((n for n in COMMANDS if arguments[: len(n.split())] == n.split()), None)
    if name is None:
        return _show_commands(arguments)
    command = COMMANDS[name]
    try:
        settings = parse(name, arguments[len(name.split()) :])
        result = _load(command.run)(settings)
        if result is not None and os.environ.get("RANK", "0") == "0":  # torchrun: the first speaks
            print(result.text() if hasattr(result, "text") else result)
        sys.stdout.flush()
    except KeyboardInterrupt:
        hint = f"; {command.interrupted}" if command.interrupted else ""
        print(f"\nactivemri: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("ACTIVEMRI_TRACEBACK") or _is_ours(error):
            raise
        print(f"activemri: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The settings of a command, from its defaults, ``--env ID``, and single options."""
    import tyro

    settings = _load(COMMANDS[name].settings)
    env, rest = _take_env(arguments)
    default = settings() if env is not None or hasattr(settings, "protocol") else None
    if env is not None:
        if not hasattr(default, "protocol"):
            raise ValueError(f"activemri {name} takes no --env")
        from activemri.registration import find_protocol

        default = replace(default, protocol=find_protocol(env))  # type: ignore[type-var]
    given = {} if default is None else {"default": default}
    return tyro.cli(settings, prog=f"activemri {name}", args=rest, **given)


def _take_env(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of ``--env``, and the other arguments."""
    rest, env = list(arguments), None
    for place, word in enumerate(arguments):
        if word.startswith("--env="):
            env = word.removeprefix("--env=")
            del rest[place]
        elif word == "--env":
            if place + 1 == len(arguments):
                raise ValueError("--env: expected the id of an environment")
            env = arguments[place + 1]
            del rest[place : place + 2]
        if env is not None:
            break
    return env, rest


def _show_commands(arguments: Sequence[str]) -> int:
    """The list of commands; an error for a command that there is not."""
    group = " ".join(word for word in arguments if not word.startswith("-"))
    shown = {n: c for n, c in COMMANDS.items() if n.startswith(group)} or COMMANDS
    asked = not group or (shown is not COMMANDS and {"-h", "--help"} & set(arguments))
    out = sys.stdout if asked else sys.stderr
    if not asked:
        print(f"activemri: error: unknown command {' '.join(arguments)!r}\n", file=out)
    print("Acquire an MRI scan line by line.\n\nusage: activemri COMMAND [OPTIONS]\n", file=out)
    width = max(map(len, shown))
    for name, command in shown.items():
        print(f"  {name:{width}}  {command.summary}", file=out)
    print("\nEvery command has --help. `activemri --version` prints the version.", file=out)
    return 0 if asked else 2


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), name)
    return loaded


def _is_ours(error: Exception) -> bool:
    """Whether a module of this package is missing: no extra would help."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name is not None and name.split(".")[0] == "activemri"


def _one_line(error: Exception) -> str:
    """The error's message on one line, with the way out where an extra is missing."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        message = f"{error.filename}: {error.strerror}"  # without the number
    message = " ".join(message.split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and "activemri[" not in message:
        message += '; pip install "activemri[all]" installs everything that a command may need'
    return message


if __name__ == "__main__":
    sys.exit(main())
