"""``piqictl status|models|points|infer|stats``: what the daemon does, and one frame through it."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from piqi_runtime.client import Client, ClientError, Result
from piqi_runtime.report import format_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Array = npt.NDArray[Any]
_PNM = re.compile(rb"(P[56])\s(?:\s*#.*\n)*\s*(\d{1,5})\s+(\d{1,5})\s+255\s")


def add_parser(commands: Subparsers) -> None:
    """Adds the commands."""
    for name, help, function in (
        ("status", "say what the daemon does now", _status),
        ("models", "list what it serves", _models),
        ("stats", "say what it has done so far", _stats),
    ):
        command = commands.add_parser(name, help=help)
        add_socket(command)
        command.set_defaults(function=function)

    command = commands.add_parser("points", help="list a model's operating points")
    command.add_argument("model", nargs="?", metavar="MODEL", help="(default: the only one)")
    add_socket(command)
    command.set_defaults(function=_points)

    command = commands.add_parser("infer", help="run one image")
    command.add_argument("image", type=Path, metavar="IMAGE", help=".ppm, .pgm, .npy; others need Pillow")
    command.add_argument("--model", metavar="MODEL", help="(default: the only one)")
    command.add_argument("--top", type=int, default=5, metavar="K", help="classes to print (default: %(default)s)")
    command.add_argument("--score", type=float, metavar="S", help="boxes from this score on")
    command.add_argument("--repeat", type=int, default=1, metavar="N", help="run it so often, print the times")
    add_socket(command)
    command.set_defaults(function=_infer)


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that talks to the daemon."""
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's (default: PIQI_SOCKET, or the usual)")
    parser.add_argument("--json", action="store_true", help="the daemon's reply as it is")


def connect(arguments: argparse.Namespace) -> Client:
    """A client for a command: it does not wait for a daemon that is not there."""
    return Client(arguments.socket, 5.0, name="piqictl")


