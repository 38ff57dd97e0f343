"""A report as one HTML page that needs nothing beside it: pictures inside, readable on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
figcaption { font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
.best { font-weight: bold; }
"""


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: str

    def to_html(self) -> str:
        """The element."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str

    def to_html(self) -> str:
        """The element."""
        return f"<h2>{escape(self.text)}</h2>"


@dataclass(frozen=True)
class Picture:
    """A PNG file's bytes with its caption."""

    png: bytes
    caption: str

    def to_html(self) -> str:
        """The element, the picture in it as a data URI."""
        data = base64.b64encode(self.png).decode()
        caption = escape(self.caption)
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


@dataclass(frozen=True)
class HtmlTable:
    """Rows of cells under a head; `best`: (row, column) of cells to stress."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()

    def to_html(self) -> str:
        """The element, which scrolls by itself where the screen is narrow."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = "\n".join(
            "<tr>"
            + "".join(
                f'<td class="best">{escape(cell)}</td>' if (i, j) in self.best else f"<td>{escape(cell)}</td>"
                for j, cell in enumerate(row)
            )
            + "</tr>"
            for i, row in enumerate(self.rows)
        )
        return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


class Block(Protocol):
    """What a page is made of: those above, or another with an element of its own."""

    def to_html(self) -> str:
        """The element."""
        ...


def render_page(title: str, blocks: Sequence[Block], style: str = "") -> str:
    """The page as text; `style`: CSS beside its own."""
    body = "\n".join(block.to_html() for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
