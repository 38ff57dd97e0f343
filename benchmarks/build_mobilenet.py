"""A whole `planner build` of MobileNet-0.75, and how far its front is from knowing the accuracy of every mask.

python benchmarks/build_mobilenet.py [--images N] [--exhaustive N] [--work DIR]

The first part builds with all images and prints time, masks measured and peak memory of all its processes together.
The second builds with N of the images and then evaluates all 2^14 masks on the same ones (the trie: each beginning
once); both fronts are compared by their hypervolume in latency and power, the mean over accuracy floors. What was
evaluated stays in DIR, so a second run is short.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from piqi_planner.build.files import read_masks
from piqi_planner.build.options import BuildOptions
from piqi_planner.build.pipeline import STAGES, Build
from piqi_planner.build.sampling import FINAL_LEVELS, MaskFronts, MeasuredAccuracy, mean_hypervolume, reference_point
from piqi_planner.progress import StageBars, share_bar
from piqi_planner.search import Problem
from piqi_runtime.table import load_table

SHARED = Path(__file__).resolve().parents[2] / "shared/data"


class PeakMemory:
    """Peak of the resident memory of this process and its children together, sampled; shared pages count twice."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes(os.getpid()))


def _resident_bytes(process: int) -> int:
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGESIZE") + sum(_resident_bytes(int(child)) for child in children)


def build(work: Path, limit: int) -> Build:
    """Builds with that many images; prints a line."""
    options = BuildOptions(
        model=SHARED / "models/mobilenet_v1_0.75_224.tflite",
        layers="block",
        calibrate=SHARED / "images/imagenet1000",
        evaluate=SHARED / "images/imagenet1000",
        limit=limit,
        out=work / f"bundle{limit}",
    )
    began = time.perf_counter()
    with PeakMemory() as memory, StageBars(STAGES) as bars, Build(options, bars) as made:
        made.run()
    seconds = time.perf_counter() - began
    masks = len(_read_masks(made))
    points = len(load_table(options.work_folder / "table.json").points)
    print(
        f"{limit} images: {seconds / 60:.1f} min (aim 30 with 1000), {masks} masks measured, {points} points, "
        f"peak {memory.peak_bytes / 2**20:.0f} MiB (aim 2048)",
        flush=True,
    )
    return made


def compare(made: Build) -> None:
    """All masks on the same images; prints both hypervolumes."""
    layers = made.model.layer_count
    everything = np.array(list(product((False, True), repeat=layers)))
    known = _read_masks(made)
    with Build(made.options, StageBars(STAGES)) as again:
        evaluator = again.evaluator
        began = time.perf_counter()
        with share_bar(f"all {len(everything)} masks") as progress:
            evaluator.evaluate(everything, progress)
        seconds = time.perf_counter() - began
        value = {mask.tobytes(): evaluator.summary(mask).value for mask in everything}
        fronts = MaskFronts(again.cost, again.profile.states_for("published"))
        problem = Problem(again.cost, MeasuredAccuracy(known, np.zeros(len(known))), again.profile.states_for("all"))
        levels = np.linspace(min(value.values()), max(value.values()), FINAL_LEVELS)
        inner = levels[levels <= max(value[mask.tobytes()] for mask in known)]
        volumes = []
        for masks in (known, everything):
            owner, latency_ms, power_mw = fronts.of(masks)
            accuracy = np.array([value[mask.tobytes()] for mask in masks])[owner]
            volumes.append(
                [
                    mean_hypervolume(latency_ms, power_mw, accuracy, which, reference_point(problem))
                    for which in (levels, inner)
                ]
            )
    print(f"all {len(everything)} masks: {seconds / 60:.1f} min")
    print(f"hypervolume, {FINAL_LEVELS} floors from the least to the greatest accuracy of any mask: ", end="")
    print(f"{volumes[0][0]:.5f} of {volumes[1][0]:.5f}, ratio {volumes[0][0] / volumes[1][0]:.4f} (aim 0.99)")
    print(
        f"the same for the {len(inner)} floors that a measured mask reaches: ratio {volumes[0][1] / volumes[1][1]:.4f}"
    )


def _read_masks(made: Build) -> npt.NDArray[np.bool_]:
    return read_masks(made.options.work_folder / "samples.csv", made.model.layer_count)


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="of the whole build; 0: none (default: 1000)")
    parser.add_argument("--exhaustive", type=int, default=100, help="images of the comparison; 0: none (default: 100)")
    parser.add_argument(
        "--work", type=Path, default=Path("build/build_mobilenet"), help="default: build/build_mobilenet"
    )
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        raise SystemExit(f"the reference data is not there: {SHARED}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.images:
        build(arguments.work, arguments.images)
    if arguments.exhaustive:
        compare(build(arguments.work, arguments.exhaustive))


if __name__ == "__main__":
    main()
