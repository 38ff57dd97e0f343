"""Policies: files that are wrong are refused, rules choose modes with hysteresis and dwell."""

from pathlib import Path

import pytest

from piqi_runtime.policy import Constraints, ModeSelector, Policy, PolicyError, Situation, load_policy
from piqi_runtime.policy.config import POLICIES
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, TableLayers

GOOD = """
name = "mine"
default = "normal"
dwell_s = 10

[modes.normal]
[modes.saver]
objective = "power"
relax = ["min_accuracy"]
[modes.cool]
[modes.rest]
dwell_s = 0

[[rules]]
name = "hot"
mode = "cool"
when = { temperature_above = 80 }
urgent = true

[[rules]]
name = "idle"
mode = "rest"
when = { idle_above = 60 }

[[rules]]
name = "low"
mode = "saver"
when = { battery_below = 20, on_mains = false }
"""


def policy(folder: Path, text: str = GOOD) -> Policy:
    path = folder / "mine.toml"
    path.write_text(text)
    return load_policy(path)


@pytest.mark.parametrize("name", [path.stem for path in POLICIES.glob("*.toml")])
def test_shipped(name: str) -> None:
    loaded = load_policy(name)
    assert loaded.name == name and loaded.description
    assert ModeSelector(loaded).select(Situation(0.0)).name == loaded.default
    used = {loaded.default, *(rule.mode for rule in loaded.rules)}
    assert used <= loaded.modes.keys()


def test_three_are_shipped() -> None:
    assert {path.stem for path in POLICIES.glob("*.toml")} >= {"default", "battery", "quality"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('default = "normal"', 'default = "quick"', "default: expected one of normal, saver, cool, rest, got 'quick'"),
        ('mode = "saver"', 'mode = "sever"', r"rules\[2\].mode: expected one of normal, .*, got 'sever'"),
        ('name = "low"', 'name = "hot"', r"rules\[2\].name: two rules have it, got 'hot'"),
        ("battery_below = 20", "battery_below = 120", r"rules\[2\].when.battery_below: .* got 120"),
        ("battery_below = 20", 'battery_below = "20"', r"rules\[2\].when.battery_below: .* got '20'"),
        ("battery_below = 20", "battery_over = 20", r"rules\[2\].when.battery_over: is not a key"),
        ("on_mains = false", "on_mains = 0", r"rules\[2\].when.on_mains: .* got 0"),
        ("{ temperature_above = 80 }", "{}", r"rules\[0\].when: expected at least one of battery_below, "),
        ("temperature_above = 80", "temperature_above = nan", r"rules\[0\].when.temperature_above: .* got nan"),
        ('"power"', '"speed"', r"modes.saver.objective: .* got 'speed'"),
        ('"min_accuracy"]', '"min_accuracy", "min_accuracy"]', "modes.saver.relax: a limit is named twice"),
        ("dwell_s = 10", "dwell_s = -1", "dwell_s: .* got -1"),
        ("dwell_s = 10", "dwell = 1", "dwell: is not a key"),
        ("[modes.cool]", "[modes.Cool]", "modes.Cool"),
        ("[[rules]]", "[[rules", "mine.toml: "),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError, match=message) as caught:
        policy(tmp_path, GOOD.replace(old, new, 1))
    assert str(tmp_path / "mine.toml") in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.toml: No such file"):
        load_policy(tmp_path / "nowhere.toml")
    with pytest.raises(PolicyError, match=r"no 'unheard' in .*: expected a path or one of battery, default"):
        load_policy("unheard")


def test_relax_is_completed(tmp_path: Path) -> None:
    relax = policy(tmp_path).modes["saver"].relax
    assert relax == ("min_accuracy", "max_energy_mj", "max_latency_ms", "max_power_mw")


def test_relative_limits_follow_the_table() -> None:
    point = OperatingPoint(order="L", freqs="0", latency_ms=20.0, power_mw=1000.0, energy_mj=20.0, accuracy=70.0)
    table = ParetoTable(
        board="b",
        model="m",
        layers=TableLayers(count=1, letters="L"),
        accuracy_metric=AccuracyMetric(name="top-1", float32=71.0, int8=60.0),
        points=(point,),
    )
    modes = Policy.model_validate(
        {
            "name": "p",
            "default": "a",
            "modes": {
                "a": {"max_accuracy_drop": 2.0, "max_slowdown": 3.0},
                "b": {"max_accuracy_drop": 2.0, "min_accuracy": 70.0, "max_slowdown": 3.0, "max_latency_ms": 50.0},
                "c": {"max_accuracy_drop": 90.0},
            },
        }
    ).modes
    assert modes["a"].constraints(table) == Constraints(min_accuracy=69.0, max_latency_ms=60.0)
    assert modes["b"].constraints(table) == Constraints(min_accuracy=70.0, max_latency_ms=50.0)
    assert modes["c"].constraints(table) == Constraints(min_accuracy=0.0)


def test_merged_is_the_stricter() -> None:
    one, other = Constraints(60.0, 5000.0), Constraints(65.0, 6000.0, 20.0)
    assert one.merged(other) == other.merged(one) == Constraints(65.0, 5000.0, 20.0)


