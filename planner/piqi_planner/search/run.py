"""Runs a search by its name, on one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from piqi_planner.search.front import Front, join, non_dominated, non_dominated_3d
from piqi_planner.search.greedy import GreedySearch
from piqi_planner.search.nsga2 import Nsga2Search
from piqi_planner.search.piqi import PiqiSearch
from piqi_planner.search.problem import Archive, Problem, Progress, Search, SearchError
from piqi_planner.search.single import SingleSearch

if TYPE_CHECKING:
    from piqi_planner.accuracy import AccuracyModel
    from piqi_planner.cost import CostModel

SEARCHES: dict[str, type[Search]] = {
    "single": SingleSearch,
    "greedy": GreedySearch,
    "nsga2": Nsga2Search,
    "piqi": PiqiSearch,
}
#: Floors that stand for "any accuracy", between the least and the greatest that masks are found to have.
LEVELS = 12


def search(
    name: str,
    cost: CostModel,
    accuracy: AccuracyModel,
    floors: Sequence[float],
    *,
    states: npt.NDArray[np.intp],
    seed: int = 0,
    budget_s: float | None = None,
    jobs: int = 1,
    pool: Executor | None = None,
    progress: Progress = lambda done: None,
) -> dict[float, Front]:
    """The front in latency and power for each accuracy floor (percent); deterministic but for `budget_s`.

    Without floors: one front in latency, power and accuracy together, under the key -inf. `states`: what a layer
    may be in; `budget_s`: time for each floor; `jobs`: processes, this machine's or those of `pool`, between which
    floors are shared out (each shares what it finds among its own). KeyboardInterrupt: what was found so far. Raises
    SearchError for an unknown name and a floor that no mask reaches.
    """
    if name not in SEARCHES:
        raise SearchError(f"search must be one of {', '.join(SEARCHES)}, got {name!r}")
    problem = Problem(cost, accuracy, states)
    if not floors:
        levels = _levels(problem, seed)
        fronts = search(
            name,
            cost,
            accuracy,
            levels,
            states=states,
            seed=seed,
            budget_s=budget_s,
            jobs=jobs,
            pool=pool,
            progress=progress,
        )
        everything = join(list(fronts.values()))
        return {
            -np.inf: everything.take(non_dominated_3d(everything.latency_ms, everything.power_mw, everything.accuracy))
        }
    for floor in floors:
        if not np.isfinite(floor):
            raise SearchError(f"an accuracy floor must be a number, got {floor}")
    shares = [list(floors)[share::jobs] for share in range(min(jobs, len(floors)))]
    if len(shares) < 2:
        return _run(name, problem, list(floors), seed, budget_s, progress)
    fronts = {}
    # Cost models hold functions, which cannot be sent: the processes inherit the problem.
    with ExitStack() as stack:
        if pool is None:
            own = ProcessPoolExecutor(len(shares), get_context("fork"), _inherit, (problem,))
            stack.enter_context(own)
            pending = [own.submit(_run_inherited, name, share, seed, budget_s) for share in shares]
        else:
            pending = [pool.submit(_run, name, problem, share, seed, budget_s, None) for share in shares]
        for done, future in enumerate(pending):
            fronts.update(future.result())
            progress((done + 1) / len(pending))
    return {floor: fronts[floor] for floor in floors if floor in fronts}


_inherited: list[Problem] = []


def _inherit(problem: Problem) -> None:
    _inherited[:] = [problem]


def _run_inherited(name: str, floors: list[float], seed: int, budget_s: float | None) -> dict[float, Front]:
    return _run(name, _inherited[0], floors, seed, budget_s, None)


def _run(
    name: str, problem: Problem, floors: list[float], seed: int, budget_s: float | None, progress: Progress | None
) -> dict[float, Front]:
    archive = Archive(problem, floors)
    budget_s = None if budget_s is None else budget_s * len(floors)
    try:
        SEARCHES[name](problem, seed, budget_s).run(archive, progress or (lambda done: None))
    except KeyboardInterrupt:
        if not archive.fronts:
            raise
    missing = [floor for floor in floors if floor not in archive.fronts]
    if missing:
        raise SearchError(
            f"{name}: no configuration reaches an accuracy of {missing[0]:g} %; "
            f"the best has {archive.best_accuracy:.4f} %"
        )
    return {
        floor: front.take(non_dominated(front.latency_ms, front.power_mw)) for floor, front in archive.fronts.items()
    }


def _levels(problem: Problem, seed: int) -> list[float]:
    """Floors from nothing to the accuracy without quantisation, evenly spread over what masks have."""
    random = np.random.default_rng(seed)
    masks = random.random((1000, problem.layers)) < random.random((1000, 1))
    exact = float(problem.accuracy.predict(np.zeros((1, problem.layers), bool))[0])
    found = problem.accuracy.predict(masks)
    inner = np.quantile(found[found < exact], np.linspace(0, 1, LEVELS)) if (found < exact).any() else np.empty(0)
    return [0.0, *(float(level) for level in inner), exact]
