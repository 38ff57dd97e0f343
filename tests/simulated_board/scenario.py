"""A small network, and a profile of it that no analytic model foresees, for a board of two operating points."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from piqi_planner.estimate import estimate_profile
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers, parse_layers
from piqi_planner.profile import Profile
from piqi_runtime.boards import BOARDS, Board, load_board
from piqi_runtime.model import Model
from piqi_runtime.profile_tables import DVFS_DELAY, LAYERS, TRANSFER_FREQUENCY, TRANSFERS, ProfileFacts, Row

FOLDER = Path(__file__).resolve().parent
BOARD = FOLDER / "board.toml"
NETWORK = FOLDER.parents[1] / "planner/piqi_planner/demo/digits.tflite"
CUTS = "2,4,6,8"
NAME = "digits"
SPREAD = 0.25
SLOWER = 2.0  # than the estimate, as of a larger network: what takes microseconds cannot be told from the waiting
NPU_SLOWER = 8.0
PHASES_SLOWER = {"input": 2.0, "output": 10.0, "npu_load": 4.0}
TRANSFER_CALL_MS = 1.5
NPU_RUN_SHRINK = 0.05
DELAYS = 0.4  # of changes of frequency: layers are as much shorter than a real network's


def network() -> Model:
    """Handwritten digits in five layers."""
    return assign_layers(import_model(NETWORK), parse_layers(CUTS))


def write_board(path: Path) -> Path:
    """The board's file, with RK3399Pro's analytic model: `planner build` estimates what a profile lacks."""
    _, heading, parameters = (BOARDS / "rk3399pro.toml").read_text().partition("\n[estimate]\n")
    path.write_text(BOARD.read_text() + heading + parameters)
    return path


def driving_profile(model: Model, board: Board, seed: int = 0) -> Profile:
    """RK3399Pro's estimate for this board's operating points, each number off by a random factor."""
    estimated = board.model_copy(update={"estimate": load_board("rk3399pro").estimate})
    profile = estimate_profile(model, estimated, NAME)
    rng = np.random.default_rng(seed)

    def off(value: float) -> float:
        """Up to SPREAD more or less."""
        return float(f"{value * np.exp(rng.uniform(-SPREAD, SPREAD)):.6g}")

    runs = {
        row.values[:5]: (row.values[6], off(row.values[6]) * (NPU_SLOWER if row.values[1] == "N" else 1))
        for row in profile.rows[LAYERS.name]
        if row.values[5] == "run"
    }
    base: dict[tuple[object, ...], float] = {}

    def vary(table: str, row: Row) -> Row:
        values = row.values
        if table == LAYERS.name:
            *key, phase, time_ms, power_mw = values
            was_ms, run_ms = runs.get(tuple(key), (0.0, 0.0))
            if phase == "run":
                time_ms = run_ms
            elif phase == "npu_run_and_get":  # has the run in it
                time_ms = float(f"{run_ms + off(time_ms - was_ms):.6g}")
            else:
                time_ms = off(time_ms) * PHASES_SLOWER.get(str(phase), 1)
            # The part above the idle board varies.
            power_mw = None if power_mw is None else profile.idle_power_mw + off(power_mw - profile.idle_power_mw)
            return replace(row, values=(*key, phase, SLOWER * time_ms, power_mw))
        if table == TRANSFER_FREQUENCY.name:
            *key, time_ms, power_mw, ratio = values
            first = base.setdefault(tuple(key[:2]), time_ms)
            ratio = ratio if ratio == 1 else off(ratio)
            return replace(row, values=(*key, first * ratio, off(power_mw), ratio))
        time_ms = values[-1]
        if table == TRANSFERS.name:
            time_ms = SLOWER * time_ms + TRANSFER_CALL_MS
        else:
            time_ms *= DELAYS
        return replace(row, values=(*values[:-1], off(time_ms)))

    tables = (LAYERS, TRANSFERS, TRANSFER_FREQUENCY, DVFS_DELAY)
    rows = {table.name: [vary(table.name, row) for row in profile.rows[table.name]] for table in tables}
    return replace(profile, rows=rows, facts=ProfileFacts(profile.idle_power_mw, {NAME: NPU_RUN_SHRINK}))
