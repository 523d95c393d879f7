"""Functions of this package that one plain step enters: ``python -m tests.count_step``."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gymnasium

import activemri

PACKAGE = Path(activemri.__file__).resolve().parent
#: Where the package's code lies; two of its folders are links.
FOLDERS = (PACKAGE, *(folder.resolve() for folder in PACKAGE.iterdir() if folder.is_symlink()))


def entered(function: Callable[[], object]) -> set[CodeType]:
    """Code of this package's functions that a call enters, comprehensions and lambdas included."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return {code for code in codes if any(path_of(code).is_relative_to(f) for f in FOLDERS)}


def functions_of_a_step() -> set[CodeType]:
    """Functions that a zero-filled step of a single environment enters, after two others."""
    env = gymnasium.make(
        "activemri:ActiveMRI/Phantom-v0", reconstructor="zero-filled", matrix_size=32
    ).unwrapped
    env.reset(seed=0)
    env.step(0)
    env.step(1)
    return entered(lambda: env.step(2))


def path_of(code: CodeType) -> Path:
    return Path(code.co_filename).resolve()


def report(codes: set[CodeType]) -> str:
    """The functions by file, and how many there are."""
    lines = []
    files = sorted({path_of(code) for code in codes})
    for file in files:
        lines.append(str(file.relative_to(PACKAGE.parent)))
        own = sorted(
            (code.co_firstlineno, code.co_qualname) for code in codes if path_of(code) == file
        )
        lines += [f"    {line:4d} {name}" for line, name in own]
    named = [code for code in codes if not code.co_name.startswith("<")]
    total = f"{len(codes)} functions in {len(files)} files"
    return "\n".join([*lines, f"{total}; {len(named)} without comprehensions and lambdas"])


if __name__ == "__main__":
    print(report(functions_of_a_step()))  # noqa: T201
