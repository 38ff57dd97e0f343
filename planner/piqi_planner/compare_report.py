"""The report of a comparison of searches: hypervolumes against targets, fronts, one table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec

from piqi_planner.compare import Comparison
from piqi_planner.plots_front import Curve, Target, draw_front, draw_hypervolumes
from piqi_planner.published import PublishedResults
from piqi_planner.report_html import Block, Heading, HtmlTable, Paragraph, Picture, render_page
from piqi_planner.search.front import Floats

P = ParamSpec("P")


def comparison_report(
    comparison: Comparison,
    searches: Sequence[str],
    targets: Sequence[float],
    singles: Mapping[str, tuple[Floats, Floats]],
    single_accuracy: Mapping[str, float],
    published: PublishedResults | None,
) -> str:
    """The page. All runs of `searches` x `targets` are finished.

    The last of `searches` is the one whose gain is stated and whose fronts are drawn; `singles`,
    `single_accuracy`: each processor's front alone (ms, mW) and its accuracy (percent); `published` only where
    settings are those of the published figures.
    """
    model = str(comparison.settings["model"])
    volumes = draw(
        draw_hypervolumes, *_curves(comparison, searches, targets, published), f"{model}: hypervolume against target"
    )
    reference = f"{comparison.reference[0] / 1e3:g} s, {comparison.reference[1] / 1e3:g} W"
    ours = searches[-1]
    settings = [
        f"{name.replace('_', ' ')}: {value}" for name, value in comparison.settings.items() if value is not None
    ]
    caption = f"Hypervolume (seconds x watts) below {reference}; more is better."
    if published:
        caption += " What was published holds for the published accuracy predictor."
    blocks: list[Block] = [
        Paragraph("; ".join(settings)),
        Heading("Hypervolume against accuracy target"),
        Picture(volumes, caption),
        _table(comparison, searches, targets, published),
        *_gains(comparison, searches, targets, published),
        Heading(f"Fronts found by {ours}"),
    ]
    ordered = sorted(targets)
    for accuracy in dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])):
        points = comparison.runs[ours, accuracy].points
        below = [letter for letter in singles if single_accuracy[letter] < accuracy]
        front = draw(draw_front, points, singles, f"{model}, accuracy of at least {accuracy:g} %", below=below)
        blocks.append(Picture(front, f"Target {accuracy:g} %: the front, and each processor alone at all frequencies."))
    return render_page(f"{model}: searches compared", blocks)


def draw(function: Callable[Concatenate[Target, P], None], *arguments: P.args, **options: P.kwargs) -> bytes:
    """The PNG file that `function` writes."""
    stream = io.BytesIO()
    function(stream, *arguments, **options)
    return stream.getvalue()


def _curves(
    comparison: Comparison, searches: Sequence[str], targets: Sequence[float], published: PublishedResults | None
) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Hypervolumes against targets: those of the runs and the published ones in their range."""
    ordered = sorted(targets)
    curves: dict[str, Curve] = {
        name: [(at, comparison.runs[name, at].hypervolume) for at in ordered] for name in searches
    }
    known: dict[str, Curve] = {}
    if published:
        shown = [point for point in published.targets if ordered[0] <= point.accuracy <= ordered[-1]]
        known["genetic"] = [(point.accuracy, point.genetic) for point in shown]
        known["greedy"] = [(point.accuracy, point.greedy) for point in shown]
    return curves, known


def _table(
    comparison: Comparison, searches: Sequence[str], targets: Sequence[float], published: PublishedResults | None
) -> HtmlTable:
    head = ["target %", *searches, *(("genetic (published)", "greedy (published)") if published else ()), "seconds"]
    known = {point.accuracy: point for point in published.targets} if published else {}
    rows, best = [], set()
    for i, accuracy in enumerate(sorted(targets)):
        runs = [comparison.runs[name, accuracy] for name in searches]
        values: list[float | None] = [run.hypervolume for run in runs]
        if published:
            point = known.get(accuracy)
            values += [point.genetic, point.greedy] if point else [None, None]
        top = max(value for value in values if value is not None)
        best |= {(i, 1 + j) for j, value in enumerate(values) if value == top}
        cells = ["-" if value is None else f"{value:.5g}" for value in values]
        rows.append([f"{accuracy:g}", *cells, " / ".join(f"{run.seconds:.1f}" for run in runs)])
    return HtmlTable(head, rows, frozenset(best))


def _gains(
    comparison: Comparison, searches: Sequence[str], targets: Sequence[float], published: PublishedResults | None
) -> list[Paragraph]:
    """How much more the last search reaches than the others, and than the better published front."""
    volumes = {name: [comparison.runs[name, at].hypervolume for at in targets] for name in searches}
    others: dict[str, list[float]] = {name: volumes[name] for name in searches[:-1]}
    ours = volumes[searches[-1]]
    paragraphs = [_gain(searches[-1], name, ours, values) for name, values in others.items()]
    if published:
        best = {point.accuracy: point.best for point in published.targets}
        shared = [(volume, best[at]) for at, volume in zip(targets, ours, strict=True) if at in best]
        if shared:
            paragraphs.append(
                _gain(searches[-1], "the better published front", *([list(v) for v in zip(*shared, strict=True)]))
            )
    return [paragraph for paragraph in paragraphs if paragraph]


def _gain(name: str, other: str, ours: list[float], theirs: list[float]) -> Paragraph | None:
    gains = [a / b - 1 for a, b in zip(ours, theirs, strict=True) if b > 0]
    if not gains:
        return None
    mean, least = sum(gains) / len(gains), min(gains)
    more = sum(gain > 0 for gain in gains)
    return Paragraph(
        f"{name} against {other}: {mean:+.1%} hypervolume on average over {len(gains)} targets, {least:+.1%} at the "
        f"least favourable; more at {more} of them."
    )