def _status(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        status, policy = client.status(), client.policy()
    if arguments.json:
        print(json.dumps(status, indent=1, ensure_ascii=False))
        return
    print(f"up {status['uptime_s']:.0f} s, {status['clients']} clients")
    print(f"policy {policy['policy']}, mode {policy['mode']}: {policy['reason']}")
    sensors = {name: value for name, value in status["sensors"].items() if value is not None}
    print("sensors " + ", ".join(f"{name} {value:.4g}" for name, value in sensors.items()))
    if status["frequencies"]:
        print("frequencies " + ", ".join(f"{name} {khz / 1e6:.3g} GHz" for name, khz in status["frequencies"].items()))
    rows = [("model", "point", "order", "queue", "median ms", "p99 ms", "mW", "switches", "faults", "not kept")]
    for name, model in status["models"].items():
        times = model["latency_us"]
        rows.append(
            (
                name,
                str(model["point"]),
                model["order"] or "-",
                str(model["queue"]),
                milliseconds(times["median"]),
                milliseconds(times["p99"]),
                "-" if model["power_mw"] is None else f"{model['power_mw']:.0f}",
                str(model["switches"]),
                str(model["faults"]),
                ", ".join(model["degraded"]) or "-",
            )
        )
    print()
    print(format_table(rows, left=(0, 2, 9)))


def _models(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        models = client.models()
    if arguments.json:
        print(json.dumps(models, indent=1, ensure_ascii=False))
        return
    rows = [("model", "board", "layers", "points", "input", "outputs", "float32", "int8")]
    rows += [
        (
            model["name"],
            model["board"],
            str(model["layers"]),
            str(model["points"]),
            f"{model['input']['shape']} {model['input']['colour'] or ''}".strip(),
            ", ".join(f"{output['kind']} {output['shape']}" for output in model["outputs"]),
            f"{model['float_accuracy']:.4g} %",
            f"{model['int8_accuracy']:.4g} %",
        )
        for model in models
    ]
    print(format_table(rows, left=(0, 1, 4, 5)))


def _points(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        points = client.points(arguments.model)
        current = client.status()["models"]
    if arguments.json:
        print(json.dumps(points, indent=1, ensure_ascii=False))
        return
    model = arguments.model or next(iter(current))
    rows = [("", "point", "order", "freqs", "ms", "corrected", "mW", "mJ", "accuracy", "")]
    rows += [
        (
            "*" if point["index"] == current[model]["point"] else "",
            str(point["index"]),
            point["order"],
            point["freqs"],
            f"{point['latency_ms']:.4g}",
            f"{point['corrected_latency_ms']:.4g}",
            f"{point['power_mw']:.4g}",
            f"{point['energy_mj']:.4g}",
            f"{point['accuracy']:.2f}",
            "quarantined" if point["quarantined"] else "",
        )
        for point in points
    ]
    print(format_table(rows, left=(0, 2, 3, 9)))


def _stats(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client:
        stats = client.stats()
    if arguments.json:
        print(json.dumps(stats, indent=1, ensure_ascii=False))
        return
    for name in ("requests", "replies", "dropped", "deadline_misses", "bytes", "accepted", "refused"):
        print(f"{name:16} {stats[name]}")
    for code, count in sorted(stats["errors"].items()):
        print(f"error {code:10} {count}")
    rows = [("client", "pid", "requests", "errors", "bytes")]
    rows += [
        (each["client"], str(each["pid"]), *(str(each.get(key, 0)) for key in ("requests", "errors", "bytes")))
        for each in stats["clients"]
    ]
    print()
    print(format_table(rows, left=(0,)))


def _infer(arguments: argparse.Namespace) -> None:
    frame = read_image(arguments.image)
    if arguments.repeat < 1:
        raise ClientError(f"--repeat: expected at least 1, got {arguments.repeat}")
    with connect(arguments) as client:
        models = {model["name"]: model for model in client.models()}
        name = arguments.model or (next(iter(models)) if len(models) == 1 else None)
        if name not in models:
            raise ClientError(f"--model: expected one of {', '.join(models) or 'none'}, got {name!r}")
        kinds = {output["kind"] for output in models[name]["outputs"]}
        options: dict[str, Any] = {"model": name}
        if "boxes" in kinds:
            options["boxes"] = {"score": arguments.score} if arguments.score is not None else True
        elif "classes" in kinds:
            options["top_k"] = arguments.top
        times_ms, result = [], None
        for _ in range(arguments.repeat):
            started_s = time.perf_counter()
            result = client.infer(frame, **options)
            times_ms.append((time.perf_counter() - started_s) * 1e3)
    assert result is not None
    _print_result(result, arguments.json)
    if arguments.repeat > 1:
        print(
            f"{arguments.repeat} times: median {np.median(times_ms):.3f} ms, p99 {np.percentile(times_ms, 99):.3f} ms"
        )


def _print_result(result: Result, as_json: bool) -> None:
    if as_json:
        values = {**vars(result), "outputs": {name: array.tolist() for name, array in result.outputs.items()}}
        print(json.dumps(values, ensure_ascii=False))
        return
    accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.2f} %"
    print(f"{result.model}, point {result.point} ({result.order or 'fallback'}){accuracy}")
    print(f"executor {result.latency_us / 1e3:.3f} ms, waited {result.queue_us / 1e3:.3f} ms")
    if result.degraded:
        print(f"not kept: {', '.join(result.degraded)}")
    for row in result.decoded:
        box = " ".join(f"{value:.1f}" for value in row["box"]) if "box" in row else ""
        print(f"{row['score']:9.4f}  {row.get('label', row['class'])}  {box}".rstrip())
    for name, array in result.outputs.items():
        print(f"{name} {list(array.shape)}: {array.min():.4g} to {array.max():.4g}")


def milliseconds(value_us: float | None) -> str:
    """For a table."""
    return "-" if value_us is None else f"{value_us / 1e3:.3f}"


def read_image(path: Path) -> Array:
    """uint8 [H, W, 3] or [H, W] of a picture, or the array in a .npy file. Raises ClientError, OSError."""
    if path.suffix == ".npy":
        try:
            return cast(Array, np.load(path, allow_pickle=False))
        except ValueError as error:
            raise ClientError(f"{path}: {error}") from error
    data = path.read_bytes()
    header = _PNM.match(data)
    if header:
        width, height, channels = int(header[2]), int(header[3]), 3 if header[1] == b"P6" else 1
        pixels = data[header.end() :]
        if len(pixels) < width * height * channels or not width * height:
            raise ClientError(f"{path}: expected {width}x{height} pixels, the file ends before")
        shape = (height, width, 3) if channels == 3 else (height, width)
        return np.frombuffer(pixels, np.uint8, width * height * channels).reshape(shape)
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError:
        raise ClientError(f"{path}: without Pillow only .ppm, .pgm (8 bit) and .npy can be read") from None
    try:
        with image.open(path) as picture:
            return np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ClientError(f"{path}: is not an image that can be read: {error}") from error
