"""A backend that a library watches (piqi/observer.h)."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import piqi_native as pn

# Writes what it sees into a file; the layer that the variable OBSERVER_FAILS names fails.
OBSERVER = """
#include <piqi/observer.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
static int note(const char *when, const struct PiqiMoment *m) {
  FILE *file = fopen(getenv("OBSERVER_LOG"), "a");
  fprintf(file, "%s %d %c %zu %zu %s %zu\\n", when, m->activity, m->processor, m->first_layer, m->last_layer,
          m->network, m->layer_count);
  fclose(file);
  const char *fails = getenv("OBSERVER_FAILS");
  return fails && m->activity == PIQI_STEP && (size_t)atoi(fails) == m->first_layer ? EIO : 0;
}
int piqi_observe_begin(const struct PiqiMoment *m) { return note("begin", m); }
int piqi_observe_end(const struct PiqiMoment *m) { return note("end", m); }
"""


@pytest.fixture
def library(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    source, made = tmp_path / "observer.c", tmp_path / "libobserver.so"
    source.write_text(OBSERVER)
    include = project_root / "native/include"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(made)], check=True)
    monkeypatch.setenv("OBSERVER_LOG", str(tmp_path / "log"))
    return made


def manager(networks: SimpleNamespace, model: object, library: Path, letters: str = "Lb") -> pn.GraphManager:
    board = networks.board(letters, "watched")
    watched = pn.observed_backend(pn.xnnpack_backend(), str(library), letters.upper())
    return pn.GraphManager(model.to_graph(), board, {"watched": watched})


def test_it_sees_what_runs_and_changes_nothing(networks: SimpleNamespace, library: Path, tmp_path: Path) -> None:
    model = networks.Network()
    x = model.input("x", 1, 8, 8, 3)
    for layer in range(3):
        x = model.conv(f"c{layer}", x, 4, layer)
    model = model.model(x)
    watched = manager(networks, model, library)
    board = networks.board("Lb", "watched")
    frame = networks.frame(model)
    plain = pn.GraphExecutor(watched, pn.Plan(board, 3, "LLL")).run(frame)
    assert not (tmp_path / "log").exists()
    assert networks.same(pn.GraphExecutor(watched, pn.Plan(board, 3, "Lbb")).run(frame), plain)
    events = [tuple(line.split()) for line in (tmp_path / "log").read_text().splitlines()]
    bind, step, finish = "0", "1", "2"
    expected = [(bind, "B", "1", "2"), (step, "B", "1", "1"), (step, "B", "2", "2"), (finish, "B", "1", "2")]
    assert events == [(when, *moment, "network", "3") for moment in expected for when in ("begin", "end")]


def test_processors_are_told_apart_though_they_share_a_backend(
    networks: SimpleNamespace, library: Path, tmp_path: Path
) -> None:
    model = networks.chain("logistic", 2, 1, 4)
    watched = manager(networks, model, library, "ab")
    board = networks.board("ab", "watched")
    for order in ("aa", "bb", "aa"):
        executor = pn.GraphExecutor(watched, pn.Plan(board, 2, order))
        executor.run(networks.frame(model))
        executor.close()
    letters = [line.split()[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert letters == ["A"] * 8 + ["B"] * 8 + ["A"] * 8


def test_an_observer_that_fails_fails_the_frame(
    networks: SimpleNamespace, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = networks.chain("logistic", 2, 1, 4)
    watched = manager(networks, model, library)
    executor = pn.GraphExecutor(watched, pn.Plan(networks.board("Lb", "watched"), 2, "bb"))
    monkeypatch.setenv("OBSERVER_FAILS", "1")
    with pytest.raises(pn.BackendError, match=r"layers 1 to 1 on B: observer .*libobserver.so: begin: Input/output"):
        executor.run(networks.frame(model))
    monkeypatch.delenv("OBSERVER_FAILS")
    executor.run(networks.frame(model))


def test_libraries_that_are_none(networks: SimpleNamespace, library: Path, tmp_path: Path) -> None:
    with pytest.raises(pn.BackendError, match=r"observer: .*missing\.so: cannot open"):
        pn.observed_backend(pn.xnnpack_backend(), str(tmp_path / "missing.so"), "L")
    with pytest.raises(pn.BackendError, match=r"observer: libm\.so\.6: has no 'piqi_observe_begin'"):
        pn.observed_backend(pn.xnnpack_backend(), "libm.so.6", "L")
    model = networks.chain("logistic", 1, 1, 4)
    board = networks.board("Lb", "watched")
    short = pn.GraphManager(
        model.to_graph(), board, {"watched": pn.observed_backend(pn.xnnpack_backend(), str(library), "L")}
    )
    with pytest.raises(pn.BackendError, match="processors 'L' are fewer than the board's"):
        pn.GraphExecutor(short, pn.Plan(board, 1, "b"))
