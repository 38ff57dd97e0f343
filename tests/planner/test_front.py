"""Fronts as files and as pictures."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piqi_planner.cost import make_cost
from piqi_planner.front import (
    COLUMNS,
    FrontError,
    operating_points,
    read_front,
    single_processor_fronts,
    write_front,
)
from piqi_planner.plots_front import draw_front, draw_hypervolumes
from piqi_planner.profile import load_profile, parse_configurations
from piqi_planner.published import published_results
from piqi_planner.search.front import Front, hypervolume
from piqi_runtime.table import OperatingPoint

HEAD = "order,freqs,latency_ms,power_mw,energy_mj,accuracy"
ROW = "GLN,4-7 5 7,20.0,5000.0,100.0,66.0"


def point(latency_ms: float, power_mw: float, accuracy: float, **more: object) -> OperatingPoint:
    values = {"order": "GLN", "freqs": "4-7 5 7", "energy_mj": latency_ms * power_mw / 1e3, **more}
    return OperatingPoint(latency_ms=latency_ms, power_mw=power_mw, accuracy=accuracy, **values)


POINTS = st.builds(
    point,
    st.floats(1e-3, 1e6),
    st.floats(1e-3, 1e6),
    st.floats(0, 100),
    accuracy_lower_bound=st.just(0.0) | st.none(),
    cost_provenance=st.sampled_from(["predicted", "measured"]),
    search=st.none() | st.sampled_from(["piqi", "a,b", 'x"y', "a\nb", "a\u2028b"]),
    seed=st.none() | st.integers(),
)


@given(st.lists(POINTS, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, points: list[OperatingPoint]) -> None:
    path = tmp_path_factory.getbasetemp() / "front.csv"
    write_front(path, points)
    assert read_front(path) == points


def test_further_columns_only_where_they_say_something(tmp_path: Path) -> None:
    path = tmp_path / "front.csv"
    write_front(path, [point(20.0, 5000.0, 66.0)])
    assert path.read_text() == f"{HEAD}\n{ROW}\n"
    assert ",".join(COLUMNS) == HEAD
    write_front(path, [point(20.0, 5000.0, 66.0), point(10.0, 6000.0, 60.0, seed=4)])
    assert path.read_text().splitlines()[0] == f"{HEAD},seed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r":1: column order is missing"),
        ("order,freqs,latency_ms\n", r":1: column power_mw is missing"),
        (f"{HEAD},colour\n{ROW},red\n", r":1: .*'colour'"),
        (f"{HEAD},order\n{ROW},GLN\n", r":1: .*'order'"),
        (f"{HEAD}\n{ROW}\n{ROW},1\n", r":3: expected 6 values, got 7"),
        (f"{HEAD}\n{ROW.replace('20.0', 'x')}\n", r":2: latency_ms: expected a number, got 'x'"),
        (f"{HEAD}\n{ROW.replace('20.0', 'nan')}\n", r":2: latency_ms: .*finite.*'nan'"),
        (f"{HEAD}\n{ROW.replace('20.0', '-20')}\n", r":2: latency_ms: .*greater than 0, got '-20.0'"),
        (f"{HEAD}\n{ROW.replace('66.0', '')}\n", r":2: accuracy: expected a number, got ''"),
        (f"{HEAD}\n{ROW.replace(',100.0', ',99.0')}\n", r":2: energy_mj: .*100, got 99"),
        (f"{HEAD}\n{ROW.replace('GLN', 'GL')}\n", r":2: freqs: expected 2 for order GL, got 3"),
        (f"{HEAD},seed\n{ROW},1.5\n", r":2: seed: .*'1.5'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "front.csv"
    path.write_text(text)
    with pytest.raises(FrontError, match=said) as caught:
        read_front(path)
    assert str(caught.value).startswith(str(path))


def test_empty_lines_are_no_points(tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_text(f"{HEAD}\n\n{ROW}\n\n", newline="\r\n")
    assert read_front(tmp_path / "front.csv") == [point(20.0, 5000.0, 66.0)]


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match="nowhere"):
        read_front(tmp_path / "nowhere.csv")
    with pytest.raises(FrontError, match="nowhere"):
        write_front(tmp_path / "nowhere" / "front.csv", [])
    (tmp_path / "binary.csv").write_bytes(b"order\xff\xfe")
    with pytest.raises(FrontError, match="UTF-8"):
        read_front(tmp_path / "binary.csv")


def test_a_search_s_front_as_operating_points(data_dir: Path) -> None:
    profile = load_profile(data_dir / "rk3399pro").model("MobileV1")
    orders, freqs = ["G" * 14, "LLLLLLLNNNNNNN"], [" ".join(["4-7"] * 14), " ".join(["5"] * 7 + ["7"] * 7)]
    configs = parse_configurations(profile, orders, freqs)
    costs = make_cost("published", profile).evaluate(configs)
    front = Front(configs, costs.latency_ms, costs.power_mw, costs.energy_mj, costs.latency_ms * 0 + 68.1)
    points = operating_points(profile, front, "greedy", 7)
    assert [(p.order, p.freqs) for p in points] == list(zip(orders, freqs, strict=True))
    assert [p.power_mw for p in points] == costs.power_mw.tolist()
    assert {(p.accuracy, p.search, p.seed, p.cost_provenance) for p in points} == {(68.1, "greedy", 7, "predicted")}


@pytest.mark.parametrize(
    ("model", "expected"),  # by an independent evaluation of the published model, one configuration at a time
    [
        ("MobileV1", {"L": 1.4261421669929535, "B": 1.40571918419473, "G": 1.2686112838152526}),
        ("YOLOv3", {"L": 52.93755327753893, "B": 48.462254022786524, "G": 41.79087612406549}),
    ],
)
def test_single_processor_fronts(data_dir: Path, model: str, expected: dict[str, float]) -> None:
    published = published_results(model)
    assert published is not None
    profile = load_profile(data_dir / "rk3399pro").model(model)
    fronts = single_processor_fronts(profile, make_cost("published", profile))
    assert set(fronts) == set(profile.letters)
    found = {letter: hypervolume(*fronts[letter], published.reference) for letter in expected}
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "file"), [("MobileV1", "measured_mobilenet_v1.csv"), ("YOLOv3", "measured_yolov3.csv")]
)
def test_published_single_processors_are_what_was_measured(data_dir: Path, model: str, file: str) -> None:
    published = published_results(model)
    assert published is not None
    with open(data_dir / "rk3399pro" / file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    for letter, expected in published.single.items():
        costs = [(float(r["latency_ms"]), float(r["power_mw"])) for r in rows if set(r["order"]) == {letter}]
        latency_ms, power_mw = np.array(costs).T
        assert hypervolume(latency_ms, power_mw, published.reference) == pytest.approx(expected, rel=0.015)


def test_published_targets() -> None:
    for model, at, genetic, greedy in (("MobileV1", 67.35, 1.95022, None), ("YOLOv3", 64.9, 74.989, 76.110)):
        results = published_results(model)
        assert results is not None and len(results.targets) == 22
        accuracies = [target.accuracy for target in results.targets]
        assert accuracies == sorted(set(accuracies))
        (target,) = (target for target in results.targets if target.accuracy == at)
        assert (target.genetic, target.greedy) == (genetic, greedy)
        assert target.best == max(genetic, greedy or 0)
    assert published_results("Alex") is None


def test_pictures(tmp_path: Path) -> None:
    points = [point(10.0 + i, 6000.0 - i, 60.0 + i) for i in range(5)]
    path = tmp_path / "front.png"
    draw_front(path, points, {"L": ([50.0, 60.0], [4000.0, 3500.0]), "Q": ([40.0], [5000.0])}, "title")
    with Image.open(path) as picture:
        coloured = picture.convert("RGB")
        assert picture.width > 600
        assert len(coloured.getcolors(1 << 24)) > 100  # colour bar, lines, points
    for draw, arguments in (
        (draw_front, ([], {}, "no points")),
        (draw_hypervolumes, ({"piqi": [(60.0, 2.0), (61.0, None)]}, {"greedy": [(60.0, 1.0)]}, "title")),
    ):
        stream = io.BytesIO()
        draw(stream, *arguments)
        assert stream.getvalue().startswith(b"\x89PNG")
