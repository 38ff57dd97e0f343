"""What one build works on: its options, its working folder, and what the stages left there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from piqi_planner.build.options import BuildError, BuildOptions
from piqi_planner.build.stages import Stages
from piqi_planner.cost import CostModel, CostParameters, make_cost, shipped_parameters
from piqi_planner.evaluate import npu_scheme
from piqi_planner.evaluation.dataset import EvaluationSet, open_evaluation_set
from piqi_planner.evaluation.evaluator import Evaluator
from piqi_planner.evaluation.metrics import make_metric
from piqi_planner.evaluation.store import EvaluationStore
from piqi_planner.evaluation.tasks import EvaluationContext
from piqi_planner.evaluation.workers import DaskWorkers, LocalWorkers, Workers, parse_bytes
from piqi_planner.profile import ModelProfile, load_profile
from piqi_planner.quantise import QuantisedModel, load_calibration, quantise
from piqi_runtime.boards import load_board
from piqi_runtime.container import load_model
from piqi_runtime.model import Model

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

#: Told the share of a stage that is done.
Report = Callable[[float], None]


class Project:
    """Properties give what a stage made, from its files. Use as a context manager: workers end with it."""

    def __init__(self, options: BuildOptions) -> None:
        self.options = options
        self.board = load_board(options.board)
        self.stages = Stages(options.work_folder)
        self.path = self.stages.path
        self.jobs = options.jobs or len(os.sched_getaffinity(0))
        self._open = ExitStack()
        if all(processor.kind != "npu" for processor in self.board.processors):
            raise BuildError(f"--board: {self.board.name} has no NPU, so there is nothing to quantise")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def model(self) -> Model:
        """The float network with its layers, as imported."""
        return load_model(self.path("model.piqi"))

    @cached_property
    def quantised(self) -> QuantisedModel:
        """Both forms of it, from the calibration."""
        return quantise(self.model, load_calibration(self.path("calibration.json")), npu_scheme(self.board))

    @cached_property
    def profile(self) -> ModelProfile:
        """The costs of its layers."""
        return load_profile(self.path("profile"), self.board).model(self.options.model_name)

    @cached_property
    def cost(self) -> CostModel:
        """The cost model on that profile."""
        return make_cost(self.options.cost, self.profile, self.cost_parameters)

    @property
    def cost_parameters(self) -> CostParameters:
        """Those of the calibrated model on this board."""
        return shipped_parameters(self.options.model_name, self.board.name)

    @cached_property
    def dataset(self) -> EvaluationSet:
        """The images that accuracy is measured on."""
        options = self.options
        return open_evaluation_set(
            options.evaluate,
            self.model.tensors[self.model.inputs[0]].shape,
            self.path("images"),
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

    @cached_property
    def workers(self) -> Workers:
        """Where evaluations run."""
        options = self.options
        memory = parse_bytes(options.memory) if options.memory else None
        if options.dask:
            return self._open.enter_context(DaskWorkers(self.context, options.dask))
        return self._open.enter_context(LocalWorkers(self.context, memory, self.jobs))

    @cached_property
    def evaluator(self) -> Evaluator:
        """Accuracies of masks."""
        store = EvaluationStore(self.path("evaluations.sqlite"), self.context.key)
        self._open.enter_context(store)
        return Evaluator(self.context, store, self.workers, self.options.confidence)
