"""Searches: each against brute force where that is possible, and all against what every search must hold."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piqi_planner.cost import make_cost
from piqi_planner.profile import load_profile
from piqi_planner.search import SEARCHES, SearchError, hypervolume, non_dominated, non_dominated_3d, search
from piqi_planner.search.relaxation import Relaxation, Weights
from piqi_planner.search.trade_off import TradeOff

REFERENCE = (550.0, 7000.0)
FLOORS = [69.0, 69.4, 69.8]


@dataclass(frozen=True)
class Additive:
    """An accuracy model: each quantised layer costs its own amount, neighbours a little more."""

    loss: np.ndarray

    @property
    def layers(self) -> int:
        return len(self.loss)

    def predict(self, masks: np.ndarray) -> np.ndarray:
        pairs = (masks[:, 1:] & masks[:, :-1]).sum(axis=1)
        return 70.0 - masks @ self.loss - 0.02 * pairs

    def lower_bound(self, masks: np.ndarray) -> np.ndarray:
        return self.predict(masks)


@pytest.fixture(scope="module")
def profile(data_dir: Path):
    return load_profile(data_dir / "rk3399pro").model("MobileV1")


@pytest.fixture(scope="module")
def cost(profile):
    return make_cost("published", profile)


@pytest.fixture(scope="module")
def accuracy(profile):
    return Additive(np.random.default_rng(3).uniform(0.01, 0.2, profile.layer_count))


def find(name, profile, cost, accuracy, floors, **options):
    return search(name, cost, accuracy, floors, states=profile.states_for("published"), **options)


@pytest.fixture(scope="module")
def fronts(profile, cost, accuracy):
    """What each search finds for FLOORS."""
    return {name: find(name, profile, cost, accuracy, FLOORS) for name in SEARCHES}


@pytest.mark.parametrize("name", SEARCHES)
def test_fronts_hold_their_floors_and_cost_what_they_say(name, fronts, profile, cost, accuracy) -> None:
    assert list(fronts[name]) == FLOORS
    for floor, front in fronts[name].items():
        assert len(front)
        costs = cost.evaluate(front.configs)
        np.testing.assert_allclose(front.latency_ms, costs.latency_ms, rtol=1e-12)
        np.testing.assert_allclose(front.power_mw, costs.power_mw, rtol=1e-12)
        predicted = accuracy.predict(profile.is_npu[front.configs])
        np.testing.assert_allclose(front.accuracy, predicted)
        assert predicted.min() >= floor
        assert len(non_dominated(front.latency_ms, front.power_mw)) == len(front)
        assert np.isin(front.configs, profile.states_for("published")).all()


def test_piqi_beats_the_others_and_a_higher_floor_never_helps(fronts) -> None:
    volumes = {
        name: [hypervolume(front.latency_ms, front.power_mw, REFERENCE) for front in found.values()]
        for name, found in fronts.items()
    }
    assert volumes["piqi"] == sorted(volumes["piqi"], reverse=True)
    for name in ("single", "greedy", "nsga2"):
        assert all(ours > theirs for ours, theirs in zip(volumes["piqi"], volumes[name], strict=True)), name


@pytest.mark.parametrize("name", ["greedy", "nsga2", "piqi"])
def test_a_seed_decides_everything(name, profile, cost, accuracy, monkeypatch) -> None:
    monkeypatch.setattr("piqi_planner.search.nsga2.GENERATIONS", 15)
    monkeypatch.setattr("piqi_planner.search.piqi.ROUNDS", 2)
    monkeypatch.setattr("piqi_planner.search.piqi.FILL_ROUNDS", 2)
    one, same = (find(name, profile, cost, accuracy, [69.5], seed=5)[69.5] for _ in range(2))
    np.testing.assert_array_equal(one.configs, same.configs)


def test_floors_are_shared_out_between_processes(profile, cost, accuracy) -> None:
    floors = [69.2, 69.5, 69.8]
    fronts = find("greedy", profile, cost, accuracy, floors, jobs=2)
    alone = find("greedy", profile, cost, accuracy, floors[:1])
    assert list(fronts) == floors
    volume = [hypervolume(f.latency_ms, f.power_mw, REFERENCE) for f in (fronts[69.2], alone[69.2])]
    assert volume[0] >= volume[1]


def test_without_a_floor_the_front_has_three_objectives(profile, cost, accuracy) -> None:
    ((key, front),) = find("greedy", profile, cost, accuracy, []).items()
    assert key == -np.inf
    assert len(non_dominated_3d(front.latency_ms, front.power_mw, front.accuracy)) == len(front)
    assert front.accuracy.max() == pytest.approx(70.0) and front.accuracy.min() < 69.5


def test_a_floor_out_of_reach_names_the_best_accuracy(profile, cost, accuracy) -> None:
    for name in SEARCHES:
        with pytest.raises(SearchError, match="70"):
            find(name, profile, cost, accuracy, [70.5], budget_s=0.5)


def test_wrong_arguments(profile, cost, accuracy) -> None:
    with pytest.raises(SearchError, match="tabu"):
        find("tabu", profile, cost, accuracy, [69])
    with pytest.raises(SearchError, match="nan"):
        find("piqi", profile, cost, accuracy, [float("nan")])


def test_an_interrupt_keeps_what_was_found(profile, cost, accuracy) -> None:
    def interrupt(done: float) -> None:
        if done > 0.2:
            raise KeyboardInterrupt

    assert len(find("piqi", profile, cost, accuracy, [69.5], progress=interrupt)[69.5])


def test_relaxation_finds_the_best_of_all_masks(profile, cost) -> None:
    """Against the exact chain of every mask of the last seven layers, the first seven on the CPU."""
    states = profile.states_for("published")
    cpu_only = states[np.array([profile.letters[profile.states[s].processor] != "G" for s in states])]
    relaxation = Relaxation(cost.tables, cpu_only)
    random = np.random.default_rng(0)
    layers = profile.layer_count
    price = np.concatenate([np.full(layers - 7, np.inf), random.uniform(0, 8, 7)])
    for watt in (-4.0, 0.0, 3.0, 50.0):
        config = relaxation.solve(Weights(np.array([watt]), price[np.newaxis]))

        def total(configs, watt=watt):
            found = cost.evaluate(configs)
            prices = np.where(profile.is_npu[configs], np.where(np.isinf(price), 0, price), 0).sum(axis=1)
            return found.energy_mj + watt * found.latency_ms + prices

        masks = np.array(list(product((False, True), repeat=7)))
        masks = np.concatenate([np.zeros((len(masks), layers - 7), bool), masks], axis=1)
        prices = np.where(masks, -np.inf, np.inf)
        best = relaxation.solve(Weights(np.full(len(masks), watt), prices))
        assert np.array_equal(profile.is_npu[best], masks)
        # The input phase is left out of the relaxation, so the free optimum may be off by what it saves.
        least = total(best).min()
        assert total(config)[0] <= least + 2e-3 * abs(least)
        # No change of a single layer's state, on the same kind of processor, helps.
        for layer in range(1, layers - 2):  # the phases at the ends depend on the others
            kind = profile.is_npu[cpu_only] == profile.is_npu[config[0, layer]]
            changed = np.repeat(config, kind.sum(), axis=0)
            changed[:, layer] = cpu_only[kind]
            assert total(changed).min() >= total(config)[0] - 1e-3 * abs(total(config)[0])


def test_the_least_power_is_found(profile, cost, accuracy) -> None:
    """No uniform configuration, and no change of a layer's state, has less power than the front's last point."""
    states = profile.states_for("published")
    front = find("piqi", profile, cost, accuracy, [70.0], budget_s=8)[70.0]
    exact = states[~profile.is_npu[states]]  # only the mask of no layer reaches 70 %
    uniform = cost.evaluate(np.repeat(exact[:, np.newaxis], profile.layer_count, axis=1)).power_mw.min()
    least = front.power_mw.min()
    assert least <= uniform * (1 + 1e-9)
    best = front.configs[np.argmin(front.power_mw)]
    for layer in range(profile.layer_count):
        changed = np.repeat(best[np.newaxis], len(exact), axis=0)
        changed[:, layer] = exact
        assert cost.evaluate(changed).power_mw.min() >= least * (1 - 1e-4)


def test_whole_runs_are_in_one_state_and_the_best_such(profile) -> None:
    """Against every state of the NPU's run, and of the layers before it, for one mask."""
    # The input phase is left out of the relaxation.
    profile = replace(profile, input_ms=0 * profile.input_ms, output_ms=0 * profile.output_ms)
    free, ours = make_cost("published", profile), make_cost("calibrated", profile)
    assert not free.whole_runs and ours.whole_runs
    states = profile.states_for("published")
    relaxation = Relaxation(ours.tables, states, whole_runs=True)
    layers = profile.layer_count
    mask = np.zeros(layers, bool)
    mask[3:] = True
    watts = np.array([-4.0, 0.0, 3.0, 50.0])
    found = relaxation.solve(Weights(watts, np.tile(np.where(mask, -np.inf, np.inf), (len(watts), 1))))
    npu, exact = states[profile.is_npu[states]], states[~profile.is_npu[states]]
    every = np.array([(*head, *[tail] * (layers - 3)) for *head, tail in product(exact, exact, exact, npu)])
    costs, best = ours.evaluate(every), ours.evaluate(found)
    for place, watt in enumerate(watts):
        assert len(set(found[place, 3:])) == 1
        least = (costs.energy_mj + watt * costs.latency_ms).min()
        assert best.energy_mj[place] + watt * best.latency_ms[place] <= least + 1e-5 * abs(least)


