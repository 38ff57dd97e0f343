"""Frames to a model's input, its outputs to pools, messages and decoded forms."""

from __future__ import annotations

import base64
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import piqi_native
from piqi_runtime.bundle import Bundle
from piqi_runtime.daemon.inference import BYTE_FORMATS, Decoding, Request, Source
from piqi_runtime.daemon.protocol import ALIGNMENT, MAX_MESSAGE_BYTES, ProtocolError, bad, to_json
from piqi_runtime.decode import YOLO_V3, YOLO_V3_TINY, DecodeError, Head, YoloDecoder, place, top_k

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

SCORE = 0.25
IOU = 0.45


class InputConverter:
    """Makes a model's input tensor of frames. One thread uses it: the tensor is the same each time."""

    def __init__(self, bundle: Bundle) -> None:
        self.input = bundle.manifest.input
        self.shape = self.input.shape
        self._tensor: Floats = np.zeros(self.shape, np.float32)

    def convert(self, source: Source) -> Floats:
        """The tensor, valid until the next call. Raises ProtocolError."""
        if source.format == "float32_raw":
            return self._raw(source)
        if self.input.colour is None or len(self.shape) != 4 or self.shape[0] != 1:
            raise bad("input.format", f"float32_raw: the model takes no images but {list(self.shape)}", source.format)
        if source.format == "float32":
            return self._floats(source)
        size_bytes = source.stride * (source.height - 1) + source.width * BYTE_FORMATS[source.format]
        try:
            piqi_native.convert_frame(
                source.bytes(size_bytes),
                source.width,
                source.height,
                source.stride,
                source.format,
                self._tensor,
                self.input.preprocessing,
                self.input.fit,
                self.input.colour,
            )
        except piqi_native.Error as error:
            raise ProtocolError("bad_argument", f"input: {error}") from None
        return self._tensor

    def _raw(self, source: Source) -> Floats:
        # An inline tensor may leave out the first dimension of size 1.
        if source.shape is not None and source.shape not in (self.shape, self.shape[self.shape[0] == 1 :]):
            raise bad("input.shape", f"{list(self.shape)}", list(source.shape))
        data = source.bytes(self._tensor.nbytes)
        return data.view(np.float32).reshape(self.shape)

    def _floats(self, source: Source) -> Floats:
        _, height, width, channels = self.shape
        if (source.width, source.height) != (width, height):
            raise bad("input.width, input.height", f"{width}, {height} for floats", [source.width, source.height])
        row_bytes = width * channels * 4
        stride = source.stride or row_bytes
        if stride < row_bytes:
            raise bad("input.stride", f"at least {row_bytes}", stride)
        data = source.bytes(stride * (height - 1) + row_bytes)
        rows = np.lib.stride_tricks.as_strided(
            data[:4].view(np.float32), (height, width, channels), (stride, channels * 4, 4), writeable=False
        )
        np.copyto(self._tensor[0], rows)
        if self.input.preprocessing == "signed":
            self._tensor /= np.float32(127.5)
            self._tensor -= np.float32(1)
        elif self.input.preprocessing == "unit":
            self._tensor /= np.float32(255)
        return self._tensor


