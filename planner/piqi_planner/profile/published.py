"""What is known of a model beside its profile: the constants of the paper's models, defaults for any other."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SideLayer:
    """A layer of a side branch, which runs beside the main one where the order changes at a branch point.

    `beside`: (branch point, layer of the main branch it runs beside), the first that holds counts. The order
    changes at branch point p if layers p and p + 1 are on different processors.
    """

    layer: int
    beside: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PublishedConstants:
    """`npu_run_shrink`: share by which each further layer of an NPU run shortens the time of all its layers.

    `skips`: (layer, layer that also reads its output): a residual or a route around those in between.
    `npu_power_mw` stands in where the NPU's power was not measured; None: the mean over the other layers.
    `layer_count`: of the cut into layers that all these numbers mean; None: any.
    """

    npu_run_shrink: float = 0.0
    side_layers: tuple[SideLayer, ...] = ()
    skips: tuple[tuple[int, int], ...] = ()
    npu_power_mw: float | None = None
    layer_count: int | None = None


#: Power of the whole board when nothing runs, RK3399Pro; a board file can state another.
IDLE_POWER_MW = 2750.0

#: The layers before YOLOv3's 23 residual blocks of two convolutions each.
_YOLOV3_RESIDUALS = (1, *range(4, 8, 2), *range(9, 25, 2), *range(26, 42, 2), *range(43, 51, 2))

_CONSTANTS = {
    "MobileV1": PublishedConstants(npu_run_shrink=0.0615),
    "YOLOv3": PublishedConstants(
        npu_run_shrink=0.0117,
        side_layers=(
            SideLayer(57, ((56, 59),)),
            SideLayer(58, ((56, 60), (57, 59))),
            SideLayer(65, ((64, 67),)),
            SideLayer(66, ((64, 68), (65, 67))),
        ),
        skips=tuple((layer, layer + 2) for layer in _YOLOV3_RESIDUALS),
        npu_power_mw=5707.0,
        layer_count=75,
    ),
}


def published_constants(model: str, layer_count: int) -> PublishedConstants:
    """The constants of a model by its name in the profile; the defaults for one that the paper does not have.

    For a model cut into layers otherwise, without side layers and skips.
    """
    constants = _CONSTANTS.get(model, PublishedConstants())
    if constants.layer_count in (None, layer_count):
        return constants
    return replace(constants, side_layers=(), skips=(), layer_count=None)
