"""A daemon around a real host whose processors take as long as a file says.

python slowed_daemon.py SOCKET BUNDLE DELAYS
DELAYS: JSON, processor's kind ("gpu", "cpu") -> seconds a layer. The output is relu of the frame.

So long they take by the clocks that the host measures with: one of frames, one of probes, which are all zeros. Each
probe's frame is a byte in a file "probes" beside DELAYS.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import piqi_native
from piqi_runtime.boards import load_board
from piqi_runtime.bundle import load_bundle
from piqi_runtime.daemon import signals
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.listening import listen
from piqi_runtime.daemon.runner import HostEvents, Serving
from piqi_runtime.daemon.server import Server
from piqi_runtime.host import ModelHost, model_host, switcher
from piqi_runtime.policy.config import Mode, Policy

Arrays = dict[str, np.ndarray]


class Clock:
    """A stand-in for the module `time` that says how long runs have taken, and nothing else."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.module = SimpleNamespace(
            perf_counter=lambda: self.seconds,
            perf_counter_ns=lambda: round(1e9 * self.seconds),
            monotonic=time.monotonic,
            sleep=time.sleep,
        )


FRAMES, PROBES = Clock(), Clock()


class Slowed:
    def __init__(self, delays: Path, kind: str) -> None:
        self.delays, self.kind = delays, kind

    def prepare(self, sub_graph: piqi_native.SubGraph, inputs: list[str], outputs: list[str]) -> "SlowedSubGraph":
        return SlowedSubGraph(self, outputs)


class SlowedSubGraph:
    def __init__(self, backend: Slowed, outputs: list[str]) -> None:
        self.backend, self.outputs = backend, outputs

    def run(self, inputs: Arrays) -> Arrays:
        (x,) = inputs.values()
        time.sleep(0.002)  # other clients' turn
        seconds = json.loads(self.backend.delays.read_text())[self.backend.kind]
        if x.any():
            FRAMES.seconds += seconds
        else:
            PROBES.seconds += seconds
            with self.backend.delays.with_name("probes").open("ab") as probes:
                probes.write(b".")
        return dict.fromkeys(self.outputs, np.maximum(x, 0))

    def close(self) -> None:
        pass


def main() -> None:
    signals.hold()
    path, folder, delays = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    switcher.SLOW_PAUSE_S = 0.3  # a test does not wait half a minute
    model_host.time, switcher.time = FRAMES.module, PROBES.module  # type: ignore[assignment]
    board, bundle = load_board("rk3399pro"), load_bundle(folder, verify=False)
    events = HostEvents()
    backends = {"armcl_cl": Slowed(delays, "gpu"), "armcl_neon": Slowed(delays, "cpu")}
    told = {"on_switch": events.switched, "on_fault": events.failed}
    host = ModelHost(bundle, board, backends=backends, timeout_s=60.0, **told)
    policy = Policy(name="fastest", default="fast", modes={"fast": Mode(objective="latency")})
    config = DaemonConfig(root="", tick_s=0.05)
    server = Server(config, board, policy, listen(path), {"net": Serving(bundle, host, events)})
    signals.deliver(lambda _: server.loop.call_soon(server.stop))
    server.run()
    os._exit(0)  # as piqid, whose threads may hang


if __name__ == "__main__":
    main()
