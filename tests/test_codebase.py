"""The linters, the type checker and rules of the whole code base."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import piqi_native

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"piqi_native": "native", "piqi_runtime": "runtime", "piqi_planner": "planner"}
IGNORED = {"build", "dist", "demo"}  # and what is hidden, but for .ci


def files(*suffixes: str) -> list[Path]:
    """Our own files with these suffixes ("" for all that is text)."""
    found = []
    for top in ROOT.iterdir():
        # Not looked into at all: builds that run beside the tests remove folders there.
        if top.name in IGNORED or (top.name.startswith(".") and top.name != ".ci"):
            continue
        for path in [top, *top.rglob("*")]:
            generated = path.suffix == ".so" or "__pycache__" in path.parts
            if not generated and path.name.endswith(suffixes) and path.is_file():
                found.append(path)
    return sorted(found)


def check(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, f"{' '.join(command[:4])}:\n{result.stdout}"


def test_ruff() -> None:
    check(sys.executable, "-m", "ruff", "check", "--quiet", ".")


def test_ruff_format() -> None:
    check(sys.executable, "-m", "ruff", "format", "--check", "--quiet", "--diff", ".")


@pytest.mark.timeout(1800)  # the first run reads the stubs of everything we use
def test_mypy() -> None:
    check(sys.executable, "-m", "mypy")


def test_clang_format() -> None:
    check("clang-format", "--dry-run", "-Werror", *map(str, files(".cpp", ".hpp")))


def test_version_is_the_same_everywhere() -> None:
    header = (ROOT / "native/include/piqi/version.hpp").read_text()
    version = re.search(r'#define PIQI_VERSION "(.+)"', header)
    assert version is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", version[1])
    assert importlib.metadata.version("piqi") == version[1]
    assert piqi_native.__version__ == version[1]


def test_no_path_of_a_machine() -> None:
    """Nothing names a folder of the machine that it was written on."""
    pattern = re.compile(r"/(home|root|Users)/\w|" + re.escape(str(ROOT.parent)) + "/")
    found = []
    for path in files(""):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # models, pictures
        found += [f"{path.relative_to(ROOT)}: {line}" for line in text.splitlines() if pattern.search(line)]
    assert [line for line in found if not line.startswith("tests/test_codebase.py")] == []


def test_every_folder_of_modules_is_a_package() -> None:
    """Without an `__init__.py` it would not be installed."""
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder / package).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} has no __init__.py"


def imports(path: Path) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_imports_run_one_way() -> None:
    order = list(PACKAGES)
    for i, package in enumerate(order):
        modules = sorted((ROOT / PACKAGES[package] / package).rglob("*.py"))
        assert modules, f"{package} has no modules"
        for module in modules:
            assert imports(module).isdisjoint(order[i + 1 :]), f"{module} imports what builds on it"


def test_runtime_needs_only_its_own_dependencies() -> None:
    """What runs on a board imports nothing that only a workstation has."""
    modules = [
        ".".join(path.relative_to(ROOT / "runtime").with_suffix("").parts)
        for path in sorted((ROOT / "runtime/piqi_runtime").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    heavy = [
        "tensorflow",
        "ai_edge_litert",
        "tflite",
        "pymoo",
        "matplotlib",
        "PIL",
        "sklearn",
        "scipy",
        "piqi_planner",
    ]
    code = f"import sys\nfor m in {modules}: __import__(m)\nprint(*set(sys.modules) & set({heavy}))"
    result = subprocess.run([sys.executable, "-c", code], cwd="/", text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
