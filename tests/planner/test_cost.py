"""Cost models on made-up boards: bulk against one at a time, chains against bulk, and what each part costs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piqi_planner.cost import CostModel, CostParameters, make_cost
from piqi_planner.profile import (
    ConfigurationError,
    ModelProfile,
    ProfiledProcessor,
    PublishedConstants,
    SideLayer,
    State,
)

CPU_OPPS = {"C": 2, "D": 3}
MODELS = ("published", "calibrated")
PARAMETERS = CostParameters(
    run={"C": 1.1, "T": 0.9},
    cold={"C": 0.2, "M": 0.1},
    queued=0.4,
    npu_load=1.3,
    npu_unload=0.7,
    skip_load=4.0,
    skip_unload=0.6,
    move=1.2,
    dvfs=1.5,
    side=2.1,
    power={"D": 1.2, "T": 0.8},
)


def made_up(layers: int, seed: int = 0, letters: str = "CDMT") -> ModelProfile:
    """The CPUs C and D, a GPU M and an NPU T hosted by D; random costs; two side layers and some skips."""
    rng = np.random.default_rng(seed)
    processors = [ProfiledProcessor(letter, "cpu", count) for letter, count in CPU_OPPS.items() if letter in letters]
    hosts = CPU_OPPS["D"]
    processors += [ProfiledProcessor("M", "gpu", 2, "D")] * ("M" in letters)
    processors += [ProfiledProcessor("T", "npu", hosts, "D")] * ("T" in letters)
    states = [
        State(n, own, host)
        for n, p in enumerate(processors)
        for own in range(p.opp_count)
        for host in (range(hosts) if p.kind == "gpu" else [-1])
    ]
    npu = np.array([processors[s.processor].kind == "npu" for s in states])[:, None]

    def random(*shape: int) -> np.ndarray:
        return rng.uniform(1, 20, shape)

    moves = random(layers - 1, len(processors), len(processors))
    moves[:, range(len(processors)), range(len(processors))] = 0
    keys = [("C", "D", "0", f"{k}") for k in range(hosts)] + [("D", "C", "0", f"{k}") for k in range(CPU_OPPS["C"])]
    keys += [("M", "D", f"0-{k}", f"{k}") for k in range(hosts)] + [("D", "M", f"{k}", f"0-{k}") for k in range(hosts)]
    keys += [("C", "M", "0", f"0-{k}") for k in range(hosts)]
    delays = {p.letter: rng.uniform(0, 8, (p.opp_count, p.opp_count)) for p in processors}
    if "M" in delays:
        delays["M"][:] = np.nan
    side = (SideLayer(3, ((2, 5),)), SideLayer(4, ((2, 6), (3, 5)))) if layers > 6 else ()
    skips = tuple((n, n + 2) for n in range(0, layers - 2, 2)) + (((1, 5),) if layers > 5 else ())
    return ModelProfile(
        name="made up",
        layer_count=layers,
        processors=tuple(processors),
        states=tuple(states),
        run_ms=random(len(states), layers),
        run_mw=3000 + 100 * random(len(states), layers),
        load_ms=random(len(states), layers) * npu,
        unload_ms=random(len(states), layers) * npu,
        input_ms=random(len(states)),
        input_mw=3000 + 100 * random(len(states)),
        output_ms=random(len(states)) / 5,
        move_ms=moves,
        move_ratio={key: float(rng.uniform(0.3, 1)) for key in keys},
        move_mw={key: float(rng.uniform(3500, 5000)) for key in keys},
        delay_ms=delays,
        idle_power_mw=2750,
        constants=PublishedConstants(0.05, side, skips),
        holes=(),
    )


def model_of(name: str, profile: ModelProfile) -> CostModel:
    return make_cost(name, profile, PARAMETERS if name == "calibrated" else None)  # type: ignore[arg-type]


def random_configs(profile: ModelProfile, count: int, seed: int = 1) -> np.ndarray:
    """Some change processor at every layer, some seldom."""
    rng = np.random.default_rng(seed)
    configs = rng.integers(len(profile.states), size=(count, profile.layer_count))
    stays = rng.random((count, profile.layer_count)) < rng.random((count, 1))
    for layer in range(1, profile.layer_count):
        configs[:, layer] = np.where(stays[:, layer], configs[:, layer - 1], configs[:, layer])
    return configs


def walk(
    cost: CostModel, mask: np.ndarray, config: np.ndarray, states: np.ndarray | None = None
) -> tuple[float, float]:
    """ms and mJ along the chain's path through a configuration's states."""
    chain = cost.chain(mask, states)
    (node,) = np.flatnonzero(chain.nodes[0] == config[0])
    first, ms, mj = node, chain.first_time[node], chain.first_energy[node]
    for layer in range(1, len(config)):
        follows = (chain.nodes[layer] == config[layer]) & np.isfinite(chain.time[layer][node])
        (follower,) = np.flatnonzero(follows)
        ms, mj = ms + chain.time[layer][node, follower], mj + chain.energy[layer][node, follower]
        node = follower
    return float(ms + chain.close_time[node, first]), float(mj + chain.close_energy[node, first])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("layers", "letters"), [(1, "CDMT"), (2, "CDMT"), (4, "CDMT"), (9, "CDMT"), (9, "CDM"), (5, "CD")]
)
def test_chain_is_the_bulk_cost(name: str, layers: int, letters: str) -> None:
    profile = made_up(layers, letters=letters)
    cost = model_of(name, profile)
    configs = random_configs(profile, 60)
    costs = cost.evaluate(configs)
    for config, ms, mj in zip(configs, costs.latency_ms, costs.energy_mj, strict=True):
        np.testing.assert_allclose(walk(cost, profile.is_npu[config], config), (ms, mj), rtol=1e-9)
        used = np.unique(config)
        np.testing.assert_allclose(walk(cost, profile.is_npu[config], config, used), (ms, mj), rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_the_best_path_is_the_best_configuration(name: str) -> None:
    """Over all configurations of a mask: the chain leaves none out and has none that is not there."""
    profile = made_up(3, letters="CDT")
    cost = model_of(name, profile)
    every = np.stack(np.meshgrid(*[np.arange(len(profile.states))] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    costs = cost.evaluate(every)
    for mask in ([0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]):
        wanted = np.array(mask, bool)
        chain = cost.chain(wanted)
        sums = [np.diag(chain.first_time)]  # [node of layer 0, node of layer 0]
        best = np.where(np.eye(len(chain.nodes[0]), dtype=bool), sums[0], np.inf)
        for layer in range(1, 3):
            best = (best[:, :, None] + chain.time[layer][None]).min(axis=1)
        best = best + chain.close_time.T
        matching = (profile.is_npu[every] == wanted).all(axis=1)
        np.testing.assert_allclose(best.min(), costs.latency_ms[matching].min(), rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_split_and_joined_evaluations_agree(name: str) -> None:
    profile = made_up(9)
    cost = model_of(name, profile)
    configs = random_configs(profile, 5000)  # more than one block
    whole = cost.evaluate(configs)
    parts = [cost.evaluate(part) for part in np.array_split(configs, 7)]
    np.testing.assert_array_equal(whole.latency_ms, np.concatenate([part.latency_ms for part in parts]))
    np.testing.assert_array_equal(whole.energy_mj, np.concatenate([part.energy_mj for part in parts]))
    np.testing.assert_allclose(whole.power_mw, whole.energy_mj / whole.latency_ms * 1e3)
    assert len(cost.evaluate(configs[:0]).latency_ms) == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(MODELS))
def test_costs_are_sound(seed: int, layers: int, name: str) -> None:
    profile = made_up(layers, seed)
    costs = model_of(name, profile).evaluate(random_configs(profile, 50, seed))
    assert np.isfinite(costs.latency_ms).all() and (costs.latency_ms > 0).all()
    assert (costs.energy_mj > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_configuration(name: str) -> None:
    profile = made_up(4, letters="CD")
    cost = model_of(name, profile)
    with pytest.raises(ConfigurationError, match=r"expected configurations \[n, 4\], got \(2, 3\)"):
        cost.evaluate(np.zeros((2, 3), int))
    with pytest.raises(ConfigurationError, match="expected states from 0 to 4, got 0 to 5"):
        cost.evaluate(np.array([[0, 0, 0, 5]]))
    with pytest.raises(ConfigurationError, match="the mask needs states on the NPU, there is none"):
        cost.chain([True, False, False, False])
    with pytest.raises(ConfigurationError, match="expected a mask of 4 layers"):
        cost.chain([False])


def latency(profile: ModelProfile, parameters: CostParameters, order: str) -> float:
    """Of an order at the lowest frequencies."""
    lowest = {
        p.letter: profile.states.index(State(n, 0, 0 if p.kind == "gpu" else -1))
        for n, p in enumerate(profile.processors)
    }
    return float(
        make_cost("calibrated", profile, parameters).evaluate(np.array([[lowest[x] for x in order]])).latency_ms[0]
    )


PLAIN = CostParameters(run={}, move=0, dvfs=0, npu_load=0, npu_unload=0, skip_load=0, skip_unload=0, side=1)
OneMore = Callable[[ModelProfile], float]


@pytest.mark.parametrize(
    ("change", "order", "expected"),
    [
        ({"run": {"C": 2.0}}, "CDCDDDD", lambda p: p.run_ms[0, 0] + p.run_ms[0, 2]),
        ({"cold": {"D": 0.5}}, "CDDCCCC", lambda p: 0.5 * p.run_ms[2, 1]),
        ({"queued": 0.5}, "MMMCCCC", lambda p: -2 * 0.5),  # each layer takes more than the one ms that counts
        ({"npu_load": 1.0}, "CTTDDDD", lambda p: p.load_ms[-3, 1]),
        ({"npu_unload": 1.0}, "CTTDDDD", lambda p: p.unload_ms[-3, 2]),
        ({"npu_load": 1.0}, "TTTTTTT", lambda p: p.load_ms[-3, 0]),
        ({"skip_load": 1.0}, "CTTDDDD", lambda p: p.load_ms[-3, 1]),  # layer 0's result also goes into layer 2
        ({"skip_load": 1.0}, "CDTDDDD", lambda p: 0.0),  # the profile's own load has it
        ({"skip_load": 1.0}, "TTTTTTT", lambda p: 0.0),
        ({"skip_unload": 1.0}, "TTCCCCC", lambda p: p.unload_ms[-3, 0]),
        ({"skip_unload": 1.0}, "TCCCCCC", lambda p: 0.0),
        ({"move": 1.0}, "CDDDDDD", lambda p: p.move_ms[0, 0, 1] * p.move_ratio["C", "D", "0", "0"]),
        ({"move": 1.0}, "CCCCCCD", lambda p: p.move_ms[5, 0, 1] * p.move_ratio["C", "D", "0", "0"]),
        ({"side": 3.0}, "CCCDCCC", lambda p: 2 * (p.run_ms[2, 3] + p.run_ms[0, 4])),
        ({"side": 3.0}, "DDDDDDD", lambda p: 0.0),
    ],
)
def test_what_each_parameter_costs(change: dict[str, object], order: str, expected: OneMore) -> None:
    profile = made_up(7)
    added = latency(profile, PLAIN.model_copy(update=change), order) - latency(profile, PLAIN, order)
    assert added == pytest.approx(expected(profile), abs=1e-9)


def test_plain_costs_are_the_profile_s() -> None:
    profile = made_up(7)
    npu = len(profile.states) - 3
    expected = profile.input_ms[npu] + profile.run_ms[npu].sum() * (1 + 0.05 - 0.05 * 7) + profile.output_ms[npu]
    assert latency(profile, PLAIN, "T" * 7) == pytest.approx(expected)
    cpu = profile.input_ms[2] + profile.run_ms[2].sum() + profile.output_ms[2]
    assert latency(profile, PLAIN, "D" * 7) == pytest.approx(cpu)


def test_change_of_frequency_delays() -> None:
    """Half of a layer's time is spent before the frequency is there."""
    profile = replace(made_up(2, letters="CD"), delay_ms={"C": np.full((2, 2), 4.0), "D": np.full((3, 3), 4.0)})
    profile.run_ms[0, 1], profile.run_ms[1, 1] = 8, 2  # C's second layer at index 0 and 1
    parameters = PLAIN.model_copy(update={"dvfs": 1.0})
    costs = make_cost("calibrated", profile, parameters).evaluate(np.array([[0, 1], [1, 1]]))
    plain = make_cost("calibrated", profile, PLAIN).evaluate(np.array([[0, 1], [1, 1]]))
    # 4 ms for the first half as it was, 1 ms for the second; a layer that is over before the change loses nothing
    np.testing.assert_allclose(costs.latency_ms - plain.latency_ms, [4 + 1 - 2, 0], atol=1e-9)
