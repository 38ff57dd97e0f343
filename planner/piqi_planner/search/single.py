"""Each processor alone, at all its frequencies."""

from __future__ import annotations

import numpy as np

from piqi_planner.search.problem import Archive, Progress, Search


class SingleSearch(Search):
    """The whole network in one state: what a board does without PiQi."""

    def run(self, archive: Archive, progress: Progress) -> None:
        """Offers a configuration for each state."""
        archive.offer(np.repeat(self.problem.states[:, np.newaxis], self.problem.layers, axis=1))
        progress(1.0)
