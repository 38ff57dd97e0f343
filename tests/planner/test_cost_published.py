"""The published additive model against its independent statement, on the published profile."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piqi_planner.cost import make_cost
from piqi_planner.profile import ModelProfile, Profile, format_configuration, load_profile


@pytest.fixture(scope="module")
def profile(data_dir: Path) -> Profile:
    return load_profile(data_dir / "rk3399pro")


@pytest.fixture(scope="module")
def reference(data_dir: Path) -> Any:
    """The module that states the model one configuration at a time, and the board it read."""
    path = data_dir.parent / "reference" / "published_cost.py"
    if not path.is_file():
        pytest.skip(f"no reference model: {path} is missing")
    spec = importlib.util.spec_from_file_location("published_cost", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for model in module.LAYERS:
        module.NPU_RUN_SHRINK.setdefault(model, 0.0)
    module.board = module.Board(data_dir / "rk3399pro")
    return module


def configs_of(model: ModelProfile, count: int) -> np.ndarray:
    """All processors alike often; some configurations change at every layer, some seldom."""
    rng = np.random.default_rng(3)
    configs = np.empty((count, model.layer_count), np.intp)
    for config, stay in zip(configs, np.linspace(0, 0.95, count), strict=True):
        processor = rng.integers(len(model.processors))
        for layer in range(model.layer_count):
            if rng.random() > stay:
                processor = rng.integers(len(model.processors))
            config[layer] = rng.choice(np.flatnonzero(model.processor_of == processor))
    return configs


@pytest.mark.parametrize("name", ["MobileV1", "YOLOv3", "Alex", "Google", "ResV1_50", "SqueezeV1"])
def test_the_model_is_the_published_one(profile: Profile, reference: Any, name: str) -> None:
    model = profile.model(name)
    configs = configs_of(model, 150)
    costs = make_cost("published", model).evaluate(configs)
    expected = []
    for config in configs:
        order, freqs = format_configuration(model, config)
        expected.append(reference.board.cost(name, order, reference.parse(freqs)))
    np.testing.assert_allclose(np.stack([costs.latency_ms, costs.power_mw], axis=1), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["MobileV1", "YOLOv3"])
def test_random_configurations_have_what_is_hard(profile: Profile, name: str) -> None:
    """So that the test above means something: NPU runs, every pair of processors, host changes, side branches."""
    model = profile.model(name)
    configs = configs_of(model, 150)
    processors, npu = model.processor_of[configs], model.is_npu[configs]
    assert (npu[:, :-2] & npu[:, 1:-1] & npu[:, 2:]).any()
    assert len(np.unique(processors[:, :-1] * 4 + processors[:, 1:])) == 16
    hosts = np.array([state.host for state in model.states])[configs]
    own = np.array([state.own for state in model.states])[configs]
    gpu = (hosts[:, :-1] >= 0) & (hosts[:, 1:] >= 0)
    assert (gpu & (own[:, :-1] == own[:, 1:]) & (hosts[:, :-1] != hosts[:, 1:])).any()
    for side in model.constants.side_layers:
        for point, main in side.beside:
            changes = processors[:, point] != processors[:, point + 1]
            assert (changes & npu[:, main]).any() and (changes & ~npu[:, main] & ~npu[:, side.layer]).any()


@pytest.mark.parametrize("cost_name", ["published", "calibrated"])
@pytest.mark.parametrize("name", ["MobileV1", "YOLOv3"])
def test_chains_of_the_published_models(profile: Profile, name: str, cost_name: Any) -> None:
    model = profile.model(name)
    cost = make_cost(cost_name, model)
    configs = configs_of(model, 12)
    costs = cost.evaluate(configs)
    for config, ms, mj in zip(configs, costs.latency_ms, costs.energy_mj, strict=True):
        chain = cost.chain(model.is_npu[config], np.unique(config))
        (node,) = np.flatnonzero(chain.nodes[0] == config[0])
        first, sums = node, np.array([chain.first_time[node], chain.first_energy[node]])
        for layer in range(1, model.layer_count):
            (follower,) = np.flatnonzero((chain.nodes[layer] == config[layer]) & np.isfinite(chain.time[layer][node]))
            sums += chain.time[layer][node, follower], chain.energy[layer][node, follower]
            node = follower
        sums += chain.close_time[node, first], chain.close_energy[node, first]
        np.testing.assert_allclose(sums, (ms, mj), rtol=1e-9)
