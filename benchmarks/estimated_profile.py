"""Errors of the estimated profile on networks that its parameters were not fitted to.

python benchmarks/estimated_profile.py [--data DIR]

Leave one model out: median of the absolute relative error of a layer's time, of the sum over a model's layers, and of
a layer's power, over all operating points. `L B G`: of the three together, which is what the aims are for. The NPU has
two models only, each predicted from the other alone. `transfers`: leave one model out too, at the lowest frequencies.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np

from piqi_planner.estimate import NETWORKS, Measurements, Unseen, leave_one_out, median_percent
from piqi_planner.estimate.transfers import MB, fit_transfers
from piqi_planner.profile import Profile, load_profile
from piqi_runtime.boards import load_board
from piqi_runtime.profile_tables import TRANSFERS
from piqi_runtime.report import format_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
AIMS = {"layer": 25.0, "model": 15.0}


def transfer_errors(profile: Profile, measurements: Measurements) -> np.ndarray:
    """Relative errors of all transfers of size known, each predicted without its model."""
    works = {name: measurements.network_works(name) for name in measurements.models}
    errors = []
    for name in measurements.models:
        others = {other: work for other, work in works.items() if other != name}
        lines = fit_transfers(profile, measurements.board, others)
        for row in profile.rows[TRANSFERS.name]:
            model, layer, source, destination, time_ms = cast("tuple[str, int, str, str, float]", row.values)
            size = works[name][layer].bytes_sent if model == name else 0
            if size and time_ms > 0:
                line = lines[source + destination]
                errors.append((line.call_ms + line.ms_per_mb * size / MB) / time_ms - 1)
    return np.array(errors)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    board = load_board("rk3399pro")
    profile = load_profile(arguments.data / "rk3399pro", board)
    measurements = Measurements(profile, board, {name: build() for name, build in NETWORKS.items()})
    unseen = {letter: leave_one_out(measurements, letter) for letter in board.letters}
    rows: list[tuple[str, ...]] = [("processor", "left out", "layer %", "model %", "power %")]

    def add(letters: str, name: str, some: list[Unseen]) -> None:
        errors = ([one.layers for one in some], [one.totals for one in some], [one.power for one in some])
        rows.append((letters, name, *(f"{median_percent(found):.1f}" for found in errors)))

    for letter, some in unseen.items():
        for one in some:
            add(letter, one.model, [one])
        add(letter, "all", some)
    add("L B G", "all", [one for letter in "LBG" for one in unseen[letter]])
    rows.append(("L B G", "wanted", f"<= {AIMS['layer']:.0f}", f"<= {AIMS['model']:.0f}", ""))
    rows.append(("transfers", "all", f"{median_percent([transfer_errors(profile, measurements)]):.1f}", "", ""))
    print(format_table(rows, left=(0, 1)))


if __name__ == "__main__":
    main()