@pytest.mark.parametrize("limits", [{"min_accuracy": 101.0}, {"max_power_mw": 0.0}, {"max_latency_ms": float("nan")}])
def test_impossible_limits_are_named(limits: dict[str, float]) -> None:
    ((name, value),) = limits.items()
    with pytest.raises(PolicyError, match=f"{name}: expected .*, got {value!r}"):
        Constraints(**limits)


def names(selector: ModeSelector, *situations: Situation) -> list[str]:
    return [selector.select(situation).name for situation in situations]


def test_first_rule_that_holds_wins(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path))
    choice = selector.select(Situation(0.0, 10.0, False, 90.0, None, 100.0))
    assert (choice.name, choice.rule, choice.changed) == ("cool", "hot", True)
    assert choice.reason == "rule 'hot': temperature 90 °C is above 80"
    assert names(ModeSelector(policy(tmp_path)), Situation(0.0, 10.0, True)) == ["normal"]  # all conditions must hold
    assert names(ModeSelector(policy(tmp_path)), Situation(0.0, 20.0, False)) == ["normal"]  # not below


def test_hysteresis(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path, GOOD.replace("dwell_s = 10", "dwell_s = 0", 1)))
    levels = [25.0, 19.0, 20.0, 22.9, 23.0, 22.0, 20.0, 19.9]
    situations = [Situation(float(i), level, False) for i, level in enumerate(levels)]
    expected = ["normal", "saver", "saver", "saver", "normal", "normal", "normal", "saver"]
    assert names(selector, *situations) == expected


def test_dwell_and_urgency(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path))
    low, fine = {"battery_percent": 10.0, "on_mains": False}, {"battery_percent": 90.0, "on_mains": False}
    assert names(selector, Situation(0.0, **fine)) == ["normal"]
    waiting = selector.select(Situation(9.0, **low))
    assert (waiting.name, waiting.waiting, waiting.changed) == ("normal", "saver", False)
    assert names(selector, Situation(10.0, **low)) == ["saver"]
    assert names(selector, Situation(11.0, temperature_c=90.0, **low)) == ["cool"]  # urgent
    assert names(selector, Situation(12.0, temperature_c=70.0, **low)) == ["cool"]  # but it stays its time
    assert names(selector, Situation(21.0, temperature_c=70.0, **low)) == ["saver"]
    assert names(selector, Situation(40.0, idle_s=100.0, **fine)) == ["rest"]
    assert names(selector, Situation(40.5, **fine)) == ["normal"]  # its own dwell is 0


def test_a_dwell_that_is_not_needed_any_more_is_forgotten(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path))
    situations = [Situation(t, level, False) for t, level in ((0.0, 90.0), (5.0, 10.0), (9.0, 90.0), (30.0, 90.0))]
    assert names(selector, *situations) == ["normal"] * 4


def test_silent_sensor_holds_what_was_for_a_while(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path, GOOD.replace("dwell_s = 10", "dwell_s = 0\nhold_s = 20", 1)))
    assert names(selector, Situation(0.0, temperature_c=90.0)) == ["cool"]
    assert names(selector, Situation(20.0), Situation(20.1)) == ["cool", "normal"]
    assert names(selector, Situation(30.0, 10.0, False), Situation(31.0, None, False)) == ["saver", "saver"]


def test_clock_that_goes_back_stands_still(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path))
    low = {"battery_percent": 10.0, "on_mains": False}
    assert names(selector, Situation(1000.0), Situation(0.0, **low), Situation(1009.0, **low)) == ["normal"] * 3
    assert names(selector, Situation(1010.0, **low)) == ["saver"]


def test_override(tmp_path: Path) -> None:
    selector = ModeSelector(policy(tmp_path))
    hot = {"temperature_c": 90.0}
    assert names(selector, Situation(0.0)) == ["normal"]
    selector.override("saver", until_s=20.0)
    assert selector.overridden == ("saver", 20.0)
    choice = selector.select(Situation(1.0, **hot))
    assert (choice.name, choice.rule, choice.changed, choice.reason) == (
        "saver",
        None,
        True,
        "set by hand for 19 s more",
    )
    assert names(selector, Situation(19.9, **hot), Situation(20.0)) == ["saver", "cool"]  # its sensor is silent
    assert selector.overridden is None
    selector.override("rest")
    assert selector.overridden == ("rest", None)
    assert names(selector, Situation(1e6)) == ["rest"]
    selector.override("saver")
    assert names(selector, Situation(1e6 + 1)) == ["saver"]
    selector.override(None)
    assert names(selector, Situation(1e6 + 2)) == ["normal"]  # no dwell behind what was set by hand
    with pytest.raises(PolicyError, match=r"policy mine: mode: expected one of normal, .*, got 'quick'"):
        selector.override("quick")


def test_deterministic(tmp_path: Path) -> None:
    situations = [
        Situation(float(i), float(i * 37 % 100), bool(i % 3), float(i * 53 % 100), 0.0, i % 70) for i in range(500)
    ]
    one, other = (ModeSelector(policy(tmp_path)) for _ in range(2))
    choices = [one.select(situation) for situation in situations]
    assert choices == [other.select(situation) for situation in situations]
    assert len({choice.name for choice in choices}) > 2
