"""Changes of frequency that do not pay: planner and executor skip the same ones, on the same example and alone."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import piqi_native as pn
from piqi_planner.accuracy import AccuracyModel
from piqi_planner.cost import make_cost
from piqi_planner.cost.changes import really_run
from piqi_planner.profile import (
    ConfigurationError,
    ModelProfile,
    State,
    format_configuration,
    load_profile,
    parse_configurations,
    published_constants,
)
from piqi_planner.profile.model import ProfiledProcessor
from piqi_planner.search import search
from piqi_planner.search.settle import settle
from piqi_runtime.boards import load_board
from piqi_runtime.dvfs_delays import with_delays
from piqi_runtime.profile_tables import ProfileError

OPPS = 3
KHZ = [400_000, 800_000, 1_200_000]
DELAY_MS = 8.0
LONG_MS, SHORT_MS = 16.0, 1.0
#: On a CPU that has one frequency. A backend in Python runs neighbours on one processor as one step.
BETWEEN = ("X", "0", 0.0, "0")
#: A layer each: processor, frequencies asked for, how long it takes, frequencies it is really run at.
EXAMPLE = [
    ("L", "0", LONG_MS, "0"),
    BETWEEN,
    ("L", "2", SHORT_MS, "0"),  # two short layers: the change would take effect behind them
    BETWEEN,
    ("L", "2", SHORT_MS, "0"),
    BETWEEN,
    ("L", "1", LONG_MS, "1"),
    ("B", "1", SHORT_MS, "1"),  # short, but B stays there for a long one
    BETWEEN,
    ("B", "1", LONG_MS, "1"),
    ("G", "0-0", SHORT_MS, "1-0"),  # the GPU is asked for another index at once, its host for the rest of the frame
    BETWEEN,
    ("G", "1-0", SHORT_MS, "1-0"),  # and on: until the next frame's
    ("L", "0", LONG_MS, "0"),
]
ORDER = "".join(letter for letter, _, _, _ in EXAMPLE)
FREQS, RUN = (" ".join(layer[column] for layer in EXAMPLE) for column in (1, 3))


def delays(delay_ms: float) -> np.ndarray:
    return delay_ms * (1 - np.eye(OPPS))


def make_profile(times_ms: list[float], delay_ms: float = DELAY_MS) -> ModelProfile:
    """CPUs L, B and X, GPU G and NPU N hosted by B; a layer takes as long wherever it runs."""
    processors = (
        ProfiledProcessor("L", "cpu", OPPS),
        ProfiledProcessor("B", "cpu", OPPS),
        ProfiledProcessor("G", "gpu", OPPS, "B"),
        ProfiledProcessor("N", "npu", OPPS, "B"),
        ProfiledProcessor("X", "cpu", 1),
    )
    states = [State(p, own, -1) for p in (0, 1, 3) for own in range(OPPS)]
    states += [State(2, own, host) for own in range(OPPS) for host in range(OPPS)]
    states.append(State(4, 0, -1))
    count, layers = len(states), len(times_ms)
    run_ms = np.broadcast_to(times_ms, (count, layers)).copy()
    nothing = np.zeros((count, layers))
    return ModelProfile(
        name="example",
        layer_count=layers,
        processors=processors,
        states=tuple(states),
        run_ms=run_ms,
        run_mw=np.full((count, layers), 3000.0),
        load_ms=nothing,
        unload_ms=nothing,
        input_ms=np.zeros(count),
        input_mw=np.full(count, 3000.0),
        output_ms=np.zeros(count),
        move_ms=np.zeros((layers - 1, 5, 5)),
        move_ratio={},
        move_mw={},
        delay_ms={letter: delays(delay_ms) for letter in "LBG"} | {"X": np.zeros((1, 1))},
        idle_power_mw=2000.0,
        constants=published_constants("example", layers),
        holes=(),
    )


def rewritten(profile: ModelProfile, order: str, freqs: str) -> str:
    return format_configuration(profile, really_run(profile, parse_configurations(profile, [order], [freqs]))[0])[1]


class Sleeper:
    """A backend whose layers take as long as `time_ms(layer, frequencies in force)` says; notes these."""

    def __init__(self, time_ms: Callable[[int, list[int | None]], float]) -> None:
        self.time_ms = time_ms
        self.governor: pn.Governor | None = None
        self.seen: list[tuple[int, list[int | None]]] = []

    def prepare(self, sub_graph: pn.SubGraph, inputs: list[str], outputs: list[str]) -> "Sleeper.Layer":
        return Sleeper.Layer(self, sub_graph.first_layer, outputs)

    class Layer:
        def __init__(self, owner: "Sleeper", layer: int, outputs: list[str]) -> None:
            self.owner, self.layer, self.outputs = owner, layer, outputs

        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            governor = self.owner.governor
            assert governor is not None
            in_force = [governor.in_force(domain) for domain in range(3)]
            self.owner.seen.append((self.layer, in_force))
            time.sleep(self.owner.time_ms(self.layer, in_force) / 1000)
            (x,) = inputs.values()
            return {name: np.tanh(x) for name in self.outputs}

        def close(self) -> None:
            pass


#: Of a network that goes on until it is settled: each frame that a busy machine disturbs costs it some.
MOST_FRAMES = 300


def seen_at(
    tmp_path: Path,
    order: str,
    freqs: str,
    sleeper: Sleeper,
    frames: int,
    in_flight: int = 1,
    delay_us: int = 8000,
    settled: Callable[[list[str]], bool] = lambda frames: True,
) -> list[str]:
    """Frequencies, as text, at which each frame's layers ran, in an executor on a tree of files.

    More than `frames`, where these are not `settled` by then.
    """
    for folder in ("policy0", "policy4"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scaling_governor").write_text("schedutil\n")
        (tmp_path / folder / "scaling_setspeed").write_text("<unsupported>\n")
    (tmp_path / "gpu/userspace").mkdir(parents=True)
    (tmp_path / "gpu/governor").write_text("simple_ondemand\n")
    (tmp_path / "gpu/userspace/set_freq").write_text("undefined\n")
    delays_us = [delay_us * (i != j) for i in range(OPPS) for j in range(OPPS)]
    board = pn.Board(
        "example",
        [
            pn.Processor("L", "cpu", "sleep", [0], 1, "", KHZ, "policy0", delays_us),
            pn.Processor("B", "cpu", "sleep", [1], 1, "", KHZ, "policy4", delays_us),
            pn.Processor("G", "gpu", "sleep", [1], 1, "B", KHZ, "gpu", delays_us),
            pn.Processor("X", "cpu", "sleep", [0], 1),
        ],
    )
    graph = pn.Graph("example")
    tensor = graph.add_tensor("x", [4], "float32")
    graph.add_input(tensor)
    for layer in range(len(order)):
        last, tensor = tensor, graph.add_tensor(f"a{layer}", [4], "float32")
        graph.add_operator("tanh", f"a{layer}", [last], [tensor], layer)
    graph.add_output(tensor)
    graph.finish()
    sleeper.governor = pn.sysfs_governor(board, str(tmp_path))
    assert sleeper.governor.warnings == []
    manager = pn.GraphManager(graph, board, {"sleep": sleeper})
    plan = pn.Plan(board, len(order), order, freqs)
    executor = pn.GraphExecutor(manager, plan, frames_in_flight=in_flight, governor=sleeper.governor)
    shown = {"L": "{0}", "B": "{1}", "G": "{2}-{1}", "X": "0"}

    def texts() -> list[str]:
        by_layer: list[list[str]] = [[] for _ in order]
        for layer, in_force in sleeper.seen:
            by_layer[layer].append(shown[order[layer]].format(*in_force))
        return [" ".join(layers) for layers in zip(*by_layer, strict=True)]

    for number in range(frames):
        executor.submit({"x": np.zeros(4, np.float32)})
        if number >= in_flight - 1:
            executor.receive()
    for _ in range(in_flight - 1):
        executor.receive()
    while not settled(texts()) and len(texts()) < MOST_FRAMES:
        executor.run({"x": np.zeros(4, np.float32)})
    executor.close()
    return texts()


def test_planner_and_executor_skip_the_same_changes(tmp_path: Path) -> None:
    times_ms = [time_ms for _, _, time_ms, _ in EXAMPLE]
    assert rewritten(make_profile(times_ms), ORDER, FREQS) == RUN
    sleeper = Sleeper(lambda layer, _: times_ms[layer])
    frames = seen_at(tmp_path, ORDER, FREQS, sleeper, 14, settled=lambda frames: frames[-4:] == [RUN] * 4)
    assert frames[:4] == [FREQS] * 4  # nothing is known yet
    assert frames[-4:] == [RUN] * 4


def test_without_delays_every_change_is_made(tmp_path: Path) -> None:
    assert rewritten(make_profile([1.0] * 5, delay_ms=float("nan")), "LXLBG", "0 0 2 1 0-2") == "0 0 2 1 0-2"
    frames = seen_at(tmp_path, "LXLBG", "0 0 2 1 0-2", Sleeper(lambda *_: 0.1), 8, delay_us=0)
    assert frames == ["0 0 2 1 0-2"] * 8


def test_a_pipeline_makes_every_change_where_several_sub_graphs_ask(tmp_path: Path) -> None:
    """Nobody knows which of them is next, and for how long a frequency stays."""
    layers = seen_at(tmp_path, "LXL", "0 0 2", Sleeper(lambda *_: 0.1), 12, in_flight=2)
    assert any(frame.endswith("2") for frame in layers[6:])


def test_a_change_that_is_faster_than_measured_is_not_made_and_skipped_in_turn(tmp_path: Path) -> None:
    """At the frequency in force the layer is longer than the delay, at the one asked for shorter: it pays."""

    def time_ms(layer: int, in_force: list[int | None]) -> float:
        return 20.0 if layer == 0 or in_force[0] == 0 else 1.0

    def settled(frames: list[str]) -> bool:
        return "0 0 0" in frames and frames[-15:] == ["0 0 2"] * 15  # without the change once: that is how it knows

    assert settled(seen_at(tmp_path, "LXL", "0 0 2", Sleeper(time_ms), 30, settled=settled))


def test_a_stay_goes_on_over_the_end_of_the_frame() -> None:
    profile = make_profile([5.0, 100.0, 5.0])
    assert rewritten(profile, "LLL", "2 0 2") == "2 0 2"  # 10 ms, in two frames
    assert rewritten(profile, "LLL", "0 0 2") == "0 0 0"
    assert rewritten(profile, "LLL", "2 2 2") == "2 2 2"  # once and for all
    assert rewritten(make_profile([8.0, 100.0]), "LL", "2 0") == "0 0"  # as long as the delay: too late
    assert rewritten(make_profile([8.1, 100.0]), "LL", "2 0") == "2 0"


def test_the_time_is_that_at_the_frequency_in_force() -> None:
    profile = make_profile([100.0, 1.0])
    run_ms = profile.run_ms.copy()
    run_ms[profile.states.index(State(0, 0, -1)), 1] = 9.0
    profile = dataclasses.replace(profile, run_ms=run_ms)
    assert rewritten(profile, "LL", "0 2") == "0 2"
    assert rewritten(profile, "LL", "1 2") == "1 1"


def test_runs_on_the_npu_ask_once_and_count_load_and_unload() -> None:
    profile = make_profile([100.0, 1.0, 1.0, 1.0])
    assert rewritten(profile, "BNNN", "0 2 1 0") == "0 0 0 0"
    loads = dataclasses.replace(profile, load_ms=profile.load_ms + 3.0, unload_ms=profile.unload_ms + 2.5)
    assert rewritten(loads, "BNNN", "0 2 1 0") == "0 2 2 2"


def test_what_is_really_run_stays_and_each_change_left_pays() -> None:
    random = np.random.default_rng(3)
    profile = make_profile(random.uniform(1, 12, 10).tolist())
    configs = random.integers(0, len(profile.states), (300, 10))
    run = really_run(profile, configs)
    assert np.array_equal(really_run(profile, run), run)
    assert (run != configs).any(axis=1).mean() > 0.5
    assert np.array_equal(profile.processor_of[run], profile.processor_of[configs])
    assert np.array_equal(really_run(profile, configs[::-1]), run[::-1])
    with pytest.raises(ConfigurationError, match=r"expected configurations \[n, 10\], got \(3,\)"):
        really_run(profile, np.zeros(3, np.intp))


class Flat(AccuracyModel):
    """Each layer on the NPU costs the same."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def predict(self, masks: object) -> np.ndarray:
        return 70.0 - np.asarray(masks).sum(axis=1)

    def lower_bound(self, masks: object) -> np.ndarray:
        return self.predict(masks)


