"""Reports and traces, from times that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from piqi_runtime.report import format_table, make_report


def executor(rows: list[list[list[int]]], frames: list[list[int]]) -> SimpleNamespace:
    """Two sub-graphs, L (layers 0, 1) and N (2 to 4, one step), a tensor between them."""
    return SimpleNamespace(
        times=lambda: {
            "sub_graphs": [np.array(r, np.int64) for r in rows],
            "frames": np.array(frames, np.int64).reshape(-1, 2),
        },
        sub_graphs=[
            SimpleNamespace(first_layer=0, last_layer=1, steps=[(0, 0), (1, 1)]),
            SimpleNamespace(first_layer=2, last_layer=4, steps=[(2, 4)]),
        ],
        receivers=[[("x", 400)], [("cut", 100)]],
        senders=[[("cut", 100)], [("y", 40)]],
    )


PLAN = SimpleNamespace(order="LLNNN", freqs="5 4 7 7 7")
#: us -> ns: one frame of 100 us.
FIRST = [[10, 12, 12, 12, 12, 13, 14, 34, 18, 35, 35, 45, 9, 46], [46, 50, 53, 53, 54, 56, 56, 96, 0, 99]]


def in_ns(row: list[int], shift_us: int = 0) -> list[int]:
    return [1000 * (value + shift_us) for value in row]


def test_times_are_attributed() -> None:
    report = make_report(executor([[in_ns(FIRST[0])], [in_ns(FIRST[1])]], [in_ns([0, 100])]), PLAN, ["L", "N"])
    assert report.latency_us.median == 100
    assert report.throughput_fps == 10_000
    assert [(s.layer, s.last_layer, s.processor, s.freqs, s.time_us.median) for s in report.layers] == [
        (0, 0, "L", "5", 20),
        (1, 1, "L", "4", 10),
        (2, 4, "N", "7", 40),
    ]
    assert [(e.processor, e.load_us.median, e.unload_us.median) for e in report.ends] == [("L", 1, 1), ("N", 2, 3)]
    assert [s.kernel_us and s.kernel_us.median for s in report.layers] == [18, 9, None]
    assert [c.time_us.median for c in report.frequency_changes] == [1, 0, 1]
    entry, cut = report.transfers
    assert (entry.source, entry.destination, entry.handoff_us.median) == ("", "L", 2)
    assert (cut.source, cut.destination, cut.into_layer, cut.size_bytes) == ("L", "N", 2, 100)
    assert (cut.handoff_us.median, cut.convert_us.median) == (4, 3)
    assert report.to_dict()["layers"][2]["time_us"]["p99"] == 40


def test_frames_of_a_failed_run_are_left_out() -> None:
    rows = [[in_ns(FIRST[0]), in_ns(FIRST[0], 200)], [in_ns(FIRST[1], 200)]]
    report = make_report(executor(rows, [in_ns([200, 320])]), PLAN, ["L", "N"])
    assert report.frames == 1
    assert report.latency_us.max == 120


def test_a_receiver_that_was_busy_is_not_charged_for_waiting() -> None:
    # The second frame's tensor is published at 60 us, when N still works (until 99 us).
    second = [60, 101, 104, 104, 105, 106, 106, 146, 0, 147]
    rows = [[in_ns(FIRST[0]), in_ns(FIRST[0], 14)], [in_ns(FIRST[1]), in_ns(second)]]
    report = make_report(executor(rows, [in_ns([0, 100]), in_ns([5, 150])]), PLAN, ["L", "N"])
    assert report.transfers[1].handoff_us.max == 4
    assert report.transfers[1].handoff_us.min == 2


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="no frame"):
        make_report(executor([np.empty((0, 14)), np.empty((0, 10))], []), PLAN, ["L", "N"])


def test_trace_has_spans_and_arrows() -> None:
    report = make_report(executor([[in_ns(FIRST[0])], [in_ns(FIRST[1])]], [in_ns([0, 100])]), PLAN, ["L", "N"])
    events = report.to_trace("test", "LBN")["traceEvents"]
    spans = {e["name"]: (e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert spans["L 0-1"] == (4, 31)
    assert spans["layer 2-4"] == (46, 40)
    assert spans["convert cut"] == (40, 3)
    arrow = {e["ph"]: e for e in events if e["name"] == "cut"}
    assert arrow["s"]["tid"] == 1 and arrow["f"]["tid"] == 3
    assert (arrow["s"]["ts"], arrow["f"]["ts"]) == (36, 40)


def test_table() -> None:
    assert format_table([("a", "bb"), ("long", "1")]) == "a     bb\n----  --\nlong   1"
