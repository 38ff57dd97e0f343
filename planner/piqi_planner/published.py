"""What was published: fronts' hypervolumes at 22 accuracy targets for each of the two models (ISLPED '24, figure 9).

Re-computed from the published fronts, with the additive cost model, the published accuracy predictors and genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTarget:
    """Hypervolumes in seconds x watts at an accuracy target in percent; None: no front was published."""

    accuracy: float
    genetic: float
    greedy: float | None

    @property
    def best(self) -> float:
        """The larger of the two."""
        return max(self.genetic, self.greedy or 0.0)


@dataclass(frozen=True)
class PublishedResults:
    """Of one model. `reference`: latency in ms, power in mW.

    `single`: hypervolume of each processor alone at all frequencies, as measured, not by the cost model.
    """

    reference: tuple[float, float]
    targets: tuple[PublishedTarget, ...]
    single: Mapping[str, float]


def published_results(model: str) -> PublishedResults | None:
    """The results of a model by its name in the profile; None for one that the paper does not have."""
    return _RESULTS.get(model)


_RESULTS = {
    "MobileV1": PublishedResults(
        reference=(550.0, 7000.0),
        targets=(
            PublishedTarget(67.34, 2.00492, 1.95580),
            PublishedTarget(67.35, 1.95022, None),
            PublishedTarget(67.4, 1.84369, None),
            PublishedTarget(67.45, 1.84372, 1.70763),
            PublishedTarget(67.5, 1.84368, 1.53052),
            PublishedTarget(67.55, 1.84373, 1.53914),
            PublishedTarget(67.6, 1.84368, 1.61631),
            PublishedTarget(67.65, 1.84369, 1.52168),
            PublishedTarget(67.7, 1.84366, 1.71029),
            PublishedTarget(67.75, 1.84366, 1.71029),
            PublishedTarget(67.8, 1.84378, 1.71029),
            PublishedTarget(67.85, 1.84371, 1.71029),
            PublishedTarget(67.9, 1.84369, 1.71029),
            PublishedTarget(67.95, 1.84370, 1.71029),
            PublishedTarget(68.0, 1.84362, 1.71029),
            PublishedTarget(68.05, 1.84367, 1.71029),
            PublishedTarget(68.1, 1.84368, 1.71029),
            PublishedTarget(68.15, 1.84369, 1.71029),
            PublishedTarget(68.2, 1.75914, 1.64925),
            PublishedTarget(68.25, 1.75027, 1.55465),
            PublishedTarget(68.3, 1.68798, 1.31584),
            PublishedTarget(68.36, 1.63335, 1.30781),
        ),
        single={"B": 1.3129, "G": 1.0881, "L": 1.3864},
    ),
    "YOLOv3": PublishedResults(
        reference=(20320.0, 7200.0),
        targets=(
            PublishedTarget(64.7, 76.245, 76.110),
            PublishedTarget(64.9, 74.989, 76.110),
            PublishedTarget(65.1, 73.885, 76.110),
            PublishedTarget(65.3, 72.722, 76.110),
            PublishedTarget(65.5, 72.717, 64.749),
            PublishedTarget(65.7, 72.606, 61.935),
            PublishedTarget(65.9, 72.590, 56.750),
            PublishedTarget(66.1, 72.239, 53.257),
            PublishedTarget(66.3, 72.170, 53.764),
            PublishedTarget(66.5, 71.672, 57.615),
            PublishedTarget(66.7, 70.501, 54.210),
            PublishedTarget(66.9, 70.234, 55.760),
            PublishedTarget(67.1, 69.857, 56.395),
            PublishedTarget(67.3, 69.422, 54.212),
            PublishedTarget(67.5, 68.385, 53.559),
            PublishedTarget(67.7, 67.688, 54.051),
            PublishedTarget(67.9, 65.143, 53.794),
            PublishedTarget(68.1, 64.564, 52.666),
            PublishedTarget(68.3, 62.373, 54.141),
            PublishedTarget(68.5, 60.054, 54.840),
            PublishedTarget(68.7, 59.488, 53.523),
            PublishedTarget(68.77, 58.462, 54.127),
        ),
        single={"B": 47.64, "G": 37.53, "L": 54.29},
    ),
}
