"""What shared libraries import and export."""

import re
import subprocess
from pathlib import Path


def functions_left_out(library: Path, extension: Path) -> list[str]:
    """Functions of pthreadpool that `library` calls and `extension` does not have."""
    return sorted(pool_functions(library, defined=False) - pool_functions(extension, defined=True))


def pool_functions(path: Path, defined: bool) -> set[str]:
    """pthreadpool's functions that a library exports (`defined`) or imports."""
    table = subprocess.run(["readelf", "--wide", "--dyn-syms", path], text=True, capture_output=True, check=True).stdout
    rows = re.findall(
        r"FUNC +GLOBAL +DEFAULT +(\w+) (pthreadpool_\w+)|NOTYPE +GLOBAL +DEFAULT +(UND) (pthreadpool_\w+)", table
    )
    pairs = [(row[0] or row[2], row[1] or row[3]) for row in rows]
    return {name for section, name in pairs if (section != "UND") == defined}
