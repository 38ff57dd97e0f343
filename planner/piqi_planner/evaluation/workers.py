"""Where tasks run: processes of this machine, or an existing Dask cluster. The results are the same."""

from __future__ import annotations

import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

from piqi_planner.evaluation.tasks import EvaluationContext, Task, run_task
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from piqi_planner.evaluation.store import Records

Result = tuple[Task, "list[Records]"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
#: A pool of processes whose member was killed (by the system, short of memory) is made anew this many times.
RESTARTS = 3
#: How long a cluster's scheduler, and its first worker, are waited for.
CLUSTER_S = 10.0


class WorkersError(PiqiError):
    """Workers that cannot be had: too little memory, no cluster at the address, processes that keep dying."""


class Workers(ABC):
    """Runs tasks of one context."""

    #: How many tasks run at a time, about.
    count: int
    #: Where searches run: a cluster, or None for processes of this machine.
    pool: Executor | None = None

    @abstractmethod
    def run(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """Each task with its result, in the order in which they are done. Raises what a task raises."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the processes or the cluster. Idempotent."""

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalWorkers(Workers):
    """A process for each CPU, or as many as `memory_bytes` allow. Raises WorkersError where not even one fits."""

    def __init__(self, context: EvaluationContext, memory_bytes: int | None = None, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        if memory_bytes is not None:
            needed = context.memory_bytes()
            if needed > memory_bytes:
                raise WorkersError(
                    f"--memory: evaluating '{context.exact.name}' needs about {needed >> 20} MiB, "
                    f"got {memory_bytes >> 20} MiB"
                )
            self.count = min(self.count, memory_bytes // needed)
        self._context = context
        self._pool: ProcessPoolExecutor | None = None

    def run(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """See `Workers.run`. Tasks of a process that dies are given to another."""
        left = dict(enumerate(tasks))
        deaths = 0
        while left:
            try:
                for place, result in self._run(left):
                    yield left.pop(place), result
            except BrokenProcessPool as error:  # noqa: PERF203
                self.close()
                deaths += 1
                if deaths > RESTARTS:
                    raise WorkersError(f"a worker process died {deaths} times; is memory short?") from error

    def _run(self, tasks: dict[int, Task]) -> Iterator[tuple[int, list[Records]]]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), _set_context, (self._context,))
        places: dict[Future[list[Records]], int] = {
            self._pool.submit(_run_own, task): place for place, task in tasks.items()
        }
        while places:
            done, _ = wait(places, return_when=FIRST_COMPLETED)
            for future in done:
                yield places.pop(future), future.result()

    def close(self) -> None:
        """Ends the processes at once; what they had begun is lost."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            self._pool = None


class DaskWorkers(Workers):
    """The workers of a Dask cluster; `address` is its scheduler's. They need PiQi's planner installed.

    Frames are sent from here: workers share no file system with this machine. Raises WorkersError.
    """

    def __init__(self, context: EvaluationContext, address: str) -> None:
        try:
            import distributed as module
        except ImportError as error:
            raise WorkersError("--dask needs the package distributed: pip install 'dask[distributed]'") from error
        try:
            distributed: Any = module  # its functions are not annotated
            self._client = distributed.Client(address, timeout=CLUSTER_S)
        except (OSError, ValueError) as error:
            raise WorkersError(f"--dask: no scheduler answers at {address}: {error}") from error
        try:
            self._client.wait_for_workers(1, timeout=CLUSTER_S)
        except TimeoutError as error:
            self.close()
            raise WorkersError(f"--dask: the scheduler at {address} has no workers") from error
        self._as_completed = distributed.as_completed
        self._address = address
        self._lost = (distributed.KilledWorker, distributed.comm.CommClosedError, CancelledError)
        self._context = context
        self._scattered = self._client.scatter(context.without_frames(), broadcast=True)
        self.count = max(1, sum(self._client.nthreads().values()))
        self.pool = self._client.get_executor()

    def run(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """See `Workers.run`. Dask gives the tasks of a worker that is lost to another.

        Raises WorkersError where the scheduler or the last worker is lost.
        """
        ahead = 4 * self.count  # frames of more tasks would fill the scheduler's memory
        waiting = iter(enumerate(tasks))
        places: dict[str, int] = {}

        def submit() -> Iterator[Any]:
            for place, task in waiting:
                assert self._context.dataset is not None
                frames = self._context.dataset.frames(task.first, task.count)
                future = self._client.submit(run_task, self._scattered, task, frames, pure=False)
                places[future.key] = place
                yield future

        submitted = submit()
        try:
            completed = self._as_completed(list(islice(submitted, ahead)))
            for future in completed:
                yield tasks[places[future.key]], future.result()
                for more in submitted:
                    completed.add(more)
                    break
        except self._lost as error:
            raise WorkersError(f"--dask: the cluster at {self._address} was lost: {error}") from error

    def close(self) -> None:
        """Leaves the cluster as it was."""
        self._client.close()


def parse_bytes(text: str) -> int:
    """ "2G", "512M", "1.5GiB" -> bytes. Raises WorkersError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if match is None:
        raise WorkersError(f"--memory: expected a size such as 2G or 512M, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


_own_context: list[EvaluationContext] = []


def _set_context(context: EvaluationContext) -> None:
    _own_context[:] = [context]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle: it ends its processes
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent was killed, its processes would wait for tasks for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_own(task: Task) -> list[Records]:
    return run_task(_own_context[0], task)
