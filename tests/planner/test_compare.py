"""Searches side by side: what is finished stays, what is shown is what was found."""

import argparse
import csv
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from piqi_planner.compare import CompareError, Comparison
from piqi_planner.compare_report import comparison_report
from piqi_planner.front import FrontError, read_front
from piqi_planner.published import published_results
from piqi_planner.report_html import HtmlTable, Paragraph, Picture, render_page
from piqi_runtime.table import OperatingPoint

SEARCHES, TARGETS = ("single", "piqi"), (66.0, 66.5, 67.0)
SETTINGS: dict[str, object] = {"model": "small", "seed": 0}


def point(latency_ms: float, power_mw: float, accuracy: float) -> OperatingPoint:
    return OperatingPoint(
        order="L",
        freqs="0",
        latency_ms=latency_ms,
        power_mw=power_mw,
        energy_mj=latency_ms * power_mw / 1e3,
        accuracy=accuracy,
    )


class Finder:
    """Stands in for the searches, counts its calls, and can be interrupted."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.calls: list[tuple[str, float]] = []
        self.interrupt_at = interrupt_at

    def __call__(self, search: str, target: float) -> list[OperatingPoint]:
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((search, target))
        if search == "single":
            return [point(500.0, 3000.0, 70.0)]
        return [point(1000.0 - 10 * (70 - target), 2000.0, target), point(500.0, 3000.0, 70.0)]


def compare(
    folder: Path, find: Finder, searches: Sequence[str] = SEARCHES, settings: dict[str, object] = SETTINGS
) -> Comparison:
    comparison = Comparison(folder, (2000.0, 4000.0), settings)
    comparison.open()
    for _ in comparison.run(comparison.missing(searches, TARGETS), find):
        pass
    return comparison


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "hypervolumes.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_hypervolumes_and_fronts_are_kept(tmp_path: Path) -> None:
    comparison = compare(tmp_path, Finder())
    # 1.5 s x 1 W, and below it what the slower point adds: (2 s - 0.97 s) x 1 W.
    assert comparison.runs["single", 67.0].hypervolume == pytest.approx(1.5)
    assert comparison.runs["piqi", 67.0].hypervolume == pytest.approx(1.5 + 1.03)
    found = {(row["search"], float(row["target"])): row for row in rows(tmp_path)}
    assert set(found) == {(search, target) for search in SEARCHES for target in TARGETS}
    assert float(found["piqi", 67.0]["hypervolume"]) == pytest.approx(2.53)
    assert found["piqi", 67.0]["points"] == "2"
    assert tuple(read_front(comparison.front_path("piqi", 66.5))) == comparison.runs["piqi", 66.5].points


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    broken_off = Finder(interrupt_at=4)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, broken_off)
    assert len(rows(tmp_path)) == 4
    second = Finder()
    resumed = compare(tmp_path, second)
    assert second.calls == [("piqi", 66.5), ("piqi", 67.0)]
    whole = compare(tmp_path / "whole", Finder())
    assert {key: run.points for key, run in resumed.runs.items()} == {key: r.points for key, r in whole.runs.items()}
    more = Finder()
    compare(tmp_path, more, (*SEARCHES, "greedy"))
    assert more.calls == [("greedy", target) for target in TARGETS]


def test_a_front_without_its_line_is_made_again(tmp_path: Path) -> None:
    compare(tmp_path, Finder())
    lines = (tmp_path / "hypervolumes.csv").read_text().splitlines(keepends=True)
    (tmp_path / "hypervolumes.csv").write_text("".join(lines[:-1]))
    again = Finder()
    compare(tmp_path, again)
    assert again.calls == [("piqi", 67.0)]


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    compare(tmp_path, Finder())
    with pytest.raises(CompareError, match=r"settings\.json: seed: this call has 1, .* 0"):
        compare(tmp_path, Finder(), settings={**SETTINGS, "seed": 1})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("settings.json", "{", r"settings\.json"),
        ("settings.json", "[]", r"settings\.json: model"),
        ("hypervolumes.csv", "search,target\nsingle,66.0\n", r"hypervolumes\.csv:2.*seconds"),
        ("hypervolumes.csv", "search,target,hypervolume,points,seconds\nsingle,x,1,1,1\n", r"csv:2.*x"),
        ("fronts/piqi_67.0.csv", "order\n", r"piqi_67\.0\.csv:1: column"),
    ],
)
def test_spoilt_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    compare(tmp_path, Finder())
    (tmp_path / name).write_text(text)
    with pytest.raises((CompareError, FrontError), match=said):
        compare(tmp_path, Finder())


def test_report_holds_everything(tmp_path: Path) -> None:
    comparison = compare(tmp_path, Finder())
    singles = {"L": ([500.0, 700.0], [3000.0, 2500.0])}
    page = comparison_report(comparison, SEARCHES, TARGETS, singles, {"L": 70.0}, None)
    assert page.count("data:image/png;base64,") == 4  # hypervolumes; lowest, middle and highest target
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", page) == []
    assert 'name="viewport"' in page
    assert "<td>67</td><td>1.5</td>" in page and '<td class="best">2.53</td>' in page
    gains = [2.53 / 1.5 - 1, 2.535 / 1.5 - 1, 2.54 / 1.5 - 1]
    assert f"{sum(gains) / 3:+.1%} hypervolume on average over 3 targets, {min(gains):+.1%}" in page


def test_report_sets_published_figures_beside(tmp_path: Path) -> None:
    searches, targets = ("single",), (67.35, 67.4)
    comparison = Comparison(tmp_path, (550.0, 7000.0), {"model": "MobileV1"})
    comparison.open()
    for _ in comparison.run(comparison.missing(searches, targets), lambda *_: [point(50.0, 3000.0, 70.0)]):
        pass
    page = comparison_report(comparison, searches, targets, {}, {}, published_results("MobileV1"))
    assert '<td class="best">2</td><td>1.9502</td><td>-</td>' in page
    mean = (2 / 1.95022 + 2 / 1.84369) / 2 - 1
    assert f"{mean:+.1%} hypervolume on average over 2 targets" in page


def test_a_search_that_found_nothing(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path, (550.0, 7000.0), {"model": "small"})
    comparison.open()
    for run in comparison.run([("piqi", 99.0)], lambda *_: []):
        assert (run.hypervolume, run.points) == (0.0, ())
    again = Comparison(tmp_path, (550.0, 7000.0), {"model": "small"})
    again.open()
    assert again.missing(("piqi",), (99.0,)) == []
    assert "data:image/png" in comparison_report(again, ("piqi",), (99.0,), {}, {}, None)


def run_command(*arguments: object) -> None:
    from piqi_planner.commands import compare as command

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["compare", *map(str, arguments)])
    parsed.function(parsed)


@pytest.fixture
def mobilenet(data_dir: Path, tmp_path: Path) -> list[object]:
    """Options of the command."""
    folder = data_dir / "rk3399pro"
    accuracy_model = folder / "accuracy_model_mobilenet_v1.h5"
    files = ["--profile", folder, "--accuracy-model", accuracy_model, "--out", tmp_path / "out"]
    return [*files, "--model", "MobileV1", "--searches", "single,greedy"]


def test_command_compares_and_resumes(
    mobilenet: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(*mobilenet, "--targets", "68,67.5,100")
    captured = capsys.readouterr()
    assert "6 runs made, 0 taken" in captured.out
    found = {(row["search"], float(row["target"])): float(row["hypervolume"]) for row in rows(tmp_path / "out")}
    assert found["greedy", 67.5] >= found["greedy", 68.0] >= found["single", 68.0] > 1.3864
    assert found["single", 100.0] == found["greedy", 100.0] == 0
    for search in ("single", "greedy"):
        for p in read_front(tmp_path / "out" / "fronts" / f"{search}_68.0.csv"):
            assert p.accuracy >= 68 and p.search == search
    page = (tmp_path / "out" / "report.html").read_text()
    assert "genetic (published)" in page
    run_command(*mobilenet, "--targets", "67.5,67.9")
    assert "2 runs made, 2 taken from before" in capsys.readouterr().out
    assert len(rows(tmp_path / "out")) == 8, "those of the first call are kept"
    with pytest.raises(CompareError, match="seed"):
        run_command(*mobilenet, "--targets", "67.5", "--seed", 1)


def test_an_interrupted_run_is_not_taken_for_a_finished_one(
    mobilenet: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from piqi_planner.commands import compare as command

    real = command.search

    def interrupted(name: str, *arguments: object, **options: object) -> object:
        found = real(name, *arguments, **options)
        if name == "greedy":
            with suppress(KeyboardInterrupt):  # as a search does that keeps what it has found
                signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(command, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command(*mobilenet, "--targets", "67.5")
    assert [row["search"] for row in rows(tmp_path / "out")] == ["single"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_command_refuses_another_model_s_accuracy(mobilenet: list[object], data_dir: Path) -> None:
    other = data_dir / "rk3399pro" / "accuracy_model_yolov3.h5"
    with pytest.raises(CompareError, match=r"accuracy_model_yolov3\.h5: expected 14 layers for MobileV1, got 75"):
        run_command(*mobilenet, "--targets", "67.5", "--accuracy-model", other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--targets", "67,x"), "--targets: .*'x'"),
        (("--targets", "0.67,670"), "--targets: .*'670'"),
        (("--targets", "nan"), "--targets: .*'nan'"),
        (("--searches", "single,best"), "--searches: .*'best'"),
        (("--reference", "0", "7000"), "--reference: .*0.0 7000.0"),
        (("--model", "Alex"), "--targets: there are no published"),
        (("--model", "Alex", "--targets", "50"), "--reference: there is no published"),
    ],
)
def test_command_names_wrong_options(mobilenet: list[object], options: tuple[str, ...], said: str) -> None:
    with pytest.raises(CompareError, match=said):
        run_command(*mobilenet, *options)


def test_pages_escape_what_they_show() -> None:
    blocks = [Paragraph("<script>"), Picture(b"png", 'a "b" <c>'), HtmlTable(["<h>"], [["&"]], frozenset({(0, 0)}))]
    page = render_page("<title>", blocks)
    assert "<script>" not in page and "<h>" not in page and "<c>" not in page
    assert '<td class="best">&amp;</td>' in page and 'alt="a &quot;b&quot; &lt;c&gt;"' in page
    assert "<title>&lt;title&gt;</title>" in page
