"""The choice of a point: against plain Python on random tables, relaxation, hysteresis, arrays that do not fit."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piqi_runtime.policy import Constraints, Decision, Mode, PointChooser, Policy, PolicyError, Situation
from piqi_runtime.policy.constraints import RELAX_ORDER
from piqi_runtime.policy.explain import explain
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

Figures = tuple[float, float, float]
#: latency_ms, power_mw, accuracy
POINTS: list[Figures] = [
    (10.0, 6000.0, 60.0),
    (20.0, 5000.0, 66.0),
    (40.0, 5500.0, 70.0),
    (50.0, 4000.0, 64.0),
    (90.0, 3500.0, 70.0),
]  # 60, 100, 220, 200, 315 mJ


def table(points: list[Figures]) -> ParetoTable:
    """Without the table's own checks: dominated points and equals are chosen among as well."""
    made = [
        OperatingPoint(
            order="L",
            freqs=str(i),
            latency_ms=latency,
            power_mw=power,
            energy_mj=latency * power / 1e3,
            accuracy=accuracy,
        )
        for i, (latency, power, accuracy) in enumerate(points)
    ]
    return ParetoTable.model_construct(
        board="board",
        model="small",
        layers=TableLayers(count=1, letters="L"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=70.0, int8=60.0),
        points=tuple(made),
    )


def choose(constraints: Constraints, objective: Any = "energy", **more: Any) -> Decision:
    return PointChooser(table(POINTS)).choose(constraints, objective, **more)


def by_hand(points: list[Figures], limits: Constraints, objective: str, relax: Any, out: list[bool]) -> Any:
    """(point, degraded) as docs/policy.md states it."""
    names = {"max_latency_ms": 0, "max_power_mw": 1, "min_accuracy": 2, "max_energy_mj": 3}
    costs = [(lat, power, accuracy, lat * power / 1e3) for lat, power, accuracy in points]
    left = [i for i in range(len(points)) if not out[i]]
    if not left:
        return None, ()
    degraded = []
    for name in reversed(relax):
        if name in limits.given():
            sign = -1 if name == "min_accuracy" else 1
            value = {i: sign * costs[i][names[name]] for i in left}
            limit = sign * limits.given()[name]
            if min(value.values()) > limit:
                degraded.append(name)
                limit = min(value.values())
            left = [i for i in left if value[i] <= limit]
    key = {"latency": 0, "power": 1, "accuracy": 2, "energy": 3}[objective]
    sign = -1 if objective == "accuracy" else 1
    return min(left, key=lambda i: (sign * costs[i][key], costs[i][3], i)), tuple(degraded)


figures = st.tuples(
    st.integers(1, 12).map(lambda value: 5.0 * value),
    st.integers(1, 8).map(lambda value: 1000.0 * value),
    st.integers(50, 60).map(float),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), points=st.lists(figures, min_size=1, max_size=12))
def test_as_by_hand(data: Any, points: list[Figures]) -> None:
    limits = Constraints(
        min_accuracy=data.draw(st.none() | st.integers(45, 65).map(float)),
        max_power_mw=data.draw(st.none() | st.integers(500, 9000).map(float)),
        max_latency_ms=data.draw(st.none() | st.integers(1, 70).map(float)),
        max_energy_mj=data.draw(st.none() | st.integers(1, 500).map(float)),
    )
    objective = data.draw(st.sampled_from(["latency", "power", "energy", "accuracy"]))
    relax = tuple(data.draw(st.permutations(RELAX_ORDER)))
    out = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    made = PointChooser(table(points)).choose(limits, objective, relax=relax, excluded=np.array(out))
    assert (made.point, made.degraded) == by_hand(points, limits, objective, relax, out)


@pytest.mark.parametrize(("objective", "point"), [("latency", 0), ("power", 4), ("energy", 0), ("accuracy", 2)])
def test_objectives(objective: str, point: int) -> None:
    assert choose(Constraints(), objective).point == point


def test_limits_include_their_own_value() -> None:
    decision = choose(Constraints(min_accuracy=66.0, max_power_mw=5000.0, max_latency_ms=20.0, max_energy_mj=100.0))
    assert (decision.point, decision.degraded) == (1, ())
    assert decision.counts == {
        "points": 5,
        "unavailable": 0,
        "min_accuracy": 2,
        "max_power_mw": 2,
        "max_latency_ms": 3,
        "max_energy_mj": 3,
        "allowed": 1,
    }


def test_what_gives_way() -> None:
    """Accuracy is kept, so power gives way to what the accurate points reach; latency then has no choice."""
    limits = Constraints(min_accuracy=70.0, max_power_mw=3000.0, max_latency_ms=45.0)
    decision = choose(limits)
    assert (decision.point, decision.degraded) == (4, ("max_power_mw", "max_latency_ms"))
    assert decision.relaxed == Constraints(70.0, 3500.0, 90.0)
    decision = choose(limits, relax=("max_power_mw", "max_latency_ms", "min_accuracy"))
    assert (decision.point, decision.degraded) == (2, ("max_power_mw",))
    decision = choose(limits, relax=("min_accuracy", "max_latency_ms", "max_power_mw"))
    assert (decision.point, decision.degraded) == (4, ("max_power_mw", "max_latency_ms"))
    decision = choose(Constraints(min_accuracy=80.0))
    assert (decision.point, decision.degraded, decision.relaxed) == (2, ("min_accuracy",), Constraints(70.0))


