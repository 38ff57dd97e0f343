"""XNNPACK must find every function of the thread pool in our extension: another library's does not know our pools."""

import re
import subprocess
from pathlib import Path

from elf_helpers import functions_left_out, pool_functions

import piqi_native._native


def test_every_function_is_there() -> None:
    extension = Path(piqi_native._native.__file__)
    libraries = subprocess.run(["ldd", extension], text=True, capture_output=True, check=True).stdout
    xnnpack = re.search(r"libXNNPACK\S* => (\S+)", libraries)
    assert xnnpack is not None
    assert len(pool_functions(Path(xnnpack[1]), defined=False)) > 10
    assert functions_left_out(Path(xnnpack[1]), extension) == []
