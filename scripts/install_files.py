#!/usr/bin/env python3
"""Lays out what runs on a board: programs, units, configuration, and Python packages in a folder of their own.

Run by ``make install`` with the interpreter of the virtual environment, after the extension has been built. What is
installed are the packages that were built and tested there: distributions' own versions of NumPy and pydantic are
often too old, and a board's other programs must not get ours.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"piqid": "piqi_runtime.daemon.main", "piqictl": "piqi_runtime.ctl.cli"}
UNITS = {
    "piqid.service": "lib/systemd/system",
    "piqid.socket": "lib/systemd/system",
    "sysusers.d/piqi.conf": "lib/sysusers.d",
    "tmpfiles.d/piqi.conf": "lib/tmpfiles.d",
    "udev/99-piqi.rules": "lib/udev/rules.d",
}
# What the units make: tmpfiles.d the bundles' folder, the service's RuntimeDirectory that of the state.
SETTINGS = {"bundle_folder": "/var/lib/piqi/bundles", "frequency_state": "/run/piqid/frequencies.json"}
# -I: neither the user's packages nor PYTHON* variables reach the daemon, nor do other packages' plugins for pydantic,
# for which it would search all that is installed at every start.
LAUNCHER = """\
#!{python} -I
import gc
import sys
import types

gc.disable()  # nothing that is imported is garbage: looking for it would cost a tenth of the start
# pydantic's own would import e-mail, zip files and more to find out that there are no plugins.
loader = sys.modules["pydantic.plugin._loader"] = types.ModuleType("pydantic.plugin._loader")
loader.get_plugins = tuple
sys.path.insert(0, "{packages}")
from {module} import main

gc.freeze()
gc.enable()
sys.exit(main())
"""


def main() -> None:
    """Installs under ``DESTDIR`` + ``PREFIX``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--sysconfdir", type=Path, default=Path("/etc"))
    parser.add_argument("--destdir", default="", help="put in front of every path, for packages")
    parser.add_argument("--python", type=Path, help="the board's interpreter")
    arguments = parser.parse_args()
    for path in (arguments.prefix, arguments.sysconfdir):
        if not path.is_absolute():
            parser.error(f"expected an absolute path, got {path}")
    python = arguments.python or board_python()
    if version_of(python) != sys.version_info[:2]:
        parser.error(f"{python} is not Python {sys.version_info[0]}.{sys.version_info[1]}, which the extension is for")
    install(arguments.prefix, arguments.sysconfdir, arguments.destdir, python)


def install(prefix: Path, sysconfdir: Path, destdir: str, python: Path) -> None:
    """Everything, file by file."""

    def staged(path: Path) -> Path:
        return Path(f"{destdir}{path}")

    library = prefix / "lib/piqi"
    packages = library / "python"
    shutil.rmtree(staged(packages), ignore_errors=True)  # modules that this version no longer has
    copy_packages(staged(packages))
    copy_distributions(staged(packages), required_distributions("piqi"))
    compileall.compile_dir(staged(packages), quiet=2, stripdir=destdir or None, workers=1)

    for name, module in PROGRAMS.items():
        text = LAUNCHER.format(python=python, packages=packages, module=module)
        write(staged(prefix / "bin" / name), text, 0o755)
    for name, folder in UNITS.items():
        text = (ROOT / "systemd" / name).read_text().replace("/usr/lib/piqi", str(library))
        text = text.replace("/usr/bin/piqi", f"{prefix}/bin/piqi").replace("/usr/share/doc", f"{prefix}/share/doc")
        write(staged(prefix / folder / Path(name).name), text)
    write(staged(library / "frequency-access"), (ROOT / "systemd/frequency-access").read_text(), 0o755)

    configuration = staged(sysconfdir / "piqi/daemon.toml")
    if destdir or not configuration.exists():  # the administrator's own is not overwritten
        text = (ROOT / "configs/daemon.toml").read_text()
        for key, value in SETTINGS.items():
            text, count = re.subn(f'^{key} = ""', f'{key} = "{value}"', text, flags=re.MULTILINE)
            if count != 1:
                raise SystemExit(f"configs/daemon.toml: {key}: expected once, and empty")
        write(configuration, text)
    for path in (*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"):
        write(staged(prefix / "share/doc/piqi" / path.name), path.read_text())
    write(staged(prefix / "share/doc/piqi/copyright"), (ROOT / "LICENSE").read_text())
    client = ROOT / "native/client"
    write(staged(prefix / "include/piqi.h"), (client / "piqi.h").read_text())
    for path in sorted(client.glob("**/*.c")):  # a program compiles piqi.c into itself
        write(staged(prefix / "share/piqi/client" / path.relative_to(client)), path.read_text())


def copy_packages(target: Path) -> None:
    """piqi_native with its extension, piqi_runtime with configs/."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyi")
    for source, name in (
        ("native/piqi_native", "piqi_native"),
        ("runtime/piqi_runtime", "piqi_runtime"),
        ("configs", "piqi_runtime/configs"),
    ):
        shutil.copytree(ROOT / source, target / name, ignore=ignored)
    extensions = list((target / "piqi_native").glob("_native.*.so"))
    if len(extensions) != 1:
        raise SystemExit(f"native/piqi_native: expected one built extension, found {len(extensions)}: run make build")


def required_distributions(root: str) -> list[str]:
    """Names of all that `root` needs to run, without extras."""
    found: list[str] = []
    waiting = [root]
    while waiting:
        for text in importlib.metadata.requires(waiting.pop()) or ():
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and requirement.name not in found:
                found.append(requirement.name)
                waiting.append(requirement.name)
    return found


def copy_distributions(target: Path, names: list[str]) -> None:
    """The installed files of these distributions, without their tests, programs and byte code."""
    for name in names:
        for file in importlib.metadata.files(name) or ():
            parts = file.parts
            if parts[0] == ".." or "tests" in parts or "__pycache__" in parts or file.suffix in (".pyi", ".lib", ".h"):
                continue
            destination = target / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), destination)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file that may be in use: the old one stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def board_python() -> Path:
    """The system's interpreter if it is of our version, else the one that the virtual environment was made from."""
    system = Path("/usr/bin/python3")
    if system.exists() and version_of(system) == sys.version_info[:2]:
        return system
    return Path(sys.executable).resolve()


def version_of(python: Path) -> tuple[int, ...]:
    """(major, minor) of an interpreter."""
    code = "import sys; print(*sys.version_info[:2])"
    return tuple(
        map(int, subprocess.run([python, "-c", code], text=True, capture_output=True, check=True).stdout.split())
    )


if __name__ == "__main__":
    main()
