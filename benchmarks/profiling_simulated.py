"""A profile of MobileNet recovered from a simulated RK3399Pro that the published measurements drive.

python benchmarks/profiling_simulated.py [--data DIR] [--repeats N] [--seconds S] [--points N] [--work DIR]

`planner kit`, `piqictl profile` with all operating points, `piqictl measure`'s measurement of random points; then how
near the profile is to the one that drove the board, beside it the estimate that needs no measuring (its parameters were
fitted to these measurements, among others);
how near predictions of whole points are; and what profiling took beside the frames that it measured. Some 10 minutes.
What was measured stays in DIR, so a second run is short.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from piqi_planner.cost import CostParameters, cost_errors, cross_validate, make_cost, read_measured  # noqa: E402
from piqi_planner.estimate import NETWORKS, estimate_profile  # noqa: E402
from piqi_planner.profile import ModelProfile, format_configuration, load_profile  # noqa: E402
from piqi_runtime.boards import load_board  # noqa: E402
from piqi_runtime.bundle import Bundle, load_bundle  # noqa: E402
from piqi_runtime.profiling import Conditions, measure_points  # noqa: E402
from piqi_runtime.report import format_table  # noqa: E402
from piqi_runtime.table import OperatingPoint  # noqa: E402
from simulated_board import kit as prepared  # noqa: E402
from simulated_board.compare import compare  # noqa: E402
from simulated_board.process import RunningBoard  # noqa: E402

DATA = ROOT.parent / "shared/data"
NAME, BOARD = "MobileV1", "rk3399pro"
SWITCHES = 3  # of the processor, at most, in a random point


def random_points(profile: ModelProfile, kit: Bundle, count: int, seed: int = 0) -> list[OperatingPoint]:
    """One range of layers that has a partition on the NPU, or none; up to SWITCHES pieces of other processors."""
    rng = np.random.default_rng(seed)
    letters = np.array([profile.processors[state.processor].letter for state in profile.states])
    cost = make_cost("calibrated", profile, CostParameters())
    points = []
    for _ in range(count):
        cuts = np.sort(rng.integers(0, profile.layer_count, SWITCHES))
        order = [str(rng.choice(list("LBG")))] * profile.layer_count
        for cut in cuts:
            order[cut:] = [str(rng.choice(list("LBG")))] * (profile.layer_count - cut)
        if rng.random() < 0.7:
            first, last = kit.ranges[rng.integers(len(kit.ranges))]
            order[first : last + 1] = "N" * (last + 1 - first)
        config = np.array([rng.choice(np.flatnonzero(letters == letter)) for letter in order])
        costs = cost.evaluate(config[np.newaxis])
        text, freqs = format_configuration(profile, config)
        points.append(
            OperatingPoint(
                order=text,
                freqs=freqs,
                latency_ms=float(costs.latency_ms[0]),
                power_mw=float(costs.power_mw[0]),
                energy_mj=float(costs.energy_mj[0]),
                accuracy=100.0,
            )
        )
    return points


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=1, help="rounds of profiling (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of frames in a block (%(default)s)")
    parser.add_argument("--points", type=int, default=24, help="whole points (%(default)s)")
    parser.add_argument("--work", type=Path, help="what was measured (default: a folder that is removed)")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"no reference data: {arguments.data} is missing")
    with tempfile.TemporaryDirectory() as scratch:
        run(arguments, arguments.work or Path(scratch))


def run(arguments: argparse.Namespace, work: Path) -> None:
    """All of it, in `work`."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    network = arguments.data / "models/mobilenet_v1_0.75_224.tflite"
    board = load_board(BOARD)
    driving = load_profile(arguments.data / BOARD, board).model(NAME)
    with RunningBoard(work / "root", arguments.data / BOARD, NAME, BOARD) as running:
        os.environ.update(running.environment)

        def command(module: str, *words: object) -> None:
            subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True, stdout=sys.stderr)

        model = [network, "--board", BOARD, "--layers", "block", "--name", NAME]
        images = ["--calibrate", arguments.data / "images/imagenet1000", "--calibration-frames", 16]
        if not (work / "kit").exists():
            command("piqi_planner.cli", "kit", *model, *images, "--out", work / "kit")
            prepared.prepare(work / "kit", work)
        conditions = ["--root", running.root, "--meter", running.meter, "--marker", running.marker]
        conditions += ["--repeats", arguments.repeats, "--seconds", arguments.seconds]
        command("piqi_runtime.ctl", "profile", work / "kit", *conditions, "--out", work / "profile")
        # Of the network that the published measurements are of, whose width is 1.
        estimate_profile(NETWORKS[NAME](), board, NAME).save(work / "estimate")
        recovered, estimated = (load_profile(work / name, board).model(NAME) for name in ("profile", "estimate"))
        kit = load_bundle(work / "kit", board, verify=False, kits=True)
        points = random_points(driving, kit, arguments.points)
        how = Conditions(running.root, running.meter, running.marker, repeats=1, frames=12)
        measure_points(kit, board, points, work / "measured.csv", how)
    rows: list[tuple[str, ...]] = [("errors by phase", "values", "median %", "mean %", "most %", "estimated: median %")]
    guesses = compare(driving, estimated)
    for name, found in compare(driving, recovered).items():
        errors = (f"{100 * error:.2f}" for error in (found.median, found.mean, found.most, guesses[name].median))
        rows.append((name, str(found.count), *errors))
    print(format_table(rows))
    rows = [("whole points, mean error", "latency %", "power %", "energy %")]
    for title, profile in (("recovered profile", recovered), ("estimated profile", estimated)):
        measured = read_measured(profile, work / "measured.csv")
        plain = make_cost("calibrated", profile, CostParameters()).evaluate(measured.configs)
        fitted = cross_validate(profile, measured)
        for how_fitted, costs in (("nothing fitted", plain), ("calibrated, each point unseen", fitted)):
            errors = (f"{error['mae_percent']:.2f}" for error in cost_errors(costs, measured).values())
            rows.append((f"{title}, {how_fitted}", *errors))
    print(f"\n{format_table(rows)}")


if __name__ == "__main__":
    main()
