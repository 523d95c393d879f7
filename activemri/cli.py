"""The command line: one table of commands, a function each, which takes a settings dataclass.

Mistakes of the user (values, files, folders, too little memory, an extra that is not installed) end
with one line and status 2. Anything else is a mistake of ours and keeps its traceback; with
ACTIVEMRI_TRACEBACK=1 in the environment every error keeps it.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, replace
from importlib import import_module
from inspect import signature
from typing import Any

import activemri


@dataclass(frozen=True)
class Command:
    """One command: a "module:function", imported when it is needed, that gives what is printed.

    The annotation of its first argument is a frozen dataclass of settings whose defaults work. Its
    field `protocol`, if there is one, takes ``--env ID``, its field `learner` ``--algo NAME``. A
    method ``adapted(given)`` gives the same settings with defaults that depend on other options:
    ``given(name)`` is the text of one, or None.
    """

    summary: str
    run: str
    interrupted: str = ""  # how to go on
    is_swept: bool = False  # takes scans to learn from and to validate with, and gives a score
    sweeps: bool = False  # another follows; it goes into the fields `command`, `base`, `train`


_NO_MEMORY = re.compile("(allocate|out of) memory")
_AGAIN = "start the same command again to continue"
_RESUME = "start the same command with --resume to continue"

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "acquire phantom scans with policies of each kind, and report",
        "activemri.benchmark.demo:run_demo",
    ),
    "benchmark": Command(
        "compare policies and reconstructors on the scans of one split",
        "activemri.benchmark.run:run_benchmark",
        _AGAIN,
    ),
    "calibrate": Command(
        "recalibrate a reconstructor's uncertainty, and report",
        "activemri.benchmark.calibrate:run_calibration",
    ),
    "curves": Command(
        "draw learning curves of trainings",
        "activemri.benchmark.learning_curves:draw_learning_curves",
    ),
    "train reconstructor": Command(
        "train a reconstructor",
        "activemri.training.reconstructor:train_reconstructor",
        _RESUME,
        is_swept=True,
    ),
    "train joint": Command(
        "train a reconstructor and its evaluator",
        "activemri.training.joint:train_joint",
        _RESUME,
        is_swept=True,
    ),
    "train order": Command("learn a fixed order of actions", "activemri.agents.order:train_order"),
    "train policy": Command(
        "train a policy", "activemri.agents.training:run_training", _RESUME, is_swept=True
    ),
    "train alternating": Command(
        "train a policy and a reconstructor in turns",
        "activemri.training.alternating:train_alternating",
        _RESUME,
    ),
    "demonstrate": Command(
        "write down what actions would gain, by an oracle",
        "activemri.agents.learners.demonstrations:demonstrate",
    ),
    "sweep": Command(
        "train over folds of subjects, values of settings, or in search of the best ones",
        "activemri.training.sweep:run_sweep",
        _RESUME,
        sweeps=True,
    ),
    "data inspect": Command(
        "list files, subjects, shapes and problems of a data folder",
        "activemri.data.inspection:run_inspection",
    ),
    "data split": Command(
        "split subjects into train, val and test", "activemri.data.splits:draw_split_file"
    ),
    "data convert": Command(
        "convert scans of any format to the one that is read fastest",
        "activemri.data.conversion:convert",
        _AGAIN,
    ),
    "data card": Command(
        "describe a data folder in a document", "activemri.data.inspection:write_card"
    ),
    "throughput": Command(
        "measure steps a second", "activemri.benchmark.throughput:run_throughput"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of ``sys.argv[1:]``, and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"activemri {activemri.__version__}")
        return 0
    name = _named_first(arguments)
    if name is None:
        return _show_commands(arguments)
    command = COMMANDS[name]
    try:
        settings = parse(name, arguments[len(name.split()) :])
        result = load(command)[0](settings)
        if result is not None and os.environ.get("RANK", "0") == "0":  # torchrun: the first speaks
            print(result)
        sys.stdout.flush()
    except KeyboardInterrupt:
        hint = f"; {command.interrupted}" if command.interrupted else ""
        print(f"\nactivemri: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else None
        ours = missing is not None and missing.split(".")[0] == "activemri"  # no extra would help
        # torch has no kind of error for a lack of memory of the CPU.
        full = isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))
        ours |= isinstance(error, RuntimeError) and not full
        if os.environ.get("ACTIVEMRI_TRACEBACK") or ours:
            raise
        message = f"not enough memory: {error}" if full else str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror or error}"  # without the number
        message = " ".join(message.split()) or type(error).__name__
        if missing is not None and "activemri[" not in message:
            message += '; pip install "activemri[all]" installs everything that a command may need'
        print(f"activemri: error: {message}", file=sys.stderr)
        return 2
    return 0


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The settings of a command, from its defaults, ``--env ID``, ``--algo NAME``, and options.

    ``--import MODULE`` first imports a module of the user's own, as checkpoints never do;
    ``--no-cache`` keeps this process, and those that it starts, off the user's cache folder.

    Raises:
        ValueError: an option that there is not, or a value that makes no sense.
        SystemExit: help was shown.
    """
    import tyro

    from activemri.options import require_numbers

    command = COMMANDS[name]
    own, arguments = _take("import", arguments)
    if own is not None:
        from activemri import plugins

        plugins.load_module(own, what="--import")
    if "--no-cache" in arguments:
        os.environ["ACTIVEMRI_CACHE"] = ""
        arguments = [word for word in arguments if word != "--no-cache"]
    settings = load(command)[1]
    inner: dict[str, Any] = {}
    if command.sweeps:
        arguments, inner = _split(name, arguments)
    known = {field.name for field in fields(settings)}
    default: Any = settings() if {"protocol", "learner"} & known else None
    env, rest = _take("env", arguments)
    algo, rest = _take("algo", rest)
    for option, value, field in (("env", env, "protocol"), ("algo", algo, "learner")):
        if value is not None and field not in known:
            raise ValueError(f"this command takes no --{option}")
    if env is not None:
        from activemri.registration import find_protocol

        protocol = find_protocol(env)
        if "split" not in protocol.changes:  # a command has a split of its own
            protocol = replace(protocol, split=default.protocol.split)
        default = replace(default, protocol=protocol)
    if algo is not None:
        from activemri.agents.learners import find_learner

        default = replace(default, learner=find_learner(algo)())
    if hasattr(default, "adapted"):
        default = default.adapted(lambda option: _take(option, rest)[0])
    given = {} if default is None else {"default": default}
    shown = io.StringIO()
    try:
        with redirect_stderr(shown):
            parsed = tyro.cli(settings, prog=f"activemri {name}", args=rest, **given)
    except SystemExit as error:
        if not error.code:  # help
            raise
        # The message is in a box that tyro draws, of lines or of ASCII.
        box = shown.getvalue().splitlines()[1:]
        words = " ".join(re.sub(r"[─-]{4,}|[╭╮╰╯│|+]", " ", line).strip("─ ") for line in box)
        words = re.split("Argument helptext:|For full helptext", " ".join(words.split()))[0]
        words = words.removeprefix("Error parsing ").strip()
        raise ValueError(f"{words}; --help shows all options") from None
    require_numbers(parsed)
    return replace(parsed, **inner) if inner else parsed


