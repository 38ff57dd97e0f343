"""The report of a build: predicted timelines, and the page, which needs nothing beside it."""

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from piqi_planner.accuracy import Figures
from piqi_planner.build.characterise import Characterisation
from piqi_planner.build.masks import one_layer_masks, two_layer_masks
from piqi_planner.build.report import ReportData, ReportError, TimelineLayer, chosen_points, render_report, timeline
from piqi_planner.build.report_front import ROWS
from piqi_planner.build.report_script import SCRIPT
from piqi_planner.commands.table import make_table
from piqi_planner.cost import CostModel, CostName, make_cost
from piqi_planner.estimate import NETWORKS, estimate_profile
from piqi_planner.front import single_processor_fronts
from piqi_planner.profile import ConfigurationError, ModelProfile, State, format_configuration, load_profile
from piqi_runtime.boards import load_board
from piqi_runtime.table import AccuracyMetric, Objective, OperatingPoint

COSTS = get_args(CostName)
VOID = {"meta", "img", "input"}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    board, folder = load_board("rk3399pro"), tmp_path_factory.mktemp("profile")
    estimate_profile(NETWORKS["SqueezeV1"](), board, "SqueezeV1").save(folder)
    return load_profile(folder, board).model("SqueezeV1")


def some_points(profile: ModelProfile, cost: CostModel, count: int, seed: int = 0) -> list[OperatingPoint]:
    """Random configurations, some of which change processor at every layer and some seldom.

    What needs more energy is made more accurate, so that none dominates another.
    """
    rng = np.random.default_rng(seed)
    configs = rng.integers(len(profile.states), size=(count, profile.layer_count))
    stays = rng.random(configs.shape) < np.linspace(0, 1, count)[:, None]
    for layer in range(1, profile.layer_count):
        configs[:, layer] = np.where(stays[:, layer], configs[:, layer - 1], configs[:, layer])
    costs = cost.evaluate(configs)
    accuracies = 60 + 10 * costs.energy_mj.argsort().argsort() / count
    points = []
    for config, ms, mw, mj, accuracy in zip(
        configs, costs.latency_ms, costs.power_mw, costs.energy_mj, accuracies, strict=True
    ):
        order, freqs = format_configuration(profile, config)
        points.append(
            OperatingPoint(
                order=order,
                freqs=freqs,
                latency_ms=ms,
                power_mw=mw,
                energy_mj=mj,
                accuracy=accuracy,
                accuracy_standard_error=0.25,
                accuracy_lower_bound=59.5,
            )
        )
    return points


def check_timeline(layers: list[TimelineLayer], point: OperatingPoint, profile: ModelProfile) -> None:
    assert layers[0].begin_ms == 0 and layers[-1].end_ms == pytest.approx(point.latency_ms, rel=1e-9)
    assert all(a.end_ms == b.begin_ms for a, b in pairwise(layers))
    runs = [layer for layer in layers if layer.kind == "run"]
    covered = [number for run in runs for number in range(run.first_layer, run.last_layer + 1)]
    assert covered == list(range(profile.layer_count))
    for layer in layers:
        assert (layer.letter, layer.token) == (point.order[layer.last_layer], point.tokens[layer.last_layer])
        assert layer.end_ms >= layer.begin_ms
        if layer.kind == "transfer" and layer.first_layer != layer.last_layer:
            assert point.order[layer.first_layer] != point.order[layer.last_layer]


@pytest.mark.parametrize("name", COSTS)
def test_a_timeline_lasts_as_long_as_predicted(name: CostName, profile: ModelProfile) -> None:
    cost = make_cost(name, profile)
    for point in some_points(profile, cost, 20):
        check_timeline(timeline(point, profile, cost), point, profile)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("model", ["MobileV1", "YOLOv3"])
def test_timelines_of_measured_profiles(name: CostName, model: str, data_dir: Path) -> None:
    """With residuals, side branches and what NPU runs save."""
    profile = load_profile(data_dir / "rk3399pro").model(model)
    cost = make_cost(name, profile)
    for point in some_points(profile, cost, 8):
        check_timeline(timeline(point, profile, cost), point, profile)


