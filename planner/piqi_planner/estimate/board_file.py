"""The `estimate` section in the text of a board file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from piqi_planner.estimate.parameters import BoardEstimate

_HEADER = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_NOTE = "# Parameters of the analytic model (docs/estimated_profile.md)"


def replace_estimate(text: str, estimate: BoardEstimate) -> str:
    """A board file's text with this section in place of the one it has; all other lines as they were."""
    kept = []
    inside = False
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            inside = header[1] == "estimate" or header[1].startswith("estimate.")
        if not inside and not line.startswith(_NOTE):
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n\n" + format_estimate(estimate)


def format_estimate(estimate: BoardEstimate) -> str:
    """The section as TOML; what has its default value is left out."""
    values = estimate.model_dump(exclude_defaults=True)
    processors, transfers = values.pop("processors"), values.pop("transfers")
    lines = [f"{_NOTE}, {values['basis']}.", "[estimate]", *_entries(values)]
    for section, tables in (("processors", processors), ("transfers", transfers)):
        for key, table in tables.items():
            lines += ["", f"[estimate.{section}.{key}]"]
            work = table.pop("work", None)
            lines += _entries(table)
            if work is not None:
                lines += ["", f"[estimate.{section}.{key}.work]", *_entries(work)]
    return "\n".join(lines) + "\n"


def _entries(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value != {}:
            yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items() if inner != {}) + " }"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str):
        escaped = "".join(c if c >= " " and c not in '"\\' else f"\\u{ord(c):04X}" for c in value)
        return f'"{escaped}"'
    raise TypeError(f"no TOML for {value!r}")
