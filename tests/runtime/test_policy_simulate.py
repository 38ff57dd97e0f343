"""Replayed traces, and `piqictl policy` around them."""

import csv
import json
import sys
from pathlib import Path

import pytest

from piqi_runtime.ctl.cli import main
from piqi_runtime.policy import Constraints, PolicyError, load_policy
from piqi_runtime.policy.simulate import read_trace, shares, simulate, write_rows
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers, save_table

TRACE = """time_s,battery_percent,on_mains,temperature_c,idle_s
0,60,0,50,0
60,30,0,50,0
120,24,0,60,0
180,20,0,85,0
240,15,no,78,0
300,14,0,70,0
360,50,1,60,0
420,80,true,,100
480,81,1,60,0
"""


@pytest.fixture
def table() -> ParetoTable:
    figures = [(10.0, 6000.0, 68.0), (20.0, 2900.0, 66.0), (25.0, 4500.0, 70.0), (45.0, 2000.0, 69.0)]  # 60, 58, ...
    points = tuple(
        OperatingPoint(order="L", freqs=str(i), latency_ms=ms, power_mw=mw, energy_mj=ms * mw / 1e3, accuracy=accuracy)
        for i, (ms, mw, accuracy) in enumerate(figures)
    )
    return ParetoTable(
        board="rk3399pro",
        model="net",
        layers=TableLayers(count=1, letters="LBGN"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=points,
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_simulate(table: ParetoTable, trace: Path) -> None:
    rows = simulate(table, load_policy("default"), read_trace(trace))
    modes = ["balanced", "balanced", "saver", "cool", "cool", "saver", "balanced", "rest", "balanced"]
    assert [row.mode for row in rows] == modes
    assert [row.point for row in rows] == [2, 2, 1, 3, 3, 1, 2, 3, 2]
    assert [row.switched for row in rows] == [i in (2, 3, 5, 6, 7, 8) for i in range(9)]
    assert not any(row.degraded for row in rows)
    assert rows == simulate(table, load_policy("default"), read_trace(trace))
    saver = next(share for share in shares(rows) if share.mode == "saver")
    assert (saver.seconds, saver.entries, saver.power_mw) == (120.0, 2, 2900.0)


def test_limits_of_a_client(table: ParetoTable, trace: Path) -> None:
    rows = simulate(
        table, load_policy("default"), read_trace(trace), Constraints(min_accuracy=69.5, max_power_mw=3000.0)
    )
    assert {row.point for row in rows} == {2} and {row.degraded for row in rows} == {"max_power_mw"}


def test_rows_are_written(table: ParetoTable, trace: Path, tmp_path: Path) -> None:
    write_rows(simulate(table, load_policy("default"), read_trace(trace)), tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[3]["mode"] == "cool" and rows[3]["point"] == "3" and rows[3]["switched"] == "1"
    with pytest.raises(PolicyError, match=r"none/rows\.csv: No such file"):
        write_rows([], tmp_path / "none/rows.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected columns time_s and some of"),
        ("time_s\n", "there are no rows"),
        ("time_s,load\n0,1\n", "expected columns .*, got time_s, load"),
        ("time_s,time_s\n0,1\n", "expected columns"),
        ("time_s,idle_s\n0\n", "line 2: expected 2 cells, got 1"),
        (
            "time_s,battery_percent\n0,50\n1,150\n",
            "line 3: battery_percent: expected a number from 0 to 100, got '150'",
        ),
        ("time_s,on_mains\n0,maybe\n", "line 2: on_mains: expected 0 or 1, got 'maybe'"),
        ("time_s,temperature_c\n0,nan\n", "line 2: temperature_c: expected a number from -100 to 250, got 'nan'"),
        ("time_s\n1\n1\n", "line 3: time_s: expected rising times, got '1'"),
        ("time_s,idle_s\n,1\n", "line 2: time_s: expected rising times, got ''"),
        ('time_s\n"1\n', "line 2: "),
    ],
)
def test_wrong_traces_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        read_trace(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(PolicyError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    path.write_bytes(b"time_s\n\xff\n")
    with pytest.raises(PolicyError, match="expected text in UTF-8"):
        read_trace(path)


def test_simulate_command(table: ParetoTable, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_table(table, tmp_path / "table.json")
    command = ["policy", "simulate", str(trace), "--bundle", str(tmp_path / "table.json")]
    assert main([*command, "--out", str(tmp_path / "rows.csv")]) == 0
    text = capsys.readouterr().out
    assert "rule 'too hot': temperature 85 °C is above 80" in text
    assert text.splitlines()[-1] == "9 rows, 480 s, 6 switches"
    assert (tmp_path / "rows.csv").is_file()
    assert main([*command, "--policy", "unheard"]) == 1
    assert "piqictl: no 'unheard' in" in capsys.readouterr().err


def test_plot(table: ParetoTable, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    save_table(table, tmp_path / "table.json")
    command = ["policy", "simulate", str(trace), "--bundle", str(tmp_path / "table.json"), "--plot"]
    assert main([*command, str(tmp_path / "plot.svg")]) == 0
    assert "accuracy (%)" in (tmp_path / "plot.svg").read_text() or (tmp_path / "plot.svg").stat().st_size > 5000
    assert main([*command, str(tmp_path / "plot.unheard")]) == 1
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*command, str(tmp_path / "plot.svg")]) == 1


def test_explain_command(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["policy", "explain", "--bundle", str(bundle), "--battery", "10", "--mains", "no"]
    assert main([*command, "--min-accuracy", "90"]) == 0
    text = capsys.readouterr().out
    assert "* battery low -> saver: battery 10 % is below 25, not on mains" in text
    assert "DEGRADED: no point keeps min_accuracy 90" in text
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["choice"]["name"] == "saver" and values["chosen"]["index"] == 0
    assert main([*command, "--mode", "quick"]) == 1
    assert "mode: expected one of balanced" in capsys.readouterr().err
    assert main([*command, "--current", "7"]) == 1
    assert "--current: expected 0 to 0, got 7" in capsys.readouterr().err
    assert main([*command, "--max-power-mw", "-1"]) == 1
    assert "max_power_mw: expected more than 0 mW, got -1.0" in capsys.readouterr().err