def test_parts_of_a_timeline(profile: ModelProfile) -> None:
    cost, last = make_cost("published", profile), profile.layer_count - 1
    order = "B" + "N" * 3 + "L" * (last - 3)
    point = OperatingPoint(
        order=order,
        freqs=" ".join(["7", "7", "7", "3", *["5"] * (last - 3)]),
        latency_ms=1.0,
        power_mw=1000.0,
        energy_mj=1.0,
        accuracy=1.0,
    )
    layers = timeline(point, profile, cost)
    inner = [(layer.first_layer, layer.last_layer, layer.letter, layer.token, layer.kind) for layer in layers[:7]]
    assert inner == [
        (0, 0, "B", "7", "transfer"),
        (0, 0, "B", "7", "run"),
        (0, 1, "N", "7", "transfer"),
        (1, 2, "N", "7", "run"),  # one state, one entry
        (3, 3, "N", "3", "run"),
        (3, 4, "L", "5", "transfer"),
        (4, 4, "L", "5", "run"),
    ]
    assert (layers[-1].first_layer, layers[-1].kind) == (last, "transfer")
    unload_ms = profile.unload_ms[profile.states.index(State(profile.letters.index("N"), 3, -1)), 3]
    assert layers[5].end_ms - layers[5].begin_ms > unload_ms > 0


def test_a_timeline_of_another_model(profile: ModelProfile) -> None:
    point = OperatingPoint(order="L", freqs="0", latency_ms=1.0, power_mw=1000.0, energy_mj=1.0, accuracy=1.0)
    with pytest.raises(ConfigurationError, match=f"expected {profile.layer_count} letters for SqueezeV1, got 1"):
        timeline(point, profile, make_cost("published", profile))


