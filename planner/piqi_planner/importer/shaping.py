"""Lowerings of the operators that move elements or join them: reshape, slice, concat, pad, resize, mean."""

from __future__ import annotations

import math

import numpy as np

from piqi_planner.importer.lowering import Node, lowers

FOLDED_ELEMENTS = 64


@lowers("RESHAPE")
def _reshape(node: Node) -> None:
    shape = node.integers(1) if node.has_input(1) else node.optional_vector("NewShape")
    _reshape_to(node, _resolved(node, math.prod(node.input(0).shape), shape))


@lowers("SQUEEZE")
def _squeeze(node: Node) -> None:
    shape = node.input(0).shape
    axes = {node.axis(axis, len(shape)) for axis in node.optional_vector("SqueezeDims")}
    axes = axes or {axis for axis, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in axes):
        raise node.error(f"takes axes {sorted(axes)} away from {shape}")
    _reshape_to(node, [size for axis, size in enumerate(shape) if axis not in axes])


@lowers("EXPAND_DIMS")
def _expand_dims(node: Node) -> None:
    axes = node.integers(1)
    shape = list(node.input(0).shape)
    if len(axes) != 1:
        raise node.error(f"has {len(axes)} axes")
    shape.insert(node.axis(axes[0], len(shape) + 1), 1)
    _reshape_to(node, shape)


