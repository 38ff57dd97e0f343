"""What a host is made of: corrections, quarantine, blame, supervision."""

import threading
import time

import numpy as np
import pytest
from daemon_helpers import PATIENCE_S, wait_for

import piqi_native
from piqi_runtime.boards import load_board
from piqi_runtime.host.corrections import Corrections
from piqi_runtime.host.preparer import HungError, supervised
from piqi_runtime.host.quarantine import Probe, Quarantine
from piqi_runtime.host.residents import blame


def test_corrections_converge_and_are_forgotten() -> None:
    corrections = Corrections(["NNNN", "NNBB", "BBBB"], [10.0, 20.0, 40.0], half_life_s=100)
    now_s = time.monotonic()
    rng = np.random.default_rng(0)
    for _ in range(100):
        corrections.observe(0, 30.0 * rng.lognormal(0, 0.05), now_s)
        corrections.observe(2, 40.0, now_s)
    factor = corrections.factor(now_s)
    assert factor[0] == pytest.approx(3, rel=0.1) and factor[2] == pytest.approx(1, abs=0.01)
    assert 1.4 < factor[1] < 2.2
    corrections.observe(2, 4000.0, now_s)  # one disturbed frame
    assert corrections.factor(now_s)[2] < 1.15
    assert corrections.factor(now_s + 100)[0] == pytest.approx(factor[0] ** 0.5, rel=0.05)
    assert corrections.factor(now_s + 2000)[0] == pytest.approx(1, abs=0.01)


def test_what_one_point_measures_is_said_of_its_processors() -> None:
    corrections = Corrections(["NNNN", "NNNN", "NNBB"], [7.6, 7.0, 9.0])
    for _ in range(200):
        corrections.observe(0, 0.15, 0.0)
    factor = corrections.factor(0.0)
    assert factor[0] == pytest.approx(0.15 / 7.6, rel=0.01)
    assert factor[1] == factor[0] < factor[2] < 1  # else the point that was measured would be preferred for that
    for _ in range(200):  # two points of one processor tell what is their own
        corrections.observe(0, 0.3, 0.0)
        corrections.observe(1, 0.15, 0.0)
    factor = corrections.factor(0.0)
    assert factor[0] == pytest.approx(0.3 / 7.6, rel=0.1) and factor[1] == pytest.approx(0.15 / 7.0, rel=0.1)


def test_quarantine_pauses_grow_and_are_remembered() -> None:
    uses = np.array([[True, False], [True, True], [False, True]])
    quarantine = Quarantine(uses, "BN", first_pause_s=1, longest_pause_s=8)
    quarantine.add(1, "N", 0.0)
    assert quarantine.excluded().tolist() == [False, True, True] and quarantine.processors == "N"
    assert quarantine.due(0.5) is None
    assert quarantine.due(1.0) == Probe("N", 1)  # the processor first, with the point that failed
    quarantine.failed(Probe("N", 1), 1.0)
    assert quarantine.due(2.9) is None
    probe = quarantine.due(3.0)
    assert probe == Probe("N", 2)  # then with another
    quarantine.passed(probe)
    assert quarantine.excluded().tolist() == [False, True, False]  # the point failed by itself
    assert quarantine.due(10.0) == Probe(1, 1)
    quarantine.passed(Probe(1, 1))
    assert not quarantine.excluded().any() and quarantine.next_due_s() is None
    quarantine.add(2, "N", 100.0)  # again: it had waited 2 s before
    assert quarantine.due(103.9) is None or quarantine.due(103.9).what == 2  # type: ignore[union-attr]
    quarantine.healthy(2)


def test_who_is_blamed() -> None:
    board = load_board("rk3399pro")
    failed, hung = piqi_native.BackendError, piqi_native.TimeoutError
    assert blame(failed("layers 1 to 2: bus error"), "BGG", board) == "G"
    assert (
        blame(hung("no result within 5 ms: layers 0 to 0 on B, layers 2 to 2 on N did not finish"), "BGN", board)
        == "BN"
    )
    assert blame(failed("status 3"), "BBG", board) == "G"  # it does not tell: CPUs are trusted more
    assert blame(failed("status 3"), "BBB", board) == "B"
    assert blame(piqi_native.DeviceError("L: /sys/x: write"), "LLG", board) == "L"


def test_what_hangs_is_discarded_when_it_comes() -> None:
    go, late = threading.Event(), []
    with pytest.raises(HungError):
        supervised(go.wait, 0.05, late.append)
    go.set()
    assert wait_for(lambda: late == [True])
    with pytest.raises(ZeroDivisionError):
        supervised(lambda: 1 // 0, PATIENCE_S, late.append)
    assert supervised(lambda: 3, PATIENCE_S, late.append) == 3
