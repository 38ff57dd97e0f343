"""Tables: what is written is read back exactly, what is wrong is named, points are chosen as asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from piqi_runtime.boards import load_board
from piqi_runtime.table import (
    AccuracyMetric,
    OperatingPoint,
    ParetoTable,
    TableError,
    TableLayers,
    load_table,
    save_table,
    schema_json,
)

Content = dict[str, Any]


def point(order: str, freqs: str, latency_ms: float, power_mw: float, accuracy: float, **more: Any) -> OperatingPoint:
    energy_mj = latency_ms * power_mw / 1e3
    figures = {"latency_ms": latency_ms, "power_mw": power_mw, "energy_mj": energy_mj, "accuracy": accuracy}
    return OperatingPoint(order=order, freqs=freqs, **figures, **more)


def table(*points: OperatingPoint, letters: str = "LBGN") -> ParetoTable:
    return ParetoTable(
        board="rk3399pro",
        model="small",
        layers=TableLayers(count=len(points[0].order), letters=letters),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=points,
    )


def small_table() -> ParetoTable:
    return table(
        point("NNN", "7 7 7", 10.0, 6000.0, 60.0, search="piqi", seed=3),
        point("GLN", "4-7 5 7", 20.0, 5000.0, 66.0, accuracy_lower_bound=65.5),
        point("LLL", "5 5 5", 40.0, 5500.0, 70.0, cost_provenance="measured"),
        point("LLL", "0 0 0", 90.0, 3500.0, 70.0),
    )


@pytest.fixture
def content() -> Content:
    """A good table as JSON values, to spoil."""
    return json.loads(small_table().model_dump_json(exclude_none=True))


def read(folder: Path, content: object) -> ParetoTable:
    path = folder / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_table(path)


def error_of(folder: Path, content: object) -> str:
    with pytest.raises(TableError) as caught:
        read(folder, content)
    text = str(caught.value)
    assert text.startswith(f"{folder / 'table.json'}: ") and "\n" not in text
    return text


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    save_table(small_table(), path)
    assert load_table(path) == small_table()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def test_a_table_of_one_point(tmp_path: Path) -> None:
    save_table(table(small_table().points[0]), tmp_path / "one.json")
    assert len(load_table(tmp_path / "one.json").points) == 1


@given(
    st.lists(
        st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(0, 100)),
        min_size=1,
        max_size=12,
    )
)
def test_a_table_is_accepted_just_if_it_is_a_sorted_front(figures: list[tuple[float, float, float]]) -> None:
    def beats(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2]

    figures.sort(key=lambda f: (f[0], f[1], -f[2]))
    points = [point("L", str(i), *f) for i, f in enumerate(figures)]
    front = [p for i, p in enumerate(points) if not any(beats(f, figures[i]) for f in figures[:i] + figures[i + 1 :])]
    if len(front) == len(points):
        made = table(*points)
        assert ParetoTable.model_validate_json(made.model_dump_json()) == made
        if len(points) > 1:
            with pytest.raises(ValidationError, match="rising latency"):
                table(*reversed(points))
    else:
        with pytest.raises(ValidationError, match="dominates"):
            table(*points)


def change_point(place: int, **values: object) -> Callable[[Content], None]:
    return lambda content: content["points"][place].update(values)


SPOILT: list[tuple[Callable[[Content], object], tuple[str, ...]]] = [
    (lambda c: c.pop("board"), ("board", "required")),
    (lambda c: c.update(colour="red"), ("colour", "red")),
    (lambda c: c.update(schema_version=2), ("schema_version", "2")),
    (lambda c: c.update(points=[]), ("points", "at least 1")),
    (lambda c: c["layers"].update(count=0), ("layers.count", "0")),
    (lambda c: c["layers"].update(letters="LBL"), ("layers.letters", "LBL")),
    (lambda c: c["accuracy_metric"].update(int8=101), ("accuracy_metric.int8", "101")),
    (lambda c: c["points"].reverse(), ("points[1].latency_ms", "rising", "40.0")),
    (lambda c: c["points"].append(dict(c["points"][3])), ("points[4]", "points[3]", "again")),
    (lambda c: c["points"][1].pop("accuracy"), ("points[1].accuracy", "required")),
    (change_point(1, power_mw=-5), ("points[1].power_mw", "-5")),
    (change_point(1, power_mw="5000"), ("points[1].power_mw", "number", "5000")),
    (change_point(1, power_mw=True), ("points[1].power_mw", "True")),
    (change_point(1, latency_ms=float("nan")), ("points[1].latency_ms", "finite", "nan")),
    (change_point(1, energy_mj=float("inf")), ("points[1].energy_mj", "finite", "inf")),
    (change_point(1, energy_mj=101), ("points[1].energy_mj", "100", "101")),
    (change_point(1, accuracy=100.5), ("points[1].accuracy", "100.5")),
    (change_point(1, accuracy_lower_bound=67.0), ("points[1].accuracy_lower_bound", "66.0", "67.0")),
    (change_point(1, cost_provenance="guessed"), ("points[1].cost_provenance", "guessed")),
    (change_point(1, order="GL", freqs="4-7 5"), ("points[1].order", "3 letters", "GL")),
    (change_point(1, order="gln"), ("points[1].order", "gln")),
    (change_point(1, order="GXN"), ("points[1].order", "layer 1", "'X'")),
    (change_point(1, freqs="4-7 5"), ("points[1].freqs", "expected 3", "got 2")),
    (change_point(1, freqs="4-7 5 -7"), ("points[1].freqs", "-7")),
    (change_point(1, freqs="4-7  5 7"), ("points[1].freqs",)),
    (change_point(1, freqs="4-7 05 7"), ("points[1].freqs", "05")),
    (change_point(1, freqs="4-7 5 7-7"), ("points[1].freqs", "layer 2", "'7-7'")),
    (change_point(2, power_mw=6500.0, energy_mj=260.0, accuracy=65.0), ("points[2]", "points[1] dominates", "65.0")),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT)
def test_what_is_wrong_is_named(content: Content, tmp_path: Path, spoil: Callable, said: tuple[str, ...]) -> None:
    read(tmp_path, content)  # it was good
    spoil(content)
    text = error_of(tmp_path, content)
    assert [word for word in said if word not in text] == [], text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": 1'])
def test_what_is_no_table(tmp_path: Path, text: str) -> None:
    error_of(tmp_path, text)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(TableError, match=r"table\.json"):
        load_table(tmp_path / "table.json")
    with pytest.raises(TableError, match="nowhere"):
        load_table(tmp_path / "nowhere.json")
    with pytest.raises(TableError, match="nowhere"):
        save_table(small_table(), tmp_path / "nowhere" / "table.json")


def test_best_keeps_the_limits_and_takes_the_objective() -> None:
    points = small_table().points
    best = small_table().best
    assert best("latency") == points[0]
    assert best("power") == points[3]
    assert best("energy") == points[0]
    assert best("accuracy") == points[2], "of equals the fastest"
    assert best("energy", min_accuracy=61) == points[1]
    assert best("latency", max_power_mw=5000) == points[1]
    assert best("power", max_latency_ms=40) == points[1]
    assert best("power", min_accuracy=67, max_latency_ms=40) == points[2]
    assert best("latency", min_accuracy=70.1) is None


@pytest.mark.parametrize(
    ("order", "freqs", "said"),
    [
        ("LXN", "5 0 7", r"points\[0\]\.order: layer 1.*'X'"),
        ("LBN", "6 0 7", r"points\[0\]\.freqs: layer 0.*up to 5, got '6'"),
        ("LBN", "5 0 8", r"points\[0\]\.freqs: layer 2.*up to 7, got '8'"),
        ("LGN", "5 4 7", r"layer 1.*up to 4-7, got '4'"),
        ("LGN", "5 4-8 7", r"layer 1.*up to 4-7, got '4-8'"),
        ("LBN", "5-5 0 7", r"layer 0.*up to 5, got '5-5'"),
    ],
)
def test_points_that_the_board_cannot_set(order: str, freqs: str, said: str) -> None:
    board = load_board("rk3399pro")
    small_table().check_board(board)
    with pytest.raises(TableError, match=said):
        table(point(order, freqs, 1.0, 1.0, 1.0), letters="LBGNX").check_board(board)


def test_the_schema_in_the_documentation_is_current(project_root: Path, content: Content) -> None:
    schema = json.loads((project_root / "docs/table.schema.json").read_text())
    assert schema == json.loads(schema_json())
    assert set(content) <= set(schema["properties"])
