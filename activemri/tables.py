"""Tables for people: a header and lines become text, Markdown and HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


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

    def __str__(self) -> str:
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


@dataclass(frozen=True, eq=False)
class Table:
    """Lines of cells under a header.

    Attributes:
        header: a word for each column.
        lines: text (to the left), or numbers and cells (to the right); floats are shown with four
            decimals, None as a dash.
        title: heading.
        subtitle: smaller, beside the heading.
        notes: sentences below.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[object]]
    title: str = ""
    subtitle: str = ""
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Columns padded to one width."""
        shown = [[*self.header], *([_text(cell) for cell in line] for line in self.lines)]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        shown.insert(1, ["-" * width for width in widths])
        columns = list(zip(widths, self._right(), strict=True))
        padded = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, (width, right) in zip(line, columns, strict=True)
            ).rstrip()
            for line in shown
        ]
        head = " ".join(filter(None, (self.title, self.subtitle and f"({self.subtitle})")))
        return "\n".join([*([head] if head else []), *padded, *self.notes])

    def markdown(self) -> str:
        """A Markdown table without title and notes; bars in cells are escaped."""
        lines = [[_text(cell).replace("|", r"\|") for cell in line] for line in self.lines]
        rows = [self.header, ["---"] * len(self.header), *lines]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def html(self) -> str:
        """A table for a page, without title and notes."""
        left = ["" if right else ' class="text"' for right in self._right()]
        head = "".join(f"<th{c}>{escape(h)}</th>" for h, c in zip(self.header, left, strict=True))
        body = ""
        for line in self.lines:
            first, *others = (one if isinstance(one, Cell) else Cell(_text(one)) for one in line)
            body += '<tr class="bound">' if first.tag else "<tr>"
            body += f'<th scope="row">{first.html}</th>'
            for cell, aligned in zip(others, left[1:], strict=True):
                style = f' class="{cell.style}"' if cell.style else aligned
                body += f"<td{style}>{cell.html}</td>"
            body += "</tr>\n"
        return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"

    def _right(self) -> list[bool]:
        """Columns without plain text; the first of cells is a name."""
        return [
            not any(isinstance(line[i], str if i else str | Cell) for line in self.lines)
            for i in range(len(self.header))
        ]


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{round(cell, 4) + 0.0:.4f}"  # no minus before zero
    return str(cell)
