"""Builds the extension `piqi_native._native` and maps the three packages to their folders."""

import os
import re
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import find_packages, setup

ROOT = Path(__file__).parent
HEADERS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("native/**/*.hpp"))
SOURCES = sorted(
    str(path.relative_to(ROOT)) for folder in ("src", "bindings") for path in ROOT.glob(f"native/{folder}/*.cpp")
)
FOLDERS = {"piqi_native": "native", "piqi_runtime": "runtime", "piqi_planner": "planner"}
CONFIGS = "piqi_runtime.configs"  # where an installed piqi_runtime finds what lies in configs/ here


class BuildExt(build_ext):
    """Keeps objects in one place, so that every way to build (pip, make) recompiles only what has changed."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = f"build/extension-{sys.implementation.cache_tag}"

    def build_extension(self, ext: Pybind11Extension) -> None:
        """With the backends on the Arm Compute Library where its headers are (PIQI_ARMCL=0: without)."""
        if os.environ.get("PIQI_ARMCL") != "0" and self.compiles("#include <arm_compute/core/Types.h>"):
            self.build_temp += "-armcl"  # objects without it are others
            ext.define_macros.append(("PIQI_ARMCL", None))
            ext.libraries.append("arm_compute")
            # Newer releases have one library only.
            ext.libraries += ["arm_compute_core"] if self.compiles("int main() {}", "-larm_compute_core") else []
        super().build_extension(ext)

    def compiles(self, code: str, *options: str) -> bool:
        """Whether the compiler takes this C++, linked with `options` if there are any."""
        command = [*self.compiler.compiler_so, "-std=c++17", "-xc++", "-", "-o/dev/null", *(options or ["-c"])]
        return subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0


def needs_recompile(object_file: str, source: str) -> bool:
    """True unless `object_file` is newer than all it was compiled from, as the compiler (-MMD) noted it."""
    dependencies = Path(object_file).with_suffix(".d")
    if not (os.path.exists(object_file) and dependencies.exists()):
        return True
    built_at = os.path.getmtime(object_file)
    names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return any(not os.path.exists(name) or os.path.getmtime(name) >= built_at for name in [source, *names])


def version() -> str:
    """The version that version.hpp states."""
    header = (ROOT / "native/include/piqi/version.hpp").read_text()
    match = re.search(r'#define PIQI_VERSION "(.+)"', header)
    if match is None:
        raise SystemExit("native/include/piqi/version.hpp: no PIQI_VERSION")
    return match[1]


extension = Pybind11Extension(
    "piqi_native._native",
    SOURCES,
    depends=HEADERS,
    include_dirs=["native/include", "native/src"],
    libraries=["XNNPACK", "pthreadpool", "dl"],
    cxx_std=17,
    extra_compile_args=[
        "-O3",
        "-fno-math-errno",
        "-g0",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-fvisibility=hidden",
        "-pthread",
        "-MMD",
    ]
    + (["-Werror"] if os.environ.get("PIQI_WERROR") == "1" else []),
    extra_link_args=["-pthread"],
)

ParallelCompile("PIQI_BUILD_JOBS", needs_recompile=needs_recompile).install()
config_folders = ["", *sorted(f".{path.name}" for path in (ROOT / "configs").iterdir() if path.is_dir())]
setup(
    version=version(),
    packages=sorted({*FOLDERS, *(package for folder in FOLDERS.values() for package in find_packages(folder))})
    + [CONFIGS + folder for folder in config_folders],
    package_dir={package: f"{folder}/{package}" for package, folder in FOLDERS.items()} | {CONFIGS: "configs"},
    package_data={"": ["*.toml", "*.tflite", "py.typed", "*.pyi"]},
    include_package_data=False,
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExt},
)