class Page(HTMLParser):
    """Elements, their nesting and the text in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.scripts: dict[str, str] = {}
        self.rows = 0
        self.bars = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update([found["id"]] if found.get("id") else [])
        self.links += [str(found[name]) for name in ("src", "href") if name in found]
        self.bars += tag == "rect"
        self.rows += tag == "td" and self.open[-2:] == ["tbody", "tr"] and self.get_starttag_text() == "<td>"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts[found.get("type") or "script"] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[list(self.scripts)[-1]] += data


@pytest.fixture(scope="module")
def data(profile: ModelProfile) -> ReportData:
    cost, layers = make_cost("published", profile), profile.layer_count
    points = some_points(profile, cost, 3 * ROWS)
    metric = AccuracyMetric(name="top1", float32=70, int8=60)
    table = make_table(points, load_board("rk3399pro"), "SqueezeV1", metric, layers)
    rng = np.random.default_rng(1)
    masks = np.concatenate([np.zeros((1, layers), bool), one_layer_masks(layers), two_layer_masks(layers, 40)])
    accuracy = 70 - 5 * rng.random(len(masks))
    measured = 60 + 10 * rng.random(30)
    return ReportData(
        title="SqueezeV1 on rk3399pro",
        facts={"images": "500"},
        table=table,
        singles=single_processor_fronts(profile, cost),
        characterisation=Characterisation(
            base="B",
            names=[f"conv_{number}" for number in range(layers)],
            masks=masks,
            accuracy=accuracy,
            difference=accuracy - accuracy[0],
            standard_error=np.full(len(masks), 0.2),
            frames_per_joule=1 + rng.random(len(masks)),
            latency_ms=1 + rng.random(len(masks)),
        ),
        accuracy_figures=Figures(0.123, 0.95, 30),
        predicted=measured + 0.1,
        measured=measured,
        history=[(10, 1.0), (20, 1.5)],
        cost_notes=["Costs are predicted."],
        timelines={name: timeline(point, profile, cost) for name, point in chosen_points(table).items()},
        verified=[{"order": table.points[0].order, "frames": 8}],
    )


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render_report(data)


def test_the_page_is_whole_and_needs_nothing_else(page: str, data: ReportData) -> None:
    parsed = Page(page)
    assert parsed.open == [] and max(parsed.ids.values()) == 1
    assert parsed.links and all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert not re.search(r"https?://|@import|url\(", page)
    assert set(re.findall(r'get\("([\w-]+)"\)', SCRIPT)) <= set(parsed.ids)
    assert parsed.bars == sum(len(layers) for layers in data.timelines.values())
    for text in ("0.123 points", "95.0%", "Costs are predicted.", "conv_", "largest 0.100 points"):
        assert text in page


def test_the_page_has_all_points_and_shows_some(page: str, data: ReportData) -> None:
    parsed, points = Page(page), data.table.points
    embedded = json.loads(parsed.scripts["application/json"])
    assert len(points) > ROWS  # else it would show nothing
    assert embedded["points"]["order"] == [point.order for point in points]
    assert embedded["points"]["freqs"] == [point.freqs for point in points]
    for name in ("latency_ms", "power_mw", "energy_mj", "accuracy", "accuracy_standard_error"):
        wanted = [getattr(point, name) for point in points]
        np.testing.assert_allclose(embedded["points"][name], wanted, rtol=1e-6)
    assert list(embedded["singles"]) == list("LBGN")
    assert parsed.rows == ROWS * 8
    assert f"{ROWS} of {len(points)} points" in page


def test_the_same_data_give_the_same_page(page: str, data: ReportData) -> None:
    assert render_report(data) == page


def test_text_stays_text(data: ReportData) -> None:
    evil = "</script><script>alert(1)</script>"
    table = data.table.model_copy(update={"model": evil})
    parsed = Page(
        render_report(replace(data, title=evil, table=table, facts={evil: evil}, cost_notes=[evil], timelines={}))
    )
    assert parsed.open == [] and list(parsed.scripts.values()).count(SCRIPT) == 1
    assert "alert" not in "".join(parsed.scripts.values())


def test_what_was_not_found_is_left_out(data: ReportData) -> None:
    found = data.characterisation
    few = slice(1 + found.masks.shape[1])
    columns = ("masks", "accuracy", "difference", "standard_error", "frames_per_joule", "latency_ms")
    singles = replace(found, **{name: getattr(found, name)[few] for name in columns})
    none = np.empty(0)
    bare = replace(
        data, characterisation=singles, predicted=none, measured=none, history=[], verified=[], singles={}, timelines={}
    )
    parsed = Page(render_report(bare))
    assert parsed.open == [] and len(parsed.links) == 2  # the front, and the layers one by one


def test_layers_that_lose_nothing_are_not_listed_as_losing(data: ReportData) -> None:
    nothing = "No layer loses accuracy when it alone is quantised."
    found = data.characterisation
    lossless = replace(found, difference=np.maximum(found.difference, 0))
    assert (found.difference < 0).any() and nothing not in render_report(data)
    page = render_report(replace(data, characterisation=lossless))
    assert nothing in page and "loses most" not in page


def test_data_that_contradict_each_other(data: ReportData) -> None:
    with pytest.raises(ReportError, match=r"predicted, measured: .* got \(29,\) and \(30,\)"):
        render_report(replace(data, predicted=data.predicted[1:]))
    wrong = TimelineLayer(0, 0, "X", "0", 0.0, 1.0, "run")
    with pytest.raises(ReportError, match="timelines: fastest: expected processors of LBGN, got 'X'"):
        render_report(replace(data, timelines={"fastest": [wrong]}))
    with pytest.raises(ReportError, match="timelines: fastest: expected layers, got none"):
        render_report(replace(data, timelines={"fastest": []}))
    with pytest.raises(ReportError, match=r"singles: L: expected numbers above zero, got \[0\.\]"):
        render_report(replace(data, singles={"L": (np.array([1.0]), np.array([0.0]))}))


def test_chosen_points(data: ReportData) -> None:
    chosen = chosen_points(data.table)
    assert {*chosen.values()} == {data.table.best(objective) for objective in get_args(Objective)}
    only = data.table.model_copy(update={"points": data.table.points[:1]})
    assert chosen_points(only) == {"fastest, least power, least energy, most accurate": only.points[0]}


def test_the_script_is_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to read the report's JavaScript with")
    (tmp_path / "report.js").write_text(SCRIPT)
    result = subprocess.run([node, "--check", tmp_path / "report.js"], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