class OutputWriter:
    """Puts a model's outputs where a request wants them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._outputs = bundle.manifest.outputs
        self._decoders: dict[tuple[float, float], YoloDecoder] = {}

    def write(self, request: Request, outputs: dict[str, Array]) -> str:
        """The reply's `outputs` as JSON. Raises ProtocolError."""
        target = request.output
        if target is None:
            return "[]"
        texts = []
        offset = request.output_offset
        total = 0
        for output in self._outputs:
            tensor = outputs[output.name]
            head = (
                f'{{"name":{to_json(output.name)},"dtype":"{tensor.dtype.name}","shape":{list(tensor.shape)},'
                f'"size_bytes":{tensor.nbytes},'
            )
            if isinstance(target, str):
                total += tensor.nbytes * 4 // 3
                if total > MAX_MESSAGE_BYTES:
                    raise ProtocolError("too_large", 'output: "inline" is for small tensors, use a pool')
                texts.append(f'{head}"data":"{base64.b64encode(tensor.tobytes()).decode()}"}}')
            else:
                target.write("output.offset", offset, tensor)
                texts.append(f'{head}"offset":{offset}}}')
                offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return f"[{','.join(texts)}]"

    def decode(self, decoding: Decoding, source: Source, outputs: dict[str, Array]) -> str:
        """The reply's `decoded` as JSON. Raises ProtocolError."""
        if decoding.kind == "topk":
            return to_json(self._top_k(decoding.k, outputs))
        return to_json(self._boxes(decoding, source, outputs))

    def _top_k(self, k: int, outputs: dict[str, Array]) -> list[dict[str, Any]]:
        output = next((output for output in self._outputs if output.kind == "classes"), None)
        if output is None:
            raise bad("decode.kind", "a model with classes", "topk")
        scores = outputs[output.name].reshape(1, -1)
        labels = self.bundle.labels
        return [
            {"class": i, "score": _finite(scores[0, i]), **({"label": labels[i]} if i < len(labels) else {})}
            for i in top_k(scores, k)[0].tolist()
        ]

    def _boxes(self, decoding: Decoding, source: Source, outputs: dict[str, Array]) -> list[dict[str, Any]]:
        heads = [output for output in self._outputs if output.kind == "boxes"]
        if not heads:
            raise bad("decode.kind", "a model with boxes", "boxes")
        shape = self.bundle.manifest.input.shape
        width, height = source.width or shape[2], source.height or shape[1]
        placement = place(self.bundle.manifest.input.fit, width, height, shape[2], shape[1])
        decoder = self._decoder(
            SCORE if decoding.score is None else decoding.score, IOU if decoding.iou is None else decoding.iou
        )
        try:
            (rows,) = decoder.detect([outputs[head.name] for head in heads], [placement], [(width, height)])
        except DecodeError as error:
            raise ProtocolError("bad_argument", f"decode: {error}") from None
        labels = self.bundle.labels
        return [
            {
                "class": int(row[0]),
                "score": round(row[1], 6),
                "box": [round(value, 3) for value in row[2:]],
                **({"label": labels[int(row[0])]} if int(row[0]) < len(labels) else {}),
            }
            for row in rows.tolist()
        ]

    def _decoder(self, score: float, iou: float) -> YoloDecoder:
        key = (min(score, 0.999), iou)
        if key not in self._decoders:
            if len(self._decoders) >= 16:  # clients choose the keys
                self._decoders.clear()
            self._decoders[key] = make_decoder(self.bundle, *key)
        return self._decoders[key]


def make_decoder(bundle: Bundle, score: float, iou: float) -> YoloDecoder:
    """The decoder of a detector's outputs: by their `options` (stride, anchors), else YOLOv3's or YOLOv3-tiny's own.

    Raises ProtocolError where it is neither.
    """
    outputs = [output for output in bundle.manifest.outputs if output.kind == "boxes"]
    try:
        if all("stride" in output.options and "anchors" in output.options for output in outputs):
            heads = tuple(
                Head(
                    int(cast(int, output.options["stride"])),
                    tuple((float(w), float(h)) for w, h in cast(list[list[float]], output.options["anchors"])),
                )
                for output in outputs
            )
        else:
            heads = {len(YOLO_V3): YOLO_V3, len(YOLO_V3_TINY): YOLO_V3_TINY}[len(outputs)]
        _, height, width, _ = bundle.manifest.input.shape
        classes = outputs[0].shape[-1] // len(heads[0].anchors) - 5
        return YoloDecoder(heads, classes, width, height, score, iou)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(
            "bad_argument", f"decode: the bundle says not how its outputs are decoded: {error!r}"
        ) from None


def _finite(value: Any) -> float | None:
    number = round(float(value), 6)
    return number if np.isfinite(number) else None
