"""The published genetic search: NSGA-II (Deb et al. 2002) over run configurations, by pymoo."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.callback import Callback
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from piqi_planner.search.problem import Archive, Problem, Progress, Search

POPULATION = 200
GENERATIONS = 400
MUTATED_GENES = 1.5  # of an offspring, on average


class Nsga2Search(Search):
    """Random initial population, two-point crossover, random resetting of genes; the floor is a constraint."""

    def run(self, archive: Archive, progress: Progress) -> None:
        """A run of the algorithm for each floor."""
        for number, floor in enumerate(archive.floors):

            def report(generation: int, number: int = number) -> bool:
                progress((number + generation / GENERATIONS) / len(archive.floors))
                return generation < GENERATIONS and not self.late

            minimize(
                _Configurations(self.problem, archive, floor),
                NSGA2(
                    pop_size=POPULATION,
                    sampling=IntegerRandomSampling(),
                    crossover=TwoPointCrossover(),
                    mutation=_RandomReset(),
                    eliminate_duplicates=True,
                ),
                NoTermination(),
                seed=self.seed,
                callback=_Report(report),
            )


class _Configurations(PymooProblem):  # type: ignore[misc]
    """One gene a layer, its state; objectives latency and power; constraint the accuracy floor."""

    def __init__(self, problem: Problem, archive: Archive, floor: float) -> None:
        super().__init__(n_var=problem.layers, n_obj=2, n_ieq_constr=1, xl=0, xu=len(problem.states) - 1, vtype=int)
        self._problem, self._archive, self._floor = problem, archive, floor

    def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
        found = self._archive.offer(self._problem.states[np.asarray(x, np.intp)])
        out["F"] = np.column_stack([found.latency_ms, found.power_mw])
        out["G"] = self._floor - found.accuracy[:, np.newaxis]


class _RandomReset(Mutation):  # type: ignore[misc]
    """States have no order: a mutated gene becomes any of them."""

    def _do(self, problem: Any, x: Any, *_: Any, random_state: Any = None, **__: Any) -> Any:
        random = random_state if random_state is not None else np.random.default_rng(0)
        hit = random.random(x.shape) < MUTATED_GENES / problem.n_var
        return np.where(hit, random.integers(0, problem.xu[0] + 1, x.shape), x)


class _Report(Callback):  # type: ignore[misc]
    """Tells how far it is, and ends the run when told to."""

    def __init__(self, report: Any) -> None:
        super().__init__()
        self._report = report

    def notify(self, algorithm: Any) -> None:
        if not self._report(algorithm.n_gen):
            algorithm.termination.terminate()
