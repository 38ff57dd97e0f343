"""`planner build`: every stage in its order, each with its files in the working folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_planner.build import files
from piqi_planner.build.characterise import Characterisation, characterise, write_characterisation
from piqi_planner.build.masks import one_layer_masks, two_layer_masks
from piqi_planner.build.options import BuildError, BuildOptions
from piqi_planner.build.page import build_page
from piqi_planner.build.project import Project, Report
from piqi_planner.build.sampling import ActiveSampling, Floor
from piqi_planner.build.stages import file_hash
from piqi_planner.build.thin import thin
from piqi_planner.build.verify import verify
from piqi_planner.commands.table import make_table
from piqi_planner.estimate import estimate_profile, read_measured_rows
from piqi_planner.evaluation.dataset import open_evaluation_set
from piqi_planner.front import operating_points, read_front, write_front
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, describe_layers, parse_layers
from piqi_planner.quantise import calibrate, save_calibration
from piqi_planner.search.settle import settle
from piqi_runtime.bundle import Bundle, BundleInput, BundleOutput, load_bundle, write_bundle
from piqi_runtime.container import content_hash, save_model
from piqi_runtime.dvfs_delays import BUNDLED
from piqi_runtime.profile_tables import DVFS_DELAY
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, load_table, save_table

if TYPE_CHECKING:
    from piqi_planner.progress import StageBars

#: Stages in their order, with the share of a build's time that each usually takes.
STAGES = {
    "import": 0.01,
    "calibrate": 0.04,
    "profile": 0.02,
    "sample": 0.40,
    "characterise": 0.01,
    "refine": 0.38,
    "front": 0.07,
    "verify": 0.02,
    "report": 0.02,
    "bundle": 0.03,
}
OutputKind = Literal["classes", "boxes", "raw"]
_KINDS: dict[str, OutputKind] = {
    "top1": "classes",
    "top5": "classes",
    "map": "boxes",
    "map50": "boxes",
}
#: Options that are paths or say how the work was shared out: the same inputs give the same bundle.
_NOT_IN_BUNDLE = {name for name, field in BuildOptions.model_fields.items() if "Path" in str(field.annotation)} | {
    "jobs",
    "memory",
    "dask",
}
VERIFIED = 6  # points that are run whole
SHIPPED_FRAMES = 16  # inputs in the bundle, for vendors' tools


class Build(Project):
    """The stages of one build."""

    def __init__(self, options: BuildOptions, bars: StageBars) -> None:
        super().__init__(options)
        self._bars = bars

    def run(self, last: str = "bundle") -> None:
        """All stages up to `last`, one of STAGES. Raises PiqiError."""
        for name in STAGES:
            getattr(self, f"_{name}")()
            if name == last:
                return

    @cached_property
    def bundle(self) -> Bundle:
        """What the last stage made."""
        return load_bundle(self.options.out, self.board)

    def _stage(self, name: str, key: dict[str, Any], made: list[str], make: Callable[[Report], None]) -> None:
        with self._bars.stage(name) as progress:
            self.stages.run(name, {"version": piqi_native.__version__, **key}, made, lambda: make(progress))

    def _import(self) -> None:
        options = self.options

        def make(progress: Report) -> None:
            model = assign_layers(import_model(options.model), parse_layers(options.layers))
            if len(model.inputs) != 1:
                raise BuildError(f"{options.model}: has {len(model.inputs)} inputs, images fill one")
            save_model(model, self.path("model.piqi"))

        if not options.model.is_file():
            raise BuildError(f"{options.model}: no such file")
        key = {"model": file_hash(options.model), **options.plain("layers")}
        self._stage("import", key, ["model.piqi"], make)

    def _calibrate(self) -> None:
        options = self.options
        shape = self.model.tensors[self.model.inputs[0]].shape
        images = open_evaluation_set(
            options.calibrate,
            shape,
            self.path("images"),
            preprocessing=options.preprocess,
            fit=options.fit,
            limit=options.calibration_frames,
        )

        def make(progress: Report) -> None:
            def frames() -> Iterator[Any]:
                for number in range(len(images)):
                    yield images.frames(number, 1)
                    progress((number + 1) / len(images))

            calibration = calibrate(self.model, frames(), options.observer, threads=self.jobs)
            save_calibration(calibration, self.path("calibration.json"))
            files.write_frames(
                self.path("frames.npz"),
                {self.model.inputs[0]: images.frames(0, min(SHIPPED_FRAMES, len(images)))},
            )

        key = {"model": content_hash(self.model), "images": images.content_hash, **options.plain("observer")}
        self._stage("calibrate", key, ["calibration.json", "frames.npz"], make)

    def _profile(self) -> None:
        options = self.options

        def make(progress: Report) -> None:
            measured = read_measured_rows(options.profile, self.board) if options.profile else None
            name = options.model_name
            estimate_profile(self.model, self.board, name, measured).save(self.path("profile"))

        key = {
            "model": content_hash(self.model),
            "board": self.board.model_dump(mode="json"),
            "name": options.model_name,
            "measured": file_hash(options.profile) if options.profile else None,
        }
        self._stage("profile", key, ["profile"], make)

    def _sample(self) -> None:
        with self._bars.stage("sample") as progress:
            self._sampling.start(progress)

    def _characterise(self) -> None:
        with self._bars.stage("characterise"):
            write_characterisation(self.stages.folder, self._characterisation)

    def _refine(self) -> None:
        options = self.options
        key = {
            "evaluations": self.context.key,
            "profile": file_hash(self.path("profile")),
            **options.plain("cost", "samples", "pairs", "seed", "confidence", "min_accuracy", "max_loss"),
        }

        def make(progress: Report) -> None:
            self._sampling.refine(progress)
            files.write_samples(self.path("samples.csv"), self._sampling.masks(), self.evaluator)
            files.write_json(self.path("rounds.json"), self._sampling.history)

        self._stage("refine", key, ["samples.csv", "rounds.json"], make)

    def _front(self) -> None:
        options = self.options
        key = {
            "samples": file_hash(self.path("samples.csv")),
            "profile": file_hash(self.path("profile")),
            **options.plain("cost", "seed", "points", "min_accuracy", "max_loss", "confidence", "metric"),
        }

        def make(progress: Report) -> None:
            self._sampling.adopt(files.read_masks(self.path("samples.csv"), self.model.layer_count))
            front = thin(settle(self._sampling.front(progress), self.profile, self.cost), options.points)
            predicted = operating_points(self.profile, front, "piqi", options.seed)
            masks = self.profile.is_npu[front.configs]
            points = [self._measured(point, mask) for point, mask in zip(predicted, masks, strict=True)]
            write_front(self.path("front.csv"), points)
            save_table(self._table(points), self.path("table.json"))

        self._stage("front", key, ["front.csv", "table.json"], make)

    def _verify(self) -> None:
        key = {"front": file_hash(self.path("front.csv")), "evaluations": self.context.key}

        def make(progress: Report) -> None:
            masks: dict[str, OperatingPoint] = {}
            for point in read_front(self.path("front.csv")):
                masks.setdefault(point.order, point)
            points = list(masks.values())
            chosen = [points[place] for place in np.unique(np.linspace(0, len(points) - 1, VERIFIED).astype(int))]
            npus = {p.letter for p in self.board.processors if p.kind == "npu"}
            compared = []
            for number, point in enumerate(chosen):
                mask = np.array([letter in npus for letter in point.order])
                frames = verify(point, mask, self.quantised, self.board, self.context, self.evaluator)
                compared.append({"order": point.order, "frames": frames})
                progress((number + 1) / len(chosen))
            files.write_json(self.path("verification.json"), compared)

        self._stage("verify", key, ["verification.json"], make)

    def _report(self) -> None:
        with self._bars.stage("report"):
            files.write(self.path("report.html"), build_page(self, self._characterisation).encode())

    def _bundle(self) -> None:
        options = self.options
        tensors = self.model.tensors
        kind: OutputKind = _KINDS.get(options.metric, "raw")
        shape = tensors[self.model.inputs[0]].shape
        with self._bars.stage("bundle"):
            write_bundle(
                options.out,
                model=self.quantised.float_model,
                table=load_table(self.path("table.json")),
                partitions=self.quantised.partition,
                input=BundleInput(
                    name=self.model.inputs[0],
                    shape=shape,
                    preprocessing=options.preprocess,
                    fit=options.fit,
                    colour="grey" if shape[-1] == 1 else "rgb",
                ),
                outputs=[BundleOutput(name=name, shape=tensors[name].shape, kind=kind) for name in self.model.outputs],
                labels=_class_names(options.class_names),
                how_built=self._how_built(),
                extra_files={
                    "report/report.html": self.path("report.html"),
                    "calibration/frames.npz": self.path("frames.npz"),
                    BUNDLED: self.path("profile") / DVFS_DELAY.file_name,
                },
                board=self.board,
            )

    @cached_property
    def _sampling(self) -> ActiveSampling:
        options = self.options
        return ActiveSampling(
            self.evaluator,
            self.cost,
            self.profile.states_for("all"),
            self.profile.states_for("published"),
            Floor(options.min_accuracy, options.max_loss),
            samples=options.samples,
            pairs=options.pairs,
            seed=options.seed,
            pool=self.workers.pool,
        )

    @cached_property
    def _characterisation(self) -> Characterisation:
        layers = self.model.layer_count
        pairs = two_layer_masks(layers, self.options.pairs, self.options.seed)
        masks = np.concatenate([one_layer_masks(layers), pairs])
        names = [layer.name for layer in describe_layers(self.model)]
        return characterise(names, self.profile, self.cost, masks, self.evaluator)

    def _table(self, points: list[OperatingPoint]) -> ParetoTable:
        layers = self.model.layer_count
        exact, int8 = (self.evaluator.summary(np.full(layers, masked)) for masked in (False, True))
        metric = AccuracyMetric(
            name=self.options.metric,
            float32=exact.value,
            int8=int8.value,
            frames=exact.frames,
            confidence=self.options.confidence,
        )
        return make_table(points, self.board, self.options.model_name, metric, layers)

    def _measured(self, point: OperatingPoint, mask: npt.NDArray[np.bool_]) -> OperatingPoint:
        """The point with what its accuracy was measured to be."""
        summary = self.evaluator.summary(mask)
        return point.model_copy(
            update={
                "accuracy": summary.value,
                "accuracy_lower_bound": min(max(summary.lower_bound, 0.0), summary.value),
                "accuracy_standard_error": summary.standard_error,
                "accuracy_difference": summary.difference,
                "accuracy_difference_standard_error": summary.difference_standard_error,
                "accuracy_provenance": "measured",
            }
        )

    def _how_built(self) -> dict[str, Any]:
        """Options and what went in."""
        options = self.options.model_dump(mode="json", exclude_none=True)
        return {
            "options": {name: value for name, value in options.items() if name not in _NOT_IN_BUNDLE},
            "model_sha256": file_hash(self.options.model),
            "evaluations": self.context.key,
            "verification": json.loads(self.path("verification.json").read_bytes()),
        }


def _class_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: cannot be read: {error}") from error
