"""The exact best configuration for a weighted cost: energy, latency and a price for quantising each layer.

The cost of a configuration is a sum over layers that depends on pairs of neighbours, but for NPU runs, whose layers
get cheaper with the length of the run. Dynamic programming over the layers, an NPU run a step of its own, therefore
finds the best of all configurations, for many weightings at once. Two details of the cost are left out
(`CostTables.late` and `.side_mj`, small and of second order): whatever is found is then evaluated exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_planner.cost.tables import CostTables
from piqi_planner.search.front import Configs, Floats


@dataclass(frozen=True, eq=False)
class Weights:
    """n weightings: minimise energy (mJ) + `watt` [n] x latency (ms) + the `price` [n, layers] of quantised layers.

    A negative `watt` asks for slow configurations, which may draw less power. An infinite price forbids the NPU
    for a layer, a price of minus infinity forces it.
    """

    watt: Floats
    price: Floats

    def __len__(self) -> int:
        return len(self.watt)


class Relaxation:
    """Solves for a cost model; `states` are those that may be used."""

    #: Weightings that are worked on together.
    BLOCK = 256

    def __init__(self, tables: CostTables, states: npt.NDArray[np.intp]) -> None:
        self._layers = tables.layer_count
        self.exact = states[~tables.is_npu[states]]
        self.npu = states[tables.is_npu[states]]
        f, n = self.exact, self.npu
        self._enter_npu: list[tuple[Floats, Floats]] = []
        self._stay: list[tuple[Floats, Floats]] = []
        self._leave: list[tuple[Floats, Floats]] = []
        moves = [self._moves(tables, which) for which in (0, 1)]
        for layer in range(self._layers):
            pair = [tables.layer[which][layer] + moves[which][layer] for which in (0, 1)]
            tails = [tables.tail[which][layer - 1][n][:, None] if layer else 0.0 for which in (0, 1)]
            self._stay.append((pair[0][np.ix_(f, f)], pair[1][np.ix_(f, f)]))
            self._enter_npu.append((pair[0][np.ix_(f, n)], pair[1][np.ix_(f, n)]))
            self._leave.append((pair[0][np.ix_(n, f)] + tails[0], pair[1][np.ix_(n, f)] + tails[1]))
        # Inside of a run an NPU layer costs the same after every NPU state.
        inside = n[0] if len(n) else 0
        self._run = [tables.layer[which][:, inside, :][:, n] for which in (0, 1)]
        self._saved = [tables.saved[which][:, n] for which in (0, 1)]
        self._end = [tables.tail[which][-1][n] for which in (0, 1)]
        self._first = [np.diagonal(tables.layer[which][0]) for which in (0, 1)]

    def solve(self, weights: Weights) -> Configs:
        """The best configuration for each weighting, [n, layers]."""
        blocks = [
            self._solve(weights.watt[i : i + self.BLOCK], weights.price[i : i + self.BLOCK])
            for i in range(0, len(weights), self.BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, self._layers), np.intp)

    @staticmethod
    def _moves(tables: CostTables, which: int) -> Floats:
        """`move`, a GPU's late transfers taken as if its host had been where the GPU's state wants it."""
        if tables.late is None or tables.left_host is None:
            return tables.move[which]
        moves = tables.move[which].copy()
        of = tables.processor_of
        late = tables.late[which]
        moves += late[:, tables.left_host[:, None], of[:, None], of[None, :]]
        return moves

    def _solve(self, watt: Floats, price: Floats) -> Configs:
        # Arrays over weightings have them as the last axis; W of them.
        w, layers = len(watt), self._layers
        f, n = len(self.exact), len(self.npu)

        def weighted(ms: Floats, mj: Floats) -> Floats:
            return mj[..., None] + ms[..., None] * watt

        run = weighted(self._run[0], self._run[1])  # [L, n, W]
        best_inside = run.argmin(axis=1) if n else np.zeros((layers, w), np.intp)  # [L, W]
        if n:
            run_best = np.take_along_axis(run, best_inside[:, None], 1)[:, 0]
            saved_best = np.take_along_axis(weighted(*self._saved), best_inside[:, None], 1)[:, 0]
        else:
            run_best = saved_best = np.zeros((layers, w))
        blocked, forced = np.isposinf(price), np.isneginf(price)
        cost_npu = np.where(np.isinf(price), 0.0, price).T + run_best  # [L, W]
        sums = np.concatenate([np.zeros((1, w)), np.cumsum(cost_npu, axis=0)])
        sums_saved = np.concatenate([np.zeros((1, w)), np.cumsum(saved_best, axis=0)])
        # The first layer that a run ending at layer i may begin with.
        wall = np.zeros((layers + 1, w), np.intp)
        for layer in range(layers):
            wall[layer + 1] = np.where(blocked[:, layer], layer + 1, wall[layer])

        exact = np.full((layers, f, w), np.inf)  # best cost of layers 0..i with layer i in an exact state
        npu = np.full((layers, n, w), np.inf)  # ... with a run that ends at layer i
        start = np.full((layers, w), np.inf)  # ... of everything paid up to the begin of a run, beyond `run_best`
        from_exact = np.zeros((layers, f, w), np.int16)  # >= f: an NPU state
        run_start = np.zeros((layers, n, w), np.int16)
        before_run = np.zeros((layers, w), np.int16)  # exact state before it; -1: none
        places = np.arange(layers)[:, None]
        for layer in range(layers):
            if layer == 0:
                own = weighted(self._first[0][self.exact], self._first[1][self.exact])
                exact[0] = own
                if n:
                    entered = weighted(self._first[0][self.npu], self._first[1][self.npu])
                    first = np.take_along_axis(entered, best_inside[0][None], 0)[0]
                    start[0], before_run[0] = first - run_best[0], -1
            else:
                stay = exact[layer - 1][:, None] + weighted(*self._stay[layer])
                if n:
                    leave = npu[layer - 1][:, None] + weighted(*self._leave[layer])
                    stay = np.concatenate([stay, leave])
                from_exact[layer] = stay.argmin(axis=0)
                exact[layer] = np.take_along_axis(stay, from_exact[layer][None].astype(np.intp), 0)[0]
                if n:
                    # A run is entered in the state that is best inside of it: what load costs more is small.
                    entering = weighted(*self._enter_npu[layer])
                    entering = np.take_along_axis(entering, best_inside[layer][None, None], 1)[:, 0]
                    enter = exact[layer - 1] + entering
                    before_run[layer] = enter.argmin(axis=0)
                    start[layer] = enter.min(axis=0) - run_best[layer]
            if n:
                length = layer - places[: layer + 1]  # other layers of the run, for each begin
                total = (
                    start[: layer + 1]
                    + (sums[layer + 1] - sums[: layer + 1])
                    - length * (sums_saved[layer + 1] - sums_saved[: layer + 1])
                )
                total = np.where(places[: layer + 1] >= wall[layer + 1], total, np.inf)
                chosen = total.argmin(axis=0)
                # The state at its end matters to what follows; the others of the run are at their best.
                npu[layer] = total.min(axis=0) + run[layer] - run_best[layer]
                run_start[layer] = chosen
            exact[layer] = np.where(forced[:, layer], np.inf, exact[layer])
        return self._trace_back(exact, npu, weighted(*self._end), from_exact, run_start, before_run, best_inside)

    def _trace_back(
        self,
        exact: Floats,
        npu: Floats,
        end: Floats,
        from_exact: npt.NDArray[np.int16],
        run_start: npt.NDArray[np.int16],
        before_run: npt.NDArray[np.int16],
        best_inside: npt.NDArray[np.intp],
    ) -> Configs:
        f = len(self.exact)
        both = np.concatenate([self.exact, self.npu])
        last = np.concatenate([exact[-1], npu[-1] + end]).argmin(axis=0)
        w = exact.shape[2]
        configs = np.empty((w, self._layers), np.intp)
        for k in range(w):
            layer, state = self._layers - 1, int(last[k])
            while layer >= 0:
                configs[k, layer] = both[state]
                if state < f:
                    state = int(from_exact[layer, state, k])
                    layer -= 1
                    continue
                begin = int(run_start[layer, state - f, k])
                configs[k, begin:layer] = self.npu[best_inside[begin:layer, k]]
                state = int(before_run[begin, k])
                layer = begin - 1
        return configs
