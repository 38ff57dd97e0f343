"""Pools: memory that a client shares with the daemon, and the frames and tensors in it."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from typing import Any

import numpy as np
import numpy.typing as npt

from piqi_runtime.daemon.protocol import MAX_POOL_BYTES, ProtocolError

Array = npt.NDArray[Any]

_NEEDED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Pool:
    """A sealed memfd of a client, mapped once. The mapping lives as long as something refers to its `bytes`."""

    def __init__(self, number: int, descriptor: int) -> None:
        """Maps `descriptor`, which stays the caller's. Raises ProtocolError (unsealed_pool, bad_pool)."""
        self.number = number
        try:
            status = os.fstat(descriptor)
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) if stat.S_ISREG(status.st_mode) else 0
            # Pages of hugetlbfs may fail to come when they are touched, which no seal prevents.
            small_pages = os.fstatvfs(descriptor).f_bsize == mmap.PAGESIZE
        except OSError:
            seals, small_pages = 0, True  # not a memfd: it has no seals
        if seals & _NEEDED_SEALS != _NEEDED_SEALS:
            raise ProtocolError(
                "unsealed_pool", "expected a memfd with F_SEAL_SHRINK and F_SEAL_GROW: memory that cannot go away"
            )
        self.size_bytes = status.st_size
        if not small_pages or not 0 < self.size_bytes <= MAX_POOL_BYTES:
            raise ProtocolError(
                "bad_pool",
                f"expected a memfd of 1 to {MAX_POOL_BYTES} bytes in small pages, got {self.size_bytes} bytes",
            )
        try:
            memory = mmap.mmap(descriptor, self.size_bytes)
        except OSError:
            try:  # it may be sealed against writing, or have been opened for reading only
                memory = mmap.mmap(descriptor, self.size_bytes, prot=mmap.PROT_READ)
            except OSError as error:
                raise ProtocolError("bad_pool", f"cannot be mapped: {error.strerror}") from None
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)

    @property
    def writable(self) -> bool:
        return bool(self.bytes.flags.writeable)

    def read(self, field: str, offset: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """A view [size_bytes]. Raises ProtocolError (bad_pool)."""
        if not 0 <= offset <= self.size_bytes - size_bytes:
            raise ProtocolError(
                "bad_pool",
                f"{field}: {size_bytes} bytes at offset {offset} are not inside of pool {self.number}, "
                f"which has {self.size_bytes}",
            )
        return self.bytes[offset : offset + size_bytes]

    def write(self, field: str, offset: int, tensor: Array) -> None:
        """Copies `tensor` (C order) to `offset`. Raises ProtocolError (bad_pool)."""
        target = self.read(field, offset, tensor.nbytes)
        if not self.writable:
            raise ProtocolError("bad_pool", f"{field}: pool {self.number} is sealed against writing")
        target.view(tensor.dtype).reshape(tensor.shape)[...] = tensor