def _named_first(arguments: Sequence[str]) -> str | None:
    """The command whose name the arguments begin with."""
    return next((n for n in COMMANDS if list(arguments[: len(n.split())]) == n.split()), None)


def _split(name: str, arguments: Sequence[str]) -> tuple[Sequence[str], dict[str, Any]]:
    """Options of a command that sweeps another one, and all that it must know of that."""
    for place in range(len(arguments)):
        inner = _named_first(arguments[place:])
        if inner is not None and COMMANDS[inner].is_swept:
            base = parse(inner, arguments[place + len(inner.split()) :])
            known = {"command": inner, "base": base, "train": load(COMMANDS[inner])[0]}
            return arguments[:place], known
    if {"-h", "--help"} & set(arguments):
        return arguments, {}
    trainings = ", ".join(n for n, command in COMMANDS.items() if command.is_swept)
    raise ValueError(f"activemri {name}: expected a command to {name}, one of {trainings}")


def _take(option: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The text that follows an option, if it is given, and the other arguments."""
    for place, word in enumerate(arguments):
        head, equals, value = word.partition("=")
        if head != f"--{option}":
            continue
        after = place + 1 if equals else place + 2
        if after > len(arguments):
            raise ValueError(f"--{option}: expected a name")
        return value if equals else arguments[place + 1], [*arguments[:place], *arguments[after:]]
    return None, list(arguments)


def _show_commands(arguments: Sequence[str]) -> int:
    """The list of commands; an error for a command that there is not."""
    group = " ".join(word for word in arguments if not word.startswith("-"))
    shown = {n: c for n, c in COMMANDS.items() if n.startswith(group)} or COMMANDS
    asked = not group or (shown is not COMMANDS and {"-h", "--help"} & set(arguments))
    out = sys.stdout if asked else sys.stderr
    if not asked:
        print(f"activemri: error: unknown command {' '.join(arguments)!r}\n", file=out)
    print("Acquire an MRI scan readout by readout.\n", file=out)
    print("usage: activemri COMMAND [OPTIONS]\n", file=out)
    width = max(map(len, shown))
    for name, command in shown.items():
        print(f"  {name:{width}}  {command.summary}", file=out)
    print("\nEvery command has --help; --no-cache keeps it off the folder of caches.", file=out)
    print("`activemri --version` prints the version.", file=out)
    return 0 if asked else 2


def load(command: Command) -> tuple[Callable[[Any], Any], type]:
    """The function of a command, and the class of its settings."""
    module, _, name = command.run.partition(":")
    run = getattr(import_module(module), name)
    return run, next(iter(signature(run).parameters.values())).annotation


if __name__ == "__main__":
    sys.exit(main())
