"""`planner build`: every stage in its order, each with its files in the working folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import piqi_native
from piqi_planner.accuracy import held_out, read_samples
from piqi_planner.build import files
from piqi_planner.build.characterise import characterise, write_characterisation
from piqi_planner.build.masks import one_layer_masks, two_layer_masks
from piqi_planner.build.options import BuildError, BuildOptions
from piqi_planner.build.report import ReportData, render_report, timeline
from piqi_planner.build.sampling import ActiveSampling, Floor
from piqi_planner.build.stages import Stages, file_hash
from piqi_planner.build.thin import thin
from piqi_planner.build.verify import verify
from piqi_planner.commands.table import make_table
from piqi_planner.cost import CostModel, make_cost, shipped_parameters
from piqi_planner.estimate import estimate_profile, read_measured_rows
from piqi_planner.evaluate import npu_scheme
from piqi_planner.evaluation.dataset import EvaluationSet, open_evaluation_set
from piqi_planner.evaluation.evaluator import Evaluator
from piqi_planner.evaluation.metrics import make_metric
from piqi_planner.evaluation.store import EvaluationStore
from piqi_planner.evaluation.tasks import EvaluationContext
from piqi_planner.evaluation.workers import DaskWorkers, LocalWorkers, Workers, parse_bytes
from piqi_planner.front import operating_points, read_front, single_processor_fronts, write_front
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, describe_layers, parse_layers
from piqi_planner.profile import ModelProfile, load_profile
from piqi_planner.quantise import QuantisedModel, calibrate, load_calibration, quantise, save_calibration
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import Bundle, BundleInput, BundleOutput, load_bundle, write_bundle
from piqi_runtime.container import content_hash, load_model, save_model
from piqi_runtime.model import Model
from piqi_runtime.table import AccuracyMetric, OperatingPoint, ParetoTable, load_table, save_table

if TYPE_CHECKING:
    from piqi_planner.progress import StageBars

#: Told the share of a stage that is done.
Report = Callable[[float], None]

#: Stages in their order, with the share of a build's time that each usually takes.
STAGES = {
    "import": 0.01,
    "calibrate": 0.04,
    "profile": 0.02,
    "sample": 0.40,
    "refine": 0.40,
    "front": 0.08,
    "verify": 0.02,
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
FILES = ("model.piqi", "calibration.json", "profile", "samples.csv", "front.csv", "table.json")


class Build:
    """One build. Properties give what a stage made, from its files."""

    def __init__(self, options: BuildOptions, bars: StageBars) -> None:
        self.options = options
        self.board = load_board(options.board)
        self.stages = Stages(options.work_folder)
        self.jobs = options.jobs or len(os.sched_getaffinity(0))
        self._bars = bars
        if all(processor.kind != "npu" for processor in self.board.processors):
            raise BuildError(f"--board: {self.board.name} has no NPU, so there is nothing to quantise")

    def run(self) -> Bundle:
        """All stages. Raises PiqiError."""
        self._import()
        self._calibrate()
        self._profile()
        with self._evaluator() as evaluator:
            sampling = self._sample(evaluator)
            self._characterise(evaluator)
            self._front(evaluator, sampling)
            self._verify(evaluator)
        return self._bundle()

    @cached_property
    def model(self) -> Model:
        """The float network with its layers, as imported."""
        return load_model(self.stages.path("model.piqi"))

    @cached_property
    def quantised(self) -> QuantisedModel:
        """Both forms of it, from the calibration."""
        return quantise(self.model, load_calibration(self.stages.path("calibration.json")), npu_scheme(self.board))

    @cached_property
    def profile(self) -> ModelProfile:
        """The costs of its layers."""
        return load_profile(self.stages.path("profile"), self.board).model(self.options.model_name)

    @cached_property
    def cost(self) -> CostModel:
        """The cost model on that profile."""
        return make_cost(self.options.cost, self.profile)

    @cached_property
    def dataset(self) -> EvaluationSet:
        """The images that accuracy is measured on."""
        options = self.options
        return open_evaluation_set(
            options.evaluate,
            self.model.tensors[self.model.inputs[0]].shape,
            self.stages.path("images"),
            labels=options.labels,
            annotations=options.annotations,
            preprocessing=options.preprocess,
            fit=options.fit,
            limit=options.limit,
        )

    @cached_property
    def context(self) -> EvaluationContext:
        """What evaluations share."""
        exact = self.quantised.float_model
        options = self.options
        metric = make_metric(options.metric, self.dataset, exact, options.output, options.detector)
        return EvaluationContext(exact, self.quantised.full().model, metric, self.dataset, self.dataset.content_hash)

    def _stage(self, name: str, key: dict[str, Any], made: list[str], make: Callable[[Report], None]) -> None:
        with self._bars.stage(name) as progress:
            self.stages.run(name, {"version": piqi_native.__version__, **key}, made, lambda: make(progress))

    def _import(self) -> None:
        options = self.options

        def make(progress: Report) -> None:
            model = assign_layers(import_model(options.model), parse_layers(options.layers))
            if len(model.inputs) != 1:
                raise BuildError(f"{options.model}: has {len(model.inputs)} inputs, images fill one")
            save_model(model, self.stages.path("model.piqi"))

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
            self.stages.path("images"),
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
            save_calibration(calibration, self.stages.path("calibration.json"))
            files.write_frames(
                self.stages.path("frames.npz"),
                {self.model.inputs[0]: images.frames(0, min(SHIPPED_FRAMES, len(images)))},
            )

        key = {"model": content_hash(self.model), "images": images.content_hash, **options.plain("observer")}
        self._stage("calibrate", key, ["calibration.json", "frames.npz"], make)

    def _profile(self) -> None:
        options = self.options

        def make(progress: Report) -> None:
            measured = read_measured_rows(options.profile, self.board) if options.profile else None
            name = options.model_name
            estimate_profile(self.model, self.board, name, measured).save(self.stages.path("profile"))

        key = {
            "model": content_hash(self.model),
            "board": self.board.model_dump(mode="json"),
            "name": options.model_name,
            "measured": file_hash(options.profile) if options.profile else None,
        }
        self._stage("profile", key, ["profile"], make)

    @contextmanager
    def _evaluator(self) -> Iterator[Evaluator]:
        options = self.options
        memory = parse_bytes(options.memory) if options.memory else None
        with ExitStack() as stack:
            store = stack.enter_context(EvaluationStore(self.stages.path("evaluations.sqlite"), self.context.key))
            workers: Workers = (
                DaskWorkers(self.context, options.dask)
                if options.dask
                else LocalWorkers(self.context, memory, self.jobs)
            )
            stack.enter_context(workers)
            yield Evaluator(self.context, store, workers, options.confidence)

    def _sample(self, evaluator: Evaluator) -> ActiveSampling:
        options = self.options
        sampling = ActiveSampling(
            evaluator,
            self.cost,
            self.profile.states_for("all"),
            self.profile.states_for("published"),
            Floor(options.min_accuracy, options.max_loss),
            samples=options.samples,
            pairs=options.pairs,
            seed=options.seed,
        )
        key = {
            "evaluations": self.context.key,
            "profile": file_hash(self.stages.path("profile")),
            **options.plain("cost", "samples", "pairs", "seed", "confidence", "min_accuracy", "max_loss"),
        }
        with self._bars.stage("sample") as progress:
            sampling.start(progress)

        def make(progress: Report) -> None:
            sampling.refine(progress)
            files.write_samples(self.stages.path("samples.csv"), sampling.masks(), evaluator)
            files.write_json(self.stages.path("rounds.json"), sampling.history)

        self._stage("refine", key, ["samples.csv", "rounds.json"], make)
        sampling.adopt(files.read_masks(self.stages.path("samples.csv"), self.model.layer_count))
        return sampling

    def _characterise(self, evaluator: Evaluator) -> None:
        layers = self.model.layer_count
        pairs = two_layer_masks(layers, self.options.pairs, self.options.seed)
        masks = np.concatenate([one_layer_masks(layers), pairs])
        names = [layer.name for layer in describe_layers(self.model)]
        self.characterisation = characterise(names, self.profile, self.cost, masks, evaluator)
        write_characterisation(self.stages.folder, self.characterisation)

    def _front(self, evaluator: Evaluator, sampling: ActiveSampling) -> None:
        options = self.options

        def make(progress: Report) -> None:
            front = thin(sampling.front(progress), options.points)
            points = [
                _measured(point, evaluator, self.profile.is_npu[config])
                for point, config in zip(
                    operating_points(self.profile, front, "piqi", options.seed), front.configs, strict=True
                )
            ]
            write_front(self.stages.path("front.csv"), points)
            save_table(self._table(points, evaluator), self.stages.path("table.json"))

        key = {
            "samples": file_hash(self.stages.path("samples.csv")),
            "profile": file_hash(self.stages.path("profile")),
            **options.plain("cost", "seed", "points", "min_accuracy", "max_loss", "confidence", "metric"),
        }
        self._stage("front", key, ["front.csv", "table.json"], make)

    def _table(self, points: list[OperatingPoint], evaluator: Evaluator) -> ParetoTable:
        layers = self.model.layer_count
        exact = evaluator.summary(np.zeros(layers, bool))
        int8 = evaluator.summary(np.ones(layers, bool))
        metric = AccuracyMetric(
            name=self.options.metric,
            float32=exact.value,
            int8=int8.value,
            frames=exact.frames,
            confidence=self.options.confidence,
        )
        return make_table(points, self.board, self.options.model_name, metric, layers)

    def _verify(self, evaluator: Evaluator) -> None:
        points = read_front(self.stages.path("front.csv"))
        chosen = [points[place] for place in np.unique(np.linspace(0, len(points) - 1, VERIFIED).astype(int))]
        npus = {p.letter for p in self.board.processors if p.kind == "npu"}

        def make(progress: Report) -> None:
            compared = []
            for number, point in enumerate(chosen):
                mask = np.array([letter in npus for letter in point.order])
                frames = verify(point, mask, self.quantised, self.board, self.context, evaluator)
                compared.append({"order": point.order, "frames": frames})
                progress((number + 1) / len(chosen))
            files.write_json(self.stages.path("verification.json"), compared)

        key = {"front": file_hash(self.stages.path("front.csv")), "evaluations": self.context.key}
        self._stage("verify", key, ["verification.json"], make)

    def _bundle(self) -> Bundle:
        options = self.options
        path = self.stages.path
        with self._bars.stage("bundle") as progress:
            table = load_table(path("table.json"))
            report = self._report(table)
            progress(0.3)
            tensors = self.model.tensors
            kind: OutputKind = _KINDS.get(options.metric, "raw")
            shape = tensors[self.model.inputs[0]].shape
            write_bundle(
                options.out,
                model=self.quantised.float_model,
                table=table,
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
                extra_files={"report/report.html": report.encode(), "calibration/frames.npz": path("frames.npz")},
                board=self.board,
            )
        return load_bundle(options.out, self.board)

    def _report(self, table: ParetoTable) -> str:
        """The page; it is left in the working folder too."""
        path = self.stages.path
        samples = read_samples(path("samples.csv"), self.model.layer_count, "accuracy")
        predicted, figures = held_out(samples, self.options.seed)
        best = {
            title: point
            for title, point in (
                ("fastest", table.best("latency")),
                ("least energy", table.best("energy")),
                ("least power", table.best("power")),
                ("most accurate", table.best("accuracy")),
            )
            if point is not None
        }
        page = render_report(
            ReportData(
                title=f"{table.model} on {table.board}",
                facts={
                    "images": f"{len(self.dataset)}, {self.options.evaluate.name}",
                    "metric": self.options.metric,
                    "masks measured": str(len(samples)),
                    "confidence of a bound": f"{self.options.confidence:g}",
                    "profile": "measured where it could be" if self.options.profile else "estimated",
                    "cost model": self.options.cost,
                },
                table=table,
                singles=single_processor_fronts(self.profile, self.cost),
                characterisation=self.characterisation,
                accuracy_figures=figures,
                predicted=predicted,
                measured=samples.accuracy_percent,
                history=[(int(masks), float(volume)) for masks, volume in json.loads(path("rounds.json").read_bytes())],
                cost_notes=self._cost_notes(),
                timelines={title: timeline(point, self.profile, self.cost) for title, point in best.items()},
                verified=json.loads(path("verification.json").read_bytes()),
            )
        )
        files.write(path("report.html"), page.encode())
        return page

    def _cost_notes(self) -> list[str]:
        options = self.options
        notes = [
            "Latency, power and energy are predictions of the cost model; measure points on the board to replace them."
        ]
        if options.cost == "calibrated":
            notes.append(f"Calibrated parameters: {shipped_parameters(options.model_name).provenance}.")
        if options.profile is None:
            notes.append(
                "No profile was measured for this model: layers' times and powers come from the board file's analytic "
                "model. docs/estimated_profile.md states its errors for models that it was not fitted to."
            )
        holes = self.profile.holes
        if holes:
            notes.append(f"{len(holes)} values of the profile were not measured and are filled in by rule.")
        return notes

    def _how_built(self) -> dict[str, Any]:
        """Options and what went in."""
        options = self.options.model_dump(mode="json", exclude_none=True)
        return {
            "options": {name: value for name, value in options.items() if name not in _NOT_IN_BUNDLE},
            "model_sha256": file_hash(self.options.model),
            "evaluations": self.context.key,
            "verification": json.loads(self.stages.path("verification.json").read_bytes()),
        }


def _measured(point: OperatingPoint, evaluator: Evaluator, mask: Any) -> OperatingPoint:
    """The point with what its accuracy was measured to be."""
    summary = evaluator.summary(np.asarray(mask))
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


def _class_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: cannot be read: {error}") from error