def test_a_front_of_ours_has_whole_runs(profile, accuracy) -> None:
    front = find("piqi", profile, make_cost("calibrated", profile), accuracy, [69.4], budget_s=8)[69.4]
    for config in front.configs:
        on = profile.is_npu[config]
        assert all(config[i] == config[i - 1] for i in range(1, len(config)) if on[i] and on[i - 1])


points = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=40)


@given(points)
def test_non_dominated(found: list[tuple[int, int, int]]) -> None:
    latency, power, accuracy = (np.array(values, float) for values in zip(*found, strict=True))

    def beaten(i: int, values: list[np.ndarray]) -> bool:
        no_worse = np.all([v <= v[i] for v in values], axis=0)
        return bool((no_worse & np.any([v < v[i] for v in values], axis=0)).any())

    for kept, values in (
        (non_dominated(latency, power), [latency, power]),
        (non_dominated_3d(latency, power, accuracy), [latency, power, -accuracy]),
    ):
        expected = {tuple(v[i] for v in values) for i in range(len(found)) if not beaten(i, values)}
        assert [tuple(v[i] for v in values) for i in kept] == sorted(tuple(v[i] for v in values) for i in kept)
        assert {tuple(v[i] for v in values) for i in kept} == expected and len(kept) == len(expected)


@given(points)
def test_hypervolume_counts_the_dominated_cells(found: list[tuple[int, int, int]]) -> None:
    latency, power, _ = (np.array(values, float) for values in zip(*found, strict=True))
    cells = np.zeros((10, 10), bool)
    for x, y in zip(latency, power, strict=True):
        cells[int(x) :, int(y) :] = True
    assert hypervolume(1e3 * latency, 1e3 * power, (10e3, 10e3)) == pytest.approx(cells.sum())


@settings(max_examples=50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=10), max_size=6))
def test_trade_off_keeps_the_best(batches: list[list[tuple[int, int]]]) -> None:
    trade_off = TradeOff(8)
    everything = np.array([pair for batch in batches for pair in batch], float).reshape(-1, 2)
    for batch in batches:
        pairs = np.array(batch, float).reshape(-1, 2)
        masks = np.unpackbits(pairs[:, :1].astype(np.uint8), axis=1).astype(bool).reshape(-1, 8)
        trade_off.insert(masks, pairs[:, 0], pairs[:, 1])
    for accuracy in range(21):
        able = everything[everything[:, 1] >= accuracy, 0]
        assert trade_off.cost_at(np.array([accuracy]))[0] == (able.min() if len(able) else np.inf)
