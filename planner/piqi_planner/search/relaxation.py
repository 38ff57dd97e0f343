"""The exact best configuration for a weighted cost: energy, latency and a price for quantising each layer.

The cost of a configuration is a sum over layers that depends on pairs of neighbours, but for NPU runs, whose layers
get cheaper with the length of the run. Dynamic programming over the layers, an NPU run a step of its own, therefore
finds the best of all configurations, for many weightings at once. Two details of the cost are left out
(`CostTables.late` and `.side`, small and of second order): whatever is found is then evaluated exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piqi_planner.cost.tables import CostTables
from piqi_planner.search.front import Configs, Floats

Singles = npt.NDArray[np.float32]


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
    """Solves for a cost model; `states` are those that may be used. `whole_runs`: an NPU run is in one state."""

    #: Weightings that are worked on together.
    BLOCK = 256

    def __init__(self, tables: CostTables, states: npt.NDArray[np.intp], whole_runs: bool = False) -> None:
        self._whole_runs = whole_runs
        self._layers = tables.layer_count
        self.exact = states[~tables.is_npu[states]]
        self.npu = states[tables.is_npu[states]]
        f, n = self.exact, self.npu
        self._enter_npu: list[tuple[Singles, Singles]] = []
        self._stay: list[tuple[Singles, Singles]] = []
        self._leave: list[tuple[Singles, Singles]] = []
        moves = [self._moves(tables, which) for which in (0, 1)]
        for layer in range(self._layers):
            pair = [tables.layer[which][layer] + moves[which][layer] for which in (0, 1)]
            tails = [tables.tail[which][layer - 1][n][:, None] if layer else 0.0 for which in (0, 1)]
            self._stay.append(_single(pair[0][np.ix_(f, f)], pair[1][np.ix_(f, f)]))
            self._enter_npu.append(_single(pair[0][np.ix_(f, n)], pair[1][np.ix_(f, n)]))
            self._leave.append(_single(pair[0][np.ix_(n, f)] + tails[0], pair[1][np.ix_(n, f)] + tails[1]))
        # Inside of a run an NPU layer costs the same after every NPU state.
        inside = n[0] if len(n) else 0
        self._run = _single(*(tables.layer[which][:, inside, :][:, n] for which in (0, 1)))
        self._saved = _single(*(tables.saved[which][:, n] for which in (0, 1)))
        self._end = _single(*(tables.tail[which][-1][n] for which in (0, 1)))
        self._first = _single(*(np.diagonal(tables.layer[which][0]) for which in (0, 1)))

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
        # Arrays over weightings have them as the last axis; W of them. Single precision is exact enough for a choice
        # that is evaluated afterwards, and twice as fast.
        watt, price = watt.astype(np.float32), price.astype(np.float32)
        w, layers = len(watt), self._layers
        f, n = len(self.exact), len(self.npu)

        def weighted(ms: Singles, mj: Singles) -> Singles:
            return np.asarray(mj[..., None] + ms[..., None] * watt, np.float32)

        run = weighted(self._run[0], self._run[1])  # [L, n, W]
        # K kinds of runs: one for each state, or one that has the best state for each layer.
        if self._whole_runs:
            inside = np.broadcast_to(np.arange(n)[:, None], (layers, n, w))  # [L, K, W]: the state of a run's layer
        else:
            inside = run.argmin(axis=1)[:, None] if n else np.zeros((layers, 0, w), np.intp)
        run_inside = np.take_along_axis(run, inside, 1)
        saved_inside = np.take_along_axis(weighted(*self._saved), inside, 1)
        kinds = inside.shape[1]
        blocked, forced = np.isposinf(price), np.isneginf(price)
        paid = np.where(np.isinf(price), np.float32(0), price).T
        nothing = np.zeros((1, kinds, w), np.float32)
        sums = np.concatenate([nothing, np.cumsum(paid[:, None] + run_inside, axis=0)])  # [L + 1, K, W]
        sums_saved = np.concatenate([nothing, np.cumsum(saved_inside, axis=0)])
        # The first layer that a run ending at layer i may begin with.
        wall = np.zeros((layers + 1, w), np.intp)
        for layer in range(layers):
            wall[layer + 1] = np.where(blocked[:, layer], layer + 1, wall[layer])

        exact = np.full((layers, f, w), np.inf, np.float32)  # best cost of layers 0..i with layer i in an exact state
        npu = np.full((layers, n, w), np.inf, np.float32)  # ... with a run that ends at layer i
        # ... of everything paid up to the begin of a run, beyond `run_inside`
        start = np.full((layers, kinds, w), np.inf, np.float32)
        from_exact = np.zeros((layers, f, w), np.int16)  # >= f: an NPU state
        run_start = np.zeros((layers, n, w), np.int16)
        entry = np.zeros((layers, kinds, w), np.int16)  # the state in which a run of several layers begins
        before_run = np.zeros((layers, n, w), np.int16)  # exact state before a run that begins in a state; -1: none
        places = np.arange(layers)[:, None]
        for layer in range(layers):
            if layer == 0:
                exact[0] = weighted(self._first[0][self.exact], self._first[1][self.exact])
                entered = weighted(self._first[0][self.npu], self._first[1][self.npu])
                before_run[0] = -1
            else:
                stay = exact[layer - 1][:, None] + weighted(*self._stay[layer])
                if n:
                    leave = npu[layer - 1][:, None] + weighted(*self._leave[layer])
                    stay = np.concatenate([stay, leave])
                    enter = exact[layer - 1][:, None] + weighted(*self._enter_npu[layer])
                    before_run[layer] = enter.argmin(axis=0)
                    entered = enter.min(axis=0)
                from_exact[layer] = stay.argmin(axis=0)
                exact[layer] = stay.min(axis=0)
            if n:
                entry[layer] = inside[layer] if self._whole_runs else entered.argmin(axis=0)
                start[layer] = (entered if self._whole_runs else entered.min(axis=0)) - run_inside[layer]
                npu[layer] = np.where(blocked[:, layer], np.inf, entered + paid[layer])  # a run of one
                run_start[layer] = layer
            if n and layer:
                # other layers of the run, for each begin
                length = (layer - places[:layer]).astype(np.float32)[..., None]
                total = (
                    start[:layer]
                    + (sums[layer + 1] - sums[:layer])
                    - length * (sums_saved[layer + 1] - sums_saved[:layer])
                )
                total = np.where((places[:layer] >= wall[layer + 1])[:, None], total, np.inf)
                # The state at its end matters to what follows; inside of it the others are at their best.
                longer = total.min(axis=0) + run[layer] - run_inside[layer]
                run_start[layer] = np.where(longer < npu[layer], total.argmin(axis=0), layer)
                npu[layer] = np.minimum(longer, npu[layer])
            exact[layer] = np.where(forced[:, layer], np.inf, exact[layer])
        return self._trace_back(exact, npu, weighted(*self._end), from_exact, run_start, entry, before_run, inside)

    def _trace_back(
        self,
        exact: Singles,
        npu: Singles,
        end: Singles,
        from_exact: npt.NDArray[np.int16],
        run_start: npt.NDArray[np.int16],
        entry: npt.NDArray[np.int16],
        before_run: npt.NDArray[np.int16],
        inside: npt.NDArray[np.intp],
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
                kind = state - f if self._whole_runs else 0
                first = int(entry[begin, kind, k]) if begin < layer else state - f
                configs[k, begin:layer] = self.npu[inside[begin:layer, kind, k]]
                if begin < layer:
                    configs[k, begin] = self.npu[first]
                state = int(before_run[begin, first, k])
                layer = begin - 1
        return configs


def _single(ms: Floats, mj: Floats) -> tuple[Singles, Singles]:
    return ms.astype(np.float32), mj.astype(np.float32)
