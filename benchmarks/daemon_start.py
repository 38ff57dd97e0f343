"""How long piqid takes from its start to READY, as it is installed, with one bundle.

python benchmarks/daemon_start.py [--model FILE] [--rounds N] [--imports]

The files are laid out as `make install` does it, and the installed program is started as systemd would: READY is
what it says on its notification socket. The floor: the same interpreter importing what the daemon cannot do
without, NumPy and pydantic. Wanted: at most 300 ms. With ``--imports`` the modules that cost most are listed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _daemon import write_null_bundle
from _executor import machine, mobilenet, parser, table
from daemon_switch import make_bundle

from piqi_runtime.boards import load_board

WANTED_MS = 300.0
ROOT = Path(__file__).resolve().parents[1]


class Installed:
    """PiQi under a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [
            sys.executable,
            ROOT / "scripts/install_files.py",
            "--prefix",
            folder,
            "--sysconfdir",
            folder / "etc",
        ]
        subprocess.run(command, check=True)
        launcher = (folder / "bin/piqid").read_text()
        (self.python,) = re.findall(r"^#!(\S+) -I$", launcher, re.MULTILINE)
        (self.packages,) = re.findall(r'^sys\.path\.insert\(0, "(.+)"\)$', launcher, re.MULTILINE)
        (folder / "daemon.toml").write_text('root = ""\nboard = "host"\n')

    def command(self, *bundles: Path) -> list[str]:
        """piqid, on a socket of its own."""
        options = ["--config", str(self.folder / "daemon.toml"), "--socket", str(self.folder / "socket")]
        for bundle in bundles:
            options += ["--bundle", str(bundle)]
        return [str(self.folder / "bin/piqid"), *options]

    def ready_ms(self, *bundles: Path) -> float:
        """One start."""
        address = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(60)
            environment = {**os.environ, "NOTIFY_SOCKET": address, "OPENBLAS_NUM_THREADS": "1"}  # as the unit has it
            started_s = time.perf_counter()
            process = subprocess.Popen(self.command(*bundles), env=environment, stderr=subprocess.DEVNULL)
            try:
                while b"READY=1" not in manager.recv(4096):
                    pass
                return 1e3 * (time.perf_counter() - started_s)
            finally:
                process.terminate()
                process.wait(10)
                os.unlink(address)

    def run_ms(self, code: str) -> float:
        """A program of the same interpreter and packages."""
        code = f"import gc, sys\ngc.disable()\nsys.path.insert(0, {self.packages!r})\n{code}"
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        started_s = time.perf_counter()
        subprocess.run([self.python, "-I", "-c", code], env=environment, check=True)
        return 1e3 * (time.perf_counter() - started_s)

    def imports(self) -> list[tuple[str, str, str]]:
        """The twelve modules that take longest themselves: name, own and whole milliseconds."""
        later = "gc.disable()\nfrom piqi_runtime.daemon import process, server\nimport piqi_runtime.host.model_host"
        text = Path(self.command()[0]).read_text().replace("sys.exit(main())", later)
        result = subprocess.run(
            [self.python, "-I", "-X", "importtime", "-c", text], text=True, capture_output=True, check=True
        )
        rows = re.findall(r"^import time: +(\d+) \| +(\d+) \| +(\S+)$", result.stderr, re.MULTILINE)
        worst = sorted(rows, key=lambda row: -int(row[0]))[:12]
        return [(name, f"{int(own) / 1e3:.1f}", f"{int(whole) / 1e3:.1f}") for own, whole, name in worst]


def main() -> None:
    """Prints the table."""
    arguments = parser(__doc__, 20)
    arguments.add_argument("--imports", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed = Installed(folder / "installed")
        write_null_bundle(folder / "null")
        make_bundle(mobilenet(options.model), folder / "mobilenet", load_board("host"))
        cases: dict[str, Callable[[], float]] = {
            "interpreter alone": lambda: installed.run_ms(""),
            "floor: import numpy, pydantic": lambda: installed.run_ms("import numpy, pydantic"),
            "piqid, no bundle": lambda: installed.ready_ms(),
            "piqid, a bundle of one operator": lambda: installed.ready_ms(folder / "null"),
            "piqid, MobileNet-0.75 with its partitions": lambda: installed.ready_ms(folder / "mobilenet"),
        }
        for measure in cases.values():
            measure()  # files are in the page cache
        times: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, measure in cases.items():
                times[case].append(measure())
        print(machine())
        rows = [
            (case, *(f"{value:.0f}" for value in (np.median(ms), np.min(ms), np.max(ms)))) for case, ms in times.items()
        ]
        table(("from start to READY, or to the end", "median ms", "least", "most"), rows)
        median_ms = float(np.median(times["piqid, MobileNet-0.75 with its partitions"]))
        print(
            f"wanted: at most {WANTED_MS:.0f} ms; {'kept' if median_ms <= WANTED_MS else 'not kept'}: {median_ms:.0f}"
        )
        if options.imports:
            table(("module", "own ms", "with what it imports"), installed.imports())


if __name__ == "__main__":
    main()
