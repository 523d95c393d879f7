"""Tables as text for people."""

from collections.abc import Sequence


def format_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Columns padded to one width; numbers to the right, text to the left.

    Args:
        header: names of the columns.
        lines: one cell a column; floats are shown with four decimals, None as a dash.
    """
    cells = [[_shown(cell) for cell in line] for line in lines]
    columns = list(zip(header, *cells, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [not any(isinstance(line[i], str) for line in lines) for i in range(len(header))]

    def show(line: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([show(header), show(["-" * width for width in widths]), *map(show, cells)])


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{round(cell, 4) + 0.0:.4f}"  # no minus before zero
    return str(cell)


def format_markdown(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped.

    Args:
        header: names of the columns.
        lines: one cell a column, shown as in :func:`format_table`.
    """
    cells = [[_shown(cell).replace("|", r"\|") for cell in line] for line in lines]
    rows = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
