"""A daemon whose model does what each frame says: python scripted_daemon.py SOCKET BUNDLE [SETTINGS]

The frame's first value: seconds to run; NaN: the backend fails; negative: it hangs; a million and a number: it waits
while there is a file SOCKET.gate<number>, and makes another with .reached behind its name. The output is the frame.
SETTINGS: JSON, the daemon's, and `npu`: whether frames need more than CPUs, `short_us`: which ones are short.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from daemon_helpers import GATES

from piqi_runtime.boards import load_board
from piqi_runtime.bundle import load_bundle
from piqi_runtime.daemon import runner, signals
from piqi_runtime.daemon.config import DaemonConfig
from piqi_runtime.daemon.listening import listen
from piqi_runtime.daemon.runner import HostEvents, Serving
from piqi_runtime.daemon.server import Server
from piqi_runtime.host.errors import HostFault
from piqi_runtime.policy.config import load_policy


class ScriptedHost:
    current = 0

    def __init__(self, points: int, events: HostEvents, socket: Path, npu: bool) -> None:
        self.socket, self.cpus_alone = socket, not npu
        self.latency_factor = self.power_factor = np.ones(points, np.float32)
        self.excluded = np.zeros(points, bool)
        self.events = events

    def request(self, point: int) -> bool:
        return True

    def run(self, frame: np.ndarray) -> SimpleNamespace:
        seconds = float(frame.flat[0])
        if not seconds >= 0:
            fault = HostFault("backend_hung" if seconds < 0 else "backend_failed", "as the frame says", "L", 0)
            self.events.failed(fault)
            try:
                raise fault
            finally:
                del fault  # it knows this frame, which knows the client's pool
        if seconds >= GATES:
            self.wait(seconds)
        else:
            time.sleep(seconds)
        return SimpleNamespace(outputs={"y": frame.copy()}, point=0, latency_us=seconds * 1e6)

    def wait(self, value: float) -> None:
        gate = self.socket.with_name(f"{self.socket.name}.gate{value - GATES:.0f}")
        gate.with_name(f"{gate.name}.reached").touch()
        while gate.exists():
            time.sleep(0.002)

    def status(self) -> dict:
        return {}

    def close(self) -> None:
        pass


def main() -> None:
    signals.hold()
    path, bundle = sys.argv[1], load_bundle(Path(sys.argv[2]), verify=False)
    settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    npu, runner.SHORT_US = settings.pop("npu", False), settings.pop("short_us", runner.SHORT_US)
    config = DaemonConfig(root="", **settings)
    events = HostEvents()
    serving = Serving(bundle, ScriptedHost(len(bundle.table.points), events, Path(path), npu), events)
    server = Server(config, load_board("host"), load_policy("default"), listen(path), {"net": serving})
    signals.deliver(lambda _: server.loop.call_soon(server.stop))
    server.run()
    os._exit(0)  # as piqid, whose threads may hang


if __name__ == "__main__":
    main()
