"""A small bundle, and meters with patience."""

from pathlib import Path

import pytest
from daemon_helpers import PATIENCE_S

from piqi_runtime.bundle import BundleInput, BundleOutput, write_bundle
from piqi_runtime.meter import background
from piqi_runtime.model import Model, Operator, Tensor
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of one layer, on LITTLE, with a report: nothing of it needs the planner."""
    return write_small_bundle(tmp_path)


def write_small_bundle(folder: Path) -> Path:
    """The bundle `net` in a folder."""
    tensors = {name: Tensor(name, (1, 2, 2, 1)) for name in ("x", "y")}
    point = OperatingPoint(order="L", freqs="5", latency_ms=10.0, power_mw=5000.0, energy_mj=50.0, accuracy=70.0)
    write_bundle(
        folder / "net",
        model=Model("net", tensors, (Operator("clamp", "relu", ("x",), ("y",), {"clamp_min": 0.0}),), ("x",), ("y",)),
        table=ParetoTable(
            board="rk3399pro",
            model="net",
            layers=TableLayers(count=1, letters="LBGN"),
            accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
            points=(point,),
        ),
        partitions=(),
        input=BundleInput(name="x", shape=(1, 2, 2, 1), colour="grey"),
        outputs=[BundleOutput(name="y", shape=(1, 2, 2, 1))],
        extra_files={"report/report.json": b"{}"},
    )
    return folder / "net"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meters that wait as long as a busy machine may stand still."""
    for name in ("START_S", "SILENT_S", "SETTLE_TIMEOUT_S"):
        monkeypatch.setattr(background, name, PATIENCE_S)
