"""Trees of files in the layouts of boards' sysfs, and a thread that plays the kernel behind them.

Layouts and OPPs are those of the kernels' device trees, arch/arm64/boot/dts/rockchip: rk3399-opp.dtsi (vendor's 4.4),
rk3588s.dtsi (vendor's 5.10, 6.1), rk3588-opp.dtsi (mainline). What sbc-bench (results/reviews) read on boards:
governors, which a vendor's kernel offers to all devices alike, dmc's last frequency, and mainline's RK3399. Mainline
kernels are here built with devfreq's userspace governor, which a distribution may leave out.

    make_tree(tmp_path, "rk3399pro-4.4")
    with Kernel(tmp_path, delay_s=0.001):
        ...  # what is set takes effect a millisecond later
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU = "sys/devices/system/cpu"
PLATFORM = "sys/devices/platform"
DEVFREQ = "sys/class/devfreq"
A53 = (408, 600, 816, 1008, 1200, 1416)
A72 = (*A53, 1608, 1800)
A76 = (*A72, 2016, 2208)  # then, by the chip's grade, one of A76_GRADES; early kernels have them all
A76_GRADES = (2256, 2304, 2352, 2400)
COMMON = "userspace powersave performance simple_ondemand"
RK3399_VENDOR = f"dmc_ondemand {COMMON}"
RK3588_VENDOR = f"rknpu_ondemand dmc_ondemand {COMMON}"


@dataclass(frozen=True)
class Policy:
    """A cpufreq policy."""

    cpus: tuple[int, ...]
    opps_mhz: tuple[int, ...]


@dataclass(frozen=True)
class Device:
    """A devfreq device."""

    name: str
    governor: str
    governors: str
    opps_mhz: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What a board's kernel offers."""

    cpu_governor: str
    cpu_governors: str
    policies: tuple[Policy, ...]
    devices: tuple[Device, ...]


_RK3399_CPUS = (Policy((0, 1, 2, 3), A53), Policy((4, 5), A72))
_RK3588_CPU_GOVERNORS = "conservative ondemand userspace powersave performance schedutil"
_TO_1000 = tuple(range(300, 1001, 100))
_RK3588_DEVICES = (
    Device("fb000000.gpu", "simple_ondemand", RK3588_VENDOR, _TO_1000),
    Device("dmc", "dmc_ondemand", RK3588_VENDOR, (528, 1068, 1560, 2112)),
    Device("fdab0000.npu", "rknpu_ondemand", RK3588_VENDOR, _TO_1000),
)
LAYOUTS = {
    "rk3399pro-4.4": Layout(
        "interactive",
        "conservative ondemand userspace powersave interactive performance",
        _RK3399_CPUS,
        (
            Device("ff9a0000.gpu", "simple_ondemand", RK3399_VENDOR, (200, 300, 400, 600, 800)),
            Device("dmc", "dmc_ondemand", RK3399_VENDOR, (200, 300, 400, 528, 600, 800)),
        ),
    ),
    "rk3399pro-mainline": Layout(
        "schedutil",
        "conservative ondemand userspace powersave performance schedutil",
        _RK3399_CPUS,
        (Device("ff9a0000.gpu", "simple_ondemand", COMMON, (200, 297, 400, 500, 600, 800)),),
    ),
    "rk3588-5.10": Layout(
        "ondemand",
        _RK3588_CPU_GOVERNORS,
        (Policy((0, 1, 2, 3), A72), Policy((4, 5), (*A76, *A76_GRADES)), Policy((6, 7), (*A76, *A76_GRADES))),
        _RK3588_DEVICES,
    ),
    # A chip whose clusters are of two grades.
    "rk3588-6.1": Layout(
        "ondemand",
        _RK3588_CPU_GOVERNORS,
        (Policy((0, 1, 2, 3), A72), Policy((4, 5), (*A76, 2304)), Policy((6, 7), (*A76, 2352))),
        _RK3588_DEVICES,
    ),
    "rk3588-mainline": Layout(
        "schedutil",
        _RK3588_CPU_GOVERNORS,
        (
            Policy((0, 1, 2, 3), A72[3:]),
            Policy((4, 5), (*A76[4:], 2400)),
            Policy((6, 7), (*A76[4:], 2400)),
        ),
        (Device("fb000000.gpu", "simple_ondemand", COMMON, _TO_1000),),
    ),
}


def make_tree(root: str | os.PathLike[str], name: str) -> Path:
    """Writes the layout of that name below `root`, as it is after boot: nothing `userspace`, all at their lowest."""
    root, layout = Path(root), LAYOUTS[name]
    for policy in layout.policies:
        for cpu in policy.cpus:
            _write(root / f"{CPU}/cpu{cpu}", {"online": "1"})
        add_policy(root, policy, layout)
    cpus = [cpu for policy in layout.policies for cpu in policy.cpus]
    _write(root / CPU, {"online": f"0-{max(cpus)}", "possible": f"0-{max(cpus)}"})
    for device in layout.devices:
        add_device(root, device)
    return root


