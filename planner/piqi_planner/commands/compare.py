"""``planner compare``: searches side by side over accuracy targets, as one report."""

from __future__ import annotations

import argparse
import hashlib
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, get_args

import numpy as np

from piqi_planner.accuracy import load_accuracy_model
from piqi_planner.compare import CompareError, Comparison
from piqi_planner.compare_report import comparison_report
from piqi_planner.cost import CostName, make_cost
from piqi_planner.front import operating_points, single_processor_fronts
from piqi_planner.profile import load_profile
from piqi_planner.progress import progress
from piqi_planner.published import PublishedResults, published_results
from piqi_planner.search import SEARCHES, SearchError, search
from piqi_runtime.container import write_atomically
from piqi_runtime.table import OperatingPoint

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser("compare", help="compare searches over accuracy targets")
    parser.add_argument("--profile", type=Path, required=True, metavar="DIR", help="folder of the four CSV files")
    parser.add_argument("--model", required=True, metavar="NAME", help="a model of the profile")
    parser.add_argument("--accuracy-model", type=Path, required=True, metavar="FILE", help=".h5, .keras or .json")
    parser.add_argument(
        "--targets", metavar="A,B,...", help="accuracy floors in percent (default: the published ones of the model)"
    )
    parser.add_argument(
        "--searches", default=",".join(SEARCHES), help="the last is compared with the others (default: all)"
    )
    parser.add_argument("--cost", choices=get_args(CostName), default="published", help="default: published")
    parser.add_argument("--genes", choices=("all", "published"), default="published", help="default: published")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for each search at each target")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--reference", type=float, nargs=2, metavar=("LATENCY_MS", "POWER_MW"), help="default: the published one"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="finished runs in it are kept")
    parser.set_defaults(function=main)


def main(arguments: argparse.Namespace) -> None:
    """Makes the runs that are missing, writes hypervolumes.csv and report.html, says where they are."""
    published = published_results(arguments.model)
    searches, targets = _searches(arguments.searches), _targets(arguments.targets, published)
    reference = _reference(arguments.reference, published)
    profile = load_profile(arguments.profile).model(arguments.model)
    cost = make_cost(arguments.cost, profile)
    accuracy = load_accuracy_model(arguments.accuracy_model)
    if accuracy.layers != profile.layer_count:
        raise CompareError(
            f"{arguments.accuracy_model}: expected {profile.layer_count} layers for {profile.name}, "
            f"got {accuracy.layers}"
        )
    states = profile.states_for(arguments.genes)
    comparison = Comparison(arguments.out, reference, _settings(arguments, reference))
    comparison.open()

    def find(name: str, target: float) -> list[OperatingPoint]:
        try:
            with _whole_or_not():
                fronts = search(
                    name, cost, accuracy, [target], states=states, seed=arguments.seed, budget_s=arguments.budget
                )
        except SearchError as error:  # a floor out of reach is a result too
            print(f"note: {name} at {target:g}: {error}", file=sys.stderr)
            return []
        return operating_points(profile, fronts[target], name, arguments.seed)

    todo = comparison.missing(searches, targets)
    for _ in progress(comparison.run(todo, find), len(todo), "searching"):
        pass
    comparison.write_hypervolumes()
    as_published = arguments.cost == arguments.genes == "published"
    if published is not None and (not as_published or reference != published.reference):
        published = None
    singles = single_processor_fronts(profile, cost)
    single_masks = np.repeat([[processor.kind == "npu"] for processor in profile.processors], profile.layer_count, 1)
    single_accuracy = dict(zip(profile.letters, accuracy.predict(single_masks).tolist(), strict=True))
    page = comparison_report(comparison, searches, targets, singles, single_accuracy, published)
    write_atomically(arguments.out / "report.html", [page.encode()])
    kept = len(searches) * len(targets) - len(todo)
    print(f"{arguments.out / 'report.html'}: {len(todo)} runs made, {kept} taken from before")


@contextmanager
def _whole_or_not() -> Iterator[None]:
    """A search that is interrupted gives what it has: raises KeyboardInterrupt all the same, to have it made again."""
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _searches(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in SEARCHES:
            raise CompareError(f"--searches: expected some of {','.join(SEARCHES)}, got {name!r}")
    return names


def _targets(text: str | None, published: PublishedResults | None) -> list[float]:
    if text is None:
        if published is None:
            raise CompareError("--targets: there are no published ones for this model, name some")
        return [target.accuracy for target in published.targets]
    targets = []
    for part in text.split(","):
        try:
            targets.append(float(part))
        except ValueError:
            raise CompareError(f"--targets: expected numbers between commas, got {part!r}") from None
        if not 0 <= targets[-1] <= 100:
            raise CompareError(f"--targets: expected percent, 0 to 100, got {part!r}")
    return sorted(set(targets))


def _reference(values: list[float] | None, published: PublishedResults | None) -> tuple[float, float]:
    if values is None:
        if published is None:
            raise CompareError("--reference: there is no published one for this model, name one")
        return published.reference
    if not all(value > 0 and math.isfinite(value) for value in values):
        raise CompareError(f"--reference: expected two positive numbers, got {values[0]} {values[1]}")
    return values[0], values[1]


def _settings(arguments: argparse.Namespace, reference: tuple[float, float]) -> dict[str, object]:
    """What runs depend on; of files their content, not their place."""
    return {
        "model": arguments.model,
        "profile": _digest(*sorted(arguments.profile.glob("*.csv"))),
        "accuracy_model": _digest(arguments.accuracy_model),
        "cost": arguments.cost,
        "genes": arguments.genes,
        "budget": arguments.budget,
        "seed": arguments.seed,
        "reference": reference,
    }


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
