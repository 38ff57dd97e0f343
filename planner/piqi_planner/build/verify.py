"""Checks the store against the executor: the same frames, the whole path, bit for bit the same records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.build.simulated import simulated
from piqi_runtime import Engine
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from piqi_planner.evaluation.evaluator import Evaluator
    from piqi_planner.evaluation.tasks import EvaluationContext
    from piqi_planner.quantise import QuantisedModel
    from piqi_runtime.boards import Board
    from piqi_runtime.table import OperatingPoint

FRAMES = 8


class VerificationError(PiqiError):
    """The executor gives something else than what accuracy was measured with. Names point and frame."""


def verify(
    point: OperatingPoint,
    mask: npt.NDArray[np.bool_],
    quantised: QuantisedModel,
    board: Board,
    context: EvaluationContext,
    evaluator: Evaluator,
) -> int:
    """Runs a point on emulated processors; the number of frames that were compared. Raises VerificationError."""
    assert context.dataset is not None
    (name,) = context.exact.inputs
    count = min(FRAMES, len(context.dataset))
    frames = context.dataset.frames(0, count)
    stored = evaluator.records(mask)[:count]
    with (
        Engine(quantised.float_model, simulated(board)) as engine,
        engine.executor(point.order, point.freqs, quantised.partition) as executor,
    ):
        for number in range(count):
            outputs = executor.run({name: frames[number : number + 1]})
            (record,) = context.metric.records(number, outputs)
            if not np.array_equal(record, stored[number]):
                raise VerificationError(
                    f"{point.order}: frame {number}: the executor gives {record.tolist()}, the evaluation had "
                    f"{stored[number].tolist()}"
                )
    return count