def add_policy(root: Path, policy: Policy, layout: Layout) -> Path:
    """A cpufreq policy and its CPUs' links to it."""
    folder = root / f"{CPU}/cpufreq/policy{policy.cpus[0]}"
    opps = [mhz * 1000 for mhz in policy.opps_mhz]
    cpus = " ".join(map(str, policy.cpus))
    files: dict[str, object] = {
        "affected_cpus": cpus,
        "related_cpus": cpus,
        "cpuinfo_cur_freq": opps[0],
        "cpuinfo_max_freq": opps[-1],
        "cpuinfo_min_freq": opps[0],
        "cpuinfo_transition_latency": 40000,
        "scaling_available_frequencies": " ".join(map(str, opps)) + " ",
        "scaling_available_governors": layout.cpu_governors + " ",
        "scaling_cur_freq": opps[0],
        "scaling_driver": "cpufreq-dt",
        "scaling_governor": layout.cpu_governor,
        "scaling_max_freq": opps[-1],
        "scaling_min_freq": opps[0],
        "scaling_setspeed": "<unsupported>",
    }
    _write(folder, files)
    for cpu in policy.cpus:
        link = root / f"{CPU}/cpu{cpu}/cpufreq"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(f"../cpufreq/{folder.name}")
    return folder


def add_device(root: Path, device: Device) -> Path:
    """A devfreq device and the class's link to it.

    `userspace` is always there, though a kernel has it only under that governor: nobody could make it in time.
    """
    folder = root / f"{PLATFORM}/{device.name}/devfreq/{device.name}"
    opps = [mhz * 1_000_000 for mhz in device.opps_mhz]
    files: dict[str, object] = {
        "available_frequencies": " ".join(map(str, opps)),
        "available_governors": device.governors,
        "cur_freq": opps[0],
        "governor": device.governor,
        "max_freq": opps[-1],
        "min_freq": opps[0],
        "polling_interval": 50,
        "target_freq": opps[0],
        "userspace/set_freq": "undefined",
    }
    _write(folder, files)
    link = root / DEVFREQ / device.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("../../..") / folder.relative_to(root))
    return folder


def set_offline(root: Path, name: str, cpus: Sequence[int]) -> None:
    """Takes CPUs away; a policy without any goes with them (a kernel may also keep it, and answer EBUSY)."""
    for cpu in cpus:
        _write(root / f"{CPU}/cpu{cpu}", {"online": "0"})
    for policy in LAYOUTS[name].policies:
        if set(policy.cpus) <= set(cpus):
            shutil.rmtree(root / f"{CPU}/cpufreq/policy{policy.cpus[0]}")


def set_online(root: Path, name: str, cpus: Sequence[int]) -> None:
    """Brings them back, as after boot."""
    for cpu in cpus:
        _write(root / f"{CPU}/cpu{cpu}", {"online": "1"})
    for policy in LAYOUTS[name].policies:
        if set(policy.cpus) <= set(cpus):
            add_policy(root, policy, LAYOUTS[name])


def first_line(path: Path) -> str:
    """What a sysfs file would read as: an ordinary file keeps what a longer text left behind the first line."""
    return path.read_text().split("\n", 1)[0].strip()


class Kernel:
    """A thread that makes hardware follow what is asked for under `userspace`, `delay_s` later, within the limits."""

    def __init__(self, root: str | os.PathLike[str], delay_s: float = 0.0, poll_s: float = 0.0005) -> None:
        self._delay_s, self._poll_s = delay_s, poll_s
        self._controls = [
            (folder, "scaling_", folder / "scaling_setspeed", ("scaling_cur_freq", "cpuinfo_cur_freq"))
            for folder in sorted((Path(root) / CPU / "cpufreq").glob("policy*"))
        ] + [
            (folder, "", folder / "userspace/set_freq", ("cur_freq", "target_freq"))
            for folder in sorted((Path(root) / DEVFREQ).glob("*"))
        ]
        self._asked: dict[Path, tuple[int, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        """Looks once at all files."""
        for folder, prefix, speed, outputs in self._controls:
            with suppress(OSError, ValueError):  # a folder that is gone, a file just being written
                self._follow(folder, prefix, speed, outputs)

    def __enter__(self) -> Kernel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.step()

    def _follow(self, folder: Path, prefix: str, speed: Path, outputs: tuple[str, ...]) -> None:
        if first_line(folder / f"{prefix}governor") != "userspace" or not (text := first_line(speed)).isdecimal():
            return
        low, high = (int(first_line(folder / f"{prefix}{name}_freq")) for name in ("min", "max"))
        opps = [int(opp) for opp in first_line(folder / f"{prefix}available_frequencies").split()]
        asked = min(max(int(text), low), high)
        target = min([opp for opp in opps if opp >= asked], default=max(opps))
        if int(first_line(folder / outputs[0])) == target:
            self._asked.pop(folder, None)
            return
        before, since = self._asked.get(folder, (None, 0.0))
        if before != target:
            since = time.monotonic()
            self._asked[folder] = target, since
        if time.monotonic() - since >= self._delay_s:
            for name in outputs:
                _put(folder / name, target)


def _write(folder: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{value}\n")


def _put(path: Path, value: object) -> None:
    """Without a moment in which the file is empty."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, f"{value}\n".encode(), 0)
    finally:
        os.close(file)
