"""Tables for people and for programs: one record becomes text, Markdown, HTML and JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import itemgetter
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A value with what belongs to it.

    Attributes:
        value: as it is shown.
        interval: its ends, e.g. "0.81, 0.85", or a word why there are none.
        small: further words, in HTML alone, below the value.
        tag: a word beside the value, e.g. "bound".
        style: "best", "better", "worse" or "faint", in HTML alone.
        colour: of a dot before the value, in HTML alone.
    """

    value: str
    interval: str = ""
    small: tuple[str, ...] = ()
    tag: str = ""
    style: str = ""
    colour: str = ""

    @property
    def text(self) -> str:
        ends = f" [{self.interval}]" if self.interval else ""
        return f"{self.value}{ends}" + (f" ({self.tag})" if self.tag else "")

    @property
    def html(self) -> str:
        dot = f'<span class="dot" style="background:{escape(self.colour)}"></span>'
        tag = f'<span class="tag">{escape(self.tag)}</span>'
        small = [word for word in (self.interval.replace(", ", " to "), *self.small) if word]
        below = "".join(f"<small>{escape(word)}</small>" for word in small)
        value = f"<b>{escape(self.value)}</b>{tag if self.tag else ''}{below}"
        return f"{dot}{value}" if self.colour else value


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        cell: what a record shows there: text (to the left), or a number or cell (to the right).
    """

    heading: str
    cell: Callable[[Any], object]


@dataclass(frozen=True, eq=False)
class Table:
    """Records, and the columns that show them.

    Attributes:
        records: one for each line: names to numbers, text, lists; None where there is no value.
            They are what JSON holds.
        columns: what people see.
        title: heading.
        subtitle: smaller, beside the heading.
        notes: sentences below.
    """

    records: Sequence[Record]
    columns: Sequence[Column]
    title: str = ""
    subtitle: str = ""
    notes: Sequence[str] = ()

    def cells(self) -> list[list[object]]:
        """Cells of every line."""
        return [[column.cell(record) for column in self.columns] for record in self.records]

    def text(self) -> str:
        """Columns padded to one width; numbers to the right, text to the left."""
        lines = self.cells()
        shown = [[_text(cell) for cell in line] for line in lines]
        header = [column.heading for column in self.columns]
        widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
        right = self._right(lines)

        def padded(line: Sequence[str]) -> str:
            cells = zip(line, widths, right, strict=True)
            return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip()

        head = " ".join(
            word for word in (self.title, self.subtitle and f"({self.subtitle})") if word
        )
        rule = padded(["-" * width for width in widths])
        return "\n".join(
            [*([head] if head else []), padded(header), rule, *map(padded, shown), *self.notes]
        )

    def markdown(self) -> str:
        """A Markdown table without title and notes; bars in cells are escaped."""
        header = [column.heading for column in self.columns]
        lines = [[_text(cell).replace("|", r"\|") for cell in line] for line in self.cells()]
        rows = [header, ["---"] * len(header), *lines]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def html(self) -> str:
        """A table for a page, without title and notes."""
        lines = self.cells()
        left = ["" if right else ' class="text"' for right in self._right(lines)]
        headings = [escape(column.heading) for column in self.columns]
        head = "".join(f"<th{c}>{h}</th>" for h, c in zip(headings, left, strict=True))
        body = ""
        for first, *others in lines:
            tagged = isinstance(first, Cell) and first.tag
            cells = zip(others, left[1:], strict=True)
            body += f"<tr{' class=' + chr(34) + 'bound' + chr(34) if tagged else ''}>"
            body += f'<th scope="row">{_html(first)}</th>'
            body += "".join(f"<td{_style(cell) or c}>{_html(cell)}</td>" for cell, c in cells)
            body += "</tr>\n"
        return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"

    def json(self) -> list[dict[str, Any]]:
        """The records."""
        return [dict(record) for record in self.records]

    def _right(self, lines: Sequence[Sequence[object]]) -> list[bool]:
        """Columns without plain text; the first of cells is a name."""
        return [
            not any(
                isinstance(line[i], str) or (i == 0 and isinstance(line[i], Cell)) for line in lines
            )
            for i in range(len(self.columns))
        ]


def plain_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> Table:
    """A table of lines that hold a value for each column.

    Args:
        header: names of the columns.
        lines: floats are shown with four decimals, None as a dash.
    """
    columns = [Column(name, itemgetter(name)) for name in header]
    return Table([dict(zip(header, line, strict=True)) for line in lines], columns)


def format_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """The text of :func:`plain_table`."""
    return plain_table(header, lines).text()


def format_markdown(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """The Markdown of :func:`plain_table`."""
    return plain_table(header, lines).markdown()


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{round(cell, 4) + 0.0:.4f}"  # no minus before zero
    return cell.text if isinstance(cell, Cell) else str(cell)


def _html(cell: object) -> str:
    return cell.html if isinstance(cell, Cell) else escape(_text(cell))


def _style(cell: object) -> str:
    return f' class="{cell.style}"' if isinstance(cell, Cell) and cell.style else ""