def _resolved(node: Node, count: int, shape: list[int]) -> list[int]:
    """`shape` with its one -1 replaced so that it has `count` elements."""
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0:
        shape = [count // known if size == -1 else size for size in shape]
    if any(size < 0 for size in shape) or math.prod(shape) != count:
        raise node.error(f"reshapes {count} elements to {shape}")
    return shape


def _reshape_to(node: Node, shape: list[int]) -> None:
    x = node.input(0)
    if x.data is not None:
        node.fold(x.data.reshape(shape))
    else:
        node.emit("reshape", [node.activation(0)], shape)


@lowers("SHAPE")
def _shape_of(node: Node) -> None:
    node.fold(np.array(node.input(0).shape, np.int32))


@lowers("PACK")
def _pack(node: Node) -> None:
    parts = [node.constant(i) for i in range(node.input_count)]
    if not parts or sum(part.size for part in parts) > FOLDED_ELEMENTS:
        raise node.error("packs something else than a few constants, which is not supported")
    node.fold(np.stack(parts, node.axis(node.option("Axis"), parts[0].ndim + 1)))


@lowers("CONCATENATION")
def _concat(node: Node) -> None:
    inputs = [node.input(i) for i in range(node.input_count)]
    if not inputs:
        raise node.error("has no inputs")
    axis = node.axis(node.option("Axis"), len(inputs[0].shape))
    if all(x.data is not None for x in inputs) and sum(math.prod(x.shape) for x in inputs) <= FOLDED_ELEMENTS:
        node.fold(np.concatenate([node.constant(i) for i in range(len(inputs))], axis))
        return
    inputs = [node.activation(i) for i in range(len(inputs))]
    rests = {(x.dtype, x.shape[:axis], x.shape[axis + 1 :]) for x in inputs}
    if len(rests) > 1:
        raise node.error(f"joins {', '.join(f'{x.dtype} {x.shape}' for x in inputs[:8])} along axis {axis}")
    shape = list(inputs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in inputs)
    fused = node.clamp(node.option("FusedActivationFunction"))
    if fused:
        inner = node.emit_inner("concat", inputs, shape, "joined", axis=axis)
        node.emit("clamp", [inner], shape, **fused)
    else:
        node.emit("concat", inputs, shape, axis=axis)


@lowers("TILE")
def _tile(node: Node) -> None:
    x = node.activation(0)
    multiples = node.integers(1)
    if len(multiples) != len(x.shape) or min(multiples, default=1) < 1:
        raise node.error(f"tiles {x.shape} by {multiples}")
    shape = x.shape
    options = {"align_corners": False, "half_pixel_centers": True}
    for axis, multiple in enumerate(multiples):
        if multiple == 1:
            continue
        # Repeating along an axis enlarges a picture one pixel wide, whose pixels are all that lies behind it.
        rows, pixel = math.prod(shape[:axis]), math.prod(shape[axis:])
        shape = (*shape[:axis], shape[axis] * multiple, *shape[axis + 1 :])
        x = node.emit_inner("reshape", [x], (1, rows, 1, pixel), f"column{axis}")
        x = node.emit_inner("resize_nearest", [x], (1, rows * multiple, 1, pixel), f"tall{axis}", **options)
        x = node.emit_inner("reshape", [x], shape, f"tiled{axis}")
    node.emit("reshape", [x], shape)


@lowers("SPLIT", "SPLIT_V")
def _split(node: Node) -> None:
    by_count = node.kind == "SPLIT"
    x = node.activation(1 if by_count else 0)
    axes = node.integers(0 if by_count else 2)
    if len(axes) != 1:
        raise node.error(f"has {len(axes)} axes")
    axis, count = node.axis(axes[0], len(x.shape)), node.output_count
    if count < 1 or (by_count and x.shape[axis] % count):
        raise node.error(f"splits {x.shape} along axis {axis} in {count}")
    sizes = [x.shape[axis] // count] * count if by_count else node.integers(1, most=count)
    if not by_count and sizes.count(-1) == 1:
        rest = x.shape[axis] - sum(size for size in sizes if size != -1)
        sizes = [rest if size == -1 else size for size in sizes]
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != x.shape[axis]:
        raise node.error(f"splits {x.shape} along axis {axis} into {sizes[:8]}")
    node.emit_many("split", [x], [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes], axis=axis)


@lowers("SLICE")
def _slice(node: Node) -> None:
    x = node.activation(0)
    begin, size = node.integers(1), node.integers(2)
    if not len(begin) == len(size) == len(x.shape):
        raise node.error(f"has {len(begin)} starts and {len(size)} sizes for {x.shape}")
    size = [end - b if s == -1 else s for b, s, end in zip(begin, size, x.shape, strict=True)]
    if any(b < 0 or s < 1 or b + s > end for b, s, end in zip(begin, size, x.shape, strict=True)):
        raise node.error(f"takes {size} elements from {begin} on of {x.shape}")
    node.emit("strided_slice", [x], size, begin=tuple(begin), size=tuple(size), strides=(1,) * len(size))


@lowers("STRIDED_SLICE")
def _strided_slice(node: Node) -> None:
    x = node.input(0)
    starts, ends, steps = node.integers(1), node.integers(2), node.integers(3)
    if not len(starts) == len(ends) == len(steps):
        raise node.error(f"has {len(starts)} starts, {len(ends)} ends and {len(steps)} strides")
    ranges, shape = _ranges(node, x.shape, starts, ends, steps)
    if x.data is not None:
        if x.data.size > FOLDED_ELEMENTS:
            raise node.error("slices a large constant, which is not supported")
        node.fold(x.data[np.ix_(*[np.array(r, np.intp) for r in ranges])].reshape(shape))
        return
    x = node.activation(0)
    size = [len(r) for r in ranges]
    if 0 in size:
        raise node.error(f"takes nothing from {x.shape}")
    begin, strides = tuple(r.start for r in ranges), tuple(r.step for r in ranges)
    node.emit("strided_slice", [x], shape, begin=begin, size=tuple(size), strides=strides)


def _ranges(
    node: Node, shape: tuple[int, ...], starts: list[int], ends: list[int], steps: list[int]
) -> tuple[list[range], list[int]]:
    """The indices that are taken along every axis, and the output's shape with new and lost axes."""
    masks = {name: int(node.option(name)) for name in ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask")}
    shrink = int(node.option("ShrinkAxisMask"))
    if node.option("Offset"):
        raise node.error("has ends that count from the starts, which is not supported")
    ellipsis, new_axes = masks["EllipsisMask"], masks["NewAxisMask"]
    ranges: list[range] = []
    output: list[int] = []

    def take(indices: range, keep: bool = True) -> None:
        ranges.append(indices)
        if keep:
            output.append(len(indices))

    specified = sum(not (ellipsis | new_axes) >> i & 1 for i in range(len(starts)))
    for i, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True)):
        bit = 1 << i
        if ellipsis & bit:
            for _ in range(len(shape) - specified):
                take(range(shape[len(ranges)]))
        elif new_axes & bit:
            output.append(1)
        else:
            if step == 0 or len(ranges) == len(shape):
                raise node.error(f"has stride {step} in place {i} for {shape}")
            size = shape[len(ranges)]
            if shrink & bit:
                position = start + size if start < 0 else start
                if not 0 <= position < size:
                    raise node.error(f"takes index {start} of {size}")
                take(range(position, position + 1), keep=False)
            else:
                first = None if masks["BeginMask"] & bit else start
                last = None if masks["EndMask"] & bit else end
                take(range(*slice(first, last, step).indices(size)))
    for size in shape[len(ranges) :]:
        take(range(size))
    return ranges, output


@lowers("PAD", "PADV2")
def _pad(node: Node) -> None:
    x = node.activation(0)
    pads = node.integers(1)
    if len(pads) != 2 * len(x.shape) or min(pads, default=0) < 0:
        raise node.error(f"pads {x.shape} by {pads}")
    before, after = tuple(pads[::2]), tuple(pads[1::2])
    shape = [b + size + a for b, size, a in zip(before, x.shape, after, strict=True)]
    value = 0.0
    if node.has_input(2):
        values = node.constant(2)
        if values.size != 1 or values.dtype != x.dtype:
            raise node.error(f"pads {x.dtype} by {values.size} {values.dtype} values")
        value = float(values.flat[0])
        if x.scales:
            value = x.scales[0] * (value - x.zero_point)
    node.emit("pad", [x], shape, pad_before=before, pad_after=after, pad_value=value)


@lowers("MEAN")
def _mean(node: Node) -> None:
    x = node.activation(0)
    axes = sorted({node.axis(axis, len(x.shape)) for axis in node.integers(1)})
    if not axes:
        raise node.error("has no axes")
    if node.option("KeepDims"):
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    else:
        shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    node.emit("mean", [x], shape, axes=tuple(axes))


@lowers("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR")
def _resize(node: Node) -> None:
    x = node.activation(0, rank=4)
    size = node.integers(1)
    if len(size) != 2 or min(size) < 1:
        raise node.error(f"resizes {x.shape} to {size}")
    kind = "resize_bilinear" if node.kind == "RESIZE_BILINEAR" else "resize_nearest"
    align, centers = bool(node.option("AlignCorners")), bool(node.option("HalfPixelCenters"))
    if align and centers:
        raise node.error("has both align_corners and half_pixel_centers")
    shape = x.shape[0], *size, x.shape[3]
    node.emit(kind, [x], shape, align_corners=align, half_pixel_centers=centers)