def test_slack_of_what_gave_way() -> None:
    """Two points near the nearest: the current one stays, though fluctuation made the other the nearest."""
    chooser = PointChooser(table([(10.0, 5000.0, 60.0), (10.2, 4800.0, 60.0)]))
    limits = Constraints(max_latency_ms=5.0)
    assert chooser.choose(limits, "energy", hysteresis=0.05).point == 1
    assert chooser.choose(limits, "energy", hysteresis=0.01).point == 0
    assert chooser.choose(limits, "energy", hysteresis=0.05, current=0).point == 0  # 2 % better is not enough


def test_corrections() -> None:
    assert choose(Constraints(max_latency_ms=20.0), "accuracy").point == 1
    throttled = np.array([1, 1.01, 1, 1, 1], dtype=np.float32)
    assert choose(Constraints(max_latency_ms=20.0), "accuracy", latency_factor=throttled).point == 0
    cheaper = np.array([1, 1, 1, 0.2, 1], dtype=np.float32)
    assert choose(Constraints(), "power", power_factor=cheaper).point == 3
    assert choose(Constraints(), "energy", power_factor=cheaper, latency_factor=throttled).point == 3  # 40 mJ
    costs = PointChooser(table(POINTS)).costs(throttled, cheaper)
    np.testing.assert_allclose(costs.energy_mj, costs.latency_ms * costs.power_mw / 1e3)
    np.testing.assert_allclose(costs.latency_ms[:2], [10.0, 20.2], rtol=1e-6)


def test_hysteresis() -> None:
    """60 mJ against 100 mJ: 40 % better."""
    assert choose(Constraints(), current=1, hysteresis=0.39).point == 0
    decision = choose(Constraints(), current=1, hysteresis=0.41)
    assert (decision.point, decision.kept) == (1, True)
    assert choose(Constraints(max_latency_ms=10.0), current=1, hysteresis=0.41).point == 0  # it breaks a limit
    assert choose(Constraints(), current=1, hysteresis=0.41, excluded=np.arange(5) == 1).point == 0
    assert choose(Constraints(), "accuracy", current=1, hysteresis=0.05).point == 2
    assert not choose(Constraints(), current=0, hysteresis=0.4).kept
    assert choose(Constraints(), current=99).point == 0  # of another table


def test_nothing_available() -> None:
    decision = choose(Constraints(max_latency_ms=1.0), excluded=np.ones(5, dtype=bool))
    assert (decision.point, decision.degraded) == (None, ())
    assert decision.counts == {"points": 5, "unavailable": 5, "allowed": 0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"latency_factor": np.ones(4)}, r"latency_factor: expected \[5\], got \[4\]"),
        ({"power_factor": np.array([1, 1, np.nan, 1, 1])}, "power_factor: expected more than 0, got nan"),
        ({"latency_factor": np.array([1, 1, 0.0, 1, 1])}, "latency_factor: expected more than 0, got 0.0"),
        ({"excluded": np.zeros(4, dtype=bool)}, r"excluded: expected bool \[5\], got bool \[4\]"),
        ({"excluded": np.zeros(5)}, r"excluded: expected bool \[5\], got float64 \[5\]"),
    ],
)
def test_arrays_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        choose(Constraints(), **keys)


def test_explanation() -> None:
    policy = Policy(name="mine", default="normal", modes={"normal": Mode(max_slowdown=3.0)})
    made = explain(
        table(POINTS), policy, Situation(0.0, 50.0), limits=Constraints(min_accuracy=65.0, max_power_mw=5200.0)
    )
    assert made.decision.point == 1 and made.limits == Constraints(65.0, 5200.0, 30.0)
    assert made.excludes == {"min_accuracy": (2, 0), "max_power_mw": (2, 0), "max_latency_ms": (3, 1)}
    assert [(point.index, point.excluded_by) for point in made.better] == [(0, ("min_accuracy", "max_power_mw"))]
    text = made.to_text()
    assert "max_latency_ms excludes 3, 1 of them alone" in text and "point 1: the best" in text
    values = json.loads(json.dumps(made.to_dict()))
    assert values["chosen"]["index"] == 1 and values["mode"]["objective"] == "energy"


def test_explanation_of_a_degraded_choice() -> None:
    policy = Policy(name="mine", default="normal", modes={"normal": Mode(min_accuracy=90.0)}, hysteresis=0.0)
    made = explain(table(POINTS), policy, Situation(0.0), excluded=np.arange(5) == 2)
    assert made.decision.point == 4 and made.decision.degraded == ("min_accuracy",)
    assert "DEGRADED: no point keeps min_accuracy 90 besides what weighs more; it is now 70" in made.to_text()
    assert made.better[0].index == 0 and made.excludes["unavailable"] == (1, 0)
    made = explain(table(POINTS), policy, Situation(0.0), excluded=np.ones(5, dtype=bool))
    assert made.chosen is None and "no point is available" in made.to_text()
