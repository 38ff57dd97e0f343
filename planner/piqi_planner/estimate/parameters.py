"""The `estimate` section of a board file: parameters of the analytic model of its processors.

Times are sums of rates times amounts of work, in ns for one unit of it; powers are of the whole board, in mW. Both
depend on frequencies as shares of the highest one, so that all parameters are those at full speed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piqi_runtime.boards import Board
from piqi_runtime.errors import PiqiError

#: Kinds of work, and what is counted: see `piqi_planner.estimate.work`.
WorkKind = Literal[
    "layer",
    "operator",
    "gemm",
    "winograd",
    "transform",
    "gather",
    "activation",
    "weight",
    "vector",
    "window",
    "elementwise",
    "transcendental",
]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EstimateError(PiqiError):
    """What cannot be estimated or fitted, and why."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Section):
    """Time in ns for one unit of work: `own` x highest / own frequency + `host` x highest / host's + `fixed`."""

    own: Amount = 0.0
    host: Amount = 0.0
    fixed: Amount = 0.0

    def time_ns(self, own: float, host: float) -> float:
        """At frequencies as shares of the highest."""
        return self.own / own + self.host / host + self.fixed


class Copy(_Section):
    """A copy between memories: `call` ns, and `element` ns for each element."""

    call: Rate = Rate()
    element: Rate = Rate()


class PowerModel(_Section):
    """Power of the whole board in mW, frequencies f as shares of the highest, u the share of the time that is work
    rather than launch:

    base + linear f + cubic f^3 + u (busy_linear f + busy_cubic f^3) + host_linear f_host + host_cubic f_host^3
    """

    base: Amount
    linear: Amount = 0.0
    cubic: Amount = 0.0
    busy_linear: Amount = 0.0
    busy_cubic: Amount = 0.0
    host_linear: Amount = 0.0
    host_cubic: Amount = 0.0


class Delays(_Section):
    """ms until a frequency is there: a higher one, a lower one, the same one."""

    up_ms: Amount = 0.0
    down_ms: Amount = 0.0
    same_ms: Amount = 0.0


class ProcessorEstimate(_Section):
    """One processor.

    - `work`: rate of each kind of work; a kind that is not named takes no time.
    - `power`: while a layer runs; `input_power`: while the input is prepared.
    - `input`, `output`: the phases before the first layer and behind the last.
    - `delays`: changes of its frequency.
    - `load`, `get`, `fill`: an NPU's copies in, out, and into the host's tensor.
    """

    work: dict[WorkKind, Rate]
    power: PowerModel
    input: Copy
    input_power: PowerModel
    output: Copy
    delays: Delays = Delays()
    load: Copy = Copy()
    get: Copy = Copy()
    fill: Copy = Copy()


class TransferEstimate(_Section):
    """From one processor to another: `call_ms` + `ms_per_mb` (10^6 bytes) at the lowest frequencies.

    The time scales with `fixed_share` + (1 - `fixed_share`) x lowest / f, where f is the frequency of the CPU that
    copies; `power` is by that f.
    """

    call_ms: Amount
    ms_per_mb: Amount
    fixed_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    power: PowerModel


class BoardEstimate(_Section):
    """`basis`: fitted to a measured profile, or derived from public figures and never measured.

    `processors`: by letter. `transfers`: by both letters, "BG" from B to G.
    """

    basis: Literal["fitted", "public figures"]
    provenance: str
    processors: dict[Annotated[str, Field(pattern="^[A-Z]$")], ProcessorEstimate]
    transfers: dict[Annotated[str, Field(pattern="^[A-Z]{2}$")], TransferEstimate]


def board_estimate(board: Board) -> BoardEstimate | None:
    """The parameters of a board file, None if it has none. Raises EstimateError naming board, field and value."""
    if board.estimate is None:
        return None
    where = f"board {board.name}: estimate"
    try:
        found = BoardEstimate.model_validate(board.estimate)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise EstimateError(f"{where}.{field}: {problem['msg']}, got {str(problem['input'])[:80]!r}") from error
    for section, keys in (("processors", found.processors), ("transfers", found.transfers)):
        for key in keys:
            if not set(key) <= set(board.letters):
                raise EstimateError(f"{where}.{section}: must name processors of {board.letters}, got {key!r}")
    return found
