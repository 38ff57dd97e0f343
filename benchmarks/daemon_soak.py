"""Many requests, switches and deaths of clients: no reply is lost, memory and descriptors stay as they are.

Clients in processes of their own send frames and check every reply; some are killed at random moments and replaced; the
mode is set by hand again and again, so that points are switched between frames.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _daemon import daemon, write_null_bundle

from piqi_runtime.client import Client

SHAPE = (1, 8, 8, 3)
MODES = """
name = "soak"
default = "exact"
dwell_s = 0.0
hysteresis = 0.0
[modes.exact]
objective = "accuracy"  # latencies are corrected by measured ones, and do not differ here
[modes.frugal]
objective = "power"
"""


def work(path: str, requests: int, seed: int) -> None:
    """Sends so many frames, three under way, and checks that each comes back as itself, in order."""
    frame = np.zeros(SHAPE, np.float32)
    rng = random.Random(seed)
    replies = 0
    with Client(path, 60) as client:
        waiting: list[tuple[int, float]] = []
        for number in range(requests):
            frame.flat[0] = value = float(seed * 1000 + number % 1000)
            waiting.append((client.submit(frame), value))
            while waiting and (len(waiting) == 3 or rng.random() < 0.2 or number == requests - 1):
                id, expected = waiting.pop(0)
                got = float(client.receive(id).outputs["y"].flat[0])
                if got != expected:
                    raise SystemExit(f"expected {expected}, got {got}")
                replies += 1
    print(json.dumps(replies))


def measured(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Resident bytes and descriptors of the daemon."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE, len(os.listdir(f"/proc/{process.pid}/fd"))


def start(path: str, requests: int, seed: int) -> subprocess.Popen[str]:
    """A client's process."""
    command = [sys.executable, __file__, "--work", str(requests), "--seed", str(seed), "--socket", path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Runs it and prints what became of memory, descriptors and replies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000, help="in all (%(default)s; the claim: 1,000,000)")
    parser.add_argument("--switches", type=int, default=1000, help="at least (%(default)s; the claim: 10,000)")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.socket, arguments.work, arguments.seed)
        return
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/piqid.sock"
        write_null_bundle(Path(folder) / "null", SHAPE)
        config, policy = Path(folder) / "daemon.toml", Path(folder) / "policy.toml"
        config.write_text('root = ""\nmessages_per_s = 1e6\nmessage_burst = 1e6\nconnections_per_s = 1e6\n')
        policy.write_text(MODES)
        options = ["--config", str(config), "--bundle", f"{folder}/null", "--board", "host", "--policy", str(policy)]
        with daemon(["-m", "piqi_runtime.daemon.main", *options, "--socket", path], path) as process:
            control = Client(path, 60)
            work_each = arguments.requests // arguments.clients
            chunk = max(work_each // 20, 1)
            started_s = time.monotonic()
            running = {start(path, chunk, seed): seed for seed in range(arguments.clients)}
            doomed = {start(path, 1 << 30, 99): time.monotonic() + 1.0}
            replies = deaths = asked = switches = 0
            memory: list[int] = []
            descriptors: list[int] = []
            next_seed = arguments.clients
            while running:
                mode = ("exact", "frugal")[asked % 2]
                if switches < arguments.switches or replies < arguments.requests:
                    control.policy(mode)
                    asked += 1
                time.sleep(0.01)
                for victim, until_s in list(doomed.items()):
                    if time.monotonic() > until_s:
                        victim.send_signal(signal.SIGKILL)
                        victim.communicate()
                        del doomed[victim]
                        deaths += 1
                        doomed[start(path, 1 << 30, 99)] = time.monotonic() + 0.5 + rng.random()
                for client in list(running):
                    if client.poll() is None:
                        continue
                    output = client.communicate()[0]
                    if client.returncode:
                        raise SystemExit(f"a client failed: {output}")
                    del running[client]
                    replies += int(output)
                    switches = control.status()["models"]["null"]["switches"]
                    if replies + len(running) * chunk < arguments.requests or switches < arguments.switches:
                        running[start(path, chunk, next_seed)] = next_seed
                        next_seed += 1
                    size_bytes, count = measured(process)
                    memory.append(size_bytes)
                    descriptors.append(count)
            for victim in doomed:
                victim.kill()
                victim.communicate()
            while control.status()["clients"] > 1:
                time.sleep(0.05)
            seconds = time.monotonic() - started_s
            status = control.status()["models"]["null"]
            size_bytes, count = measured(process)
            control.close()
    warm = memory[len(memory) // 4]
    print(f"{replies} replies, none lost or changed, in {seconds:.0f} s; {deaths} clients killed")
    print(f"{status['switches']} switches of {asked} asked for, {status['faults']} faults")
    print(f"resident: {warm / 2**20:.2f} MiB after a quarter, {size_bytes / 2**20:.2f} MiB at the end: "
          f"{(size_bytes - warm) / 2**20:+.2f} MiB (wanted: at most +1)")  # fmt: skip
    print(f"descriptors: {min(descriptors)} to {max(descriptors)} with clients, {count} at the end")


if __name__ == "__main__":
    main()
