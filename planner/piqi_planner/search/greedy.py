"""The published baseline (GSA; ISLPED '24, section 6, after Tsuji et al. 2022)."""

from __future__ import annotations

import numpy as np

from piqi_planner.search.problem import Archive, Masks, Progress, Search, SearchError


class GreedySearch(Search):
    """Quantises next the layer that loses least, until the floor would be violated.

    The design point is then run on every full-precision processor at every frequency, its quantised layers on the
    NPU at every host frequency: the host's own frequency where it is the processor that computes.
    """

    def run(self, archive: Archive, progress: Progress) -> None:
        """Offers the design point of each floor, in all its states."""
        path = self._path()
        accuracies = self.problem.accuracy.predict(path)
        for number, floor in enumerate(archive.floors):
            violated = np.flatnonzero(accuracies < floor)
            if len(violated) and violated[0] == 0:
                raise SearchError(
                    f"without any layer quantised the accuracy is {accuracies[0]:.3f}, below the floor {floor}"
                )
            archive.offer(self._configurations(path[violated[0] - 1 if len(violated) else -1]))
            progress((number + 1) / len(archive.floors))

    def _path(self) -> Masks:
        """The masks in the order in which they are reached, [layers + 1, layers]."""
        layers = self.problem.layers
        mask = np.zeros(layers, bool)
        path = [mask]
        for _ in range(layers):
            free = np.flatnonzero(~mask)
            candidates = np.repeat(mask[np.newaxis], len(free), axis=0)
            candidates[np.arange(len(free)), free] = True
            mask = candidates[int(self.problem.accuracy.predict(candidates).argmax())]
            path.append(mask)
        return np.array(path)

    def _configurations(self, mask: Masks) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
        states = self.problem.states
        is_npu = self.problem.cost.tables.is_npu[states]
        exact, npu = states[~is_npu], states[is_npu]
        if not len(npu):
            return np.repeat(exact[:, np.newaxis], len(mask), axis=1)
        pairs = np.stack(np.meshgrid(exact, npu, indexing="ij"), axis=-1).reshape(-1, 2)
        return np.where(mask, pairs[:, 1:], pairs[:, :1])