def test_a_settled_front_holds_what_is_really_run(data_dir: Path) -> None:
    """Squeezed until its layers are as short as the changes."""
    profile = load_profile(data_dir / "rk3399pro").model("SqueezeV1")
    profile = dataclasses.replace(profile, run_ms=profile.run_ms / 20)
    cost = make_cost("calibrated", profile)
    front = search("piqi", cost, Flat(profile.layer_count), [60.0], states=profile.states_for("published"))[60.0]
    settled = settle(front, profile, cost, by_accuracy=False)
    assert (really_run(profile, front.configs) != front.configs).any()
    assert 0 < len(settled) <= len(front)
    assert np.array_equal(really_run(profile, settled.configs), settled.configs)
    assert np.array_equal(settled.latency_ms, cost.evaluate(settled.configs).latency_ms)
    assert (np.diff(settled.latency_ms) > 0).all() and (np.diff(settled.power_mw) < 0).all()


def test_a_board_gets_the_delays_of_a_profile(tmp_path: Path) -> None:
    board = load_board("rk3399pro")
    path = tmp_path / "dvfs_delay.csv"
    assert with_delays(board, path) is board
    head = "processor,from_freq_index,to_freq_index,delay_ms\n"
    path.write_text(head + "L,0,3,1.5\nL,0,3,2.5\nG,4,0,0.0001\n")
    measured = with_delays(board, path)
    assert measured.processor("L").delays_us[0] == (0, 0, 0, 2000, 0, 0)
    assert measured.processor("G").delays_us[4][0] == 1  # 0 would be: not known
    assert measured.processor("B").delays_us == ()
    measured.to_native()
    path.write_text(head + "L,0,6,1.5\n")
    with pytest.raises(ProfileError, match=r"dvfs_delay.csv:2: to_freq_index: expected an index below 6, .*got 6"):
        with_delays(board, path)


def test_delays_that_do_not_fit_are_errors() -> None:
    with pytest.raises(pn.PlanError, match="processor L has 3 delays_us, expected 9 for its 3 frequencies"):
        pn.Board("example", [pn.Processor("L", "cpu", "xnnpack", [0], 1, "", KHZ, "", [0, 1, 2])])
