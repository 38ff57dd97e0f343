"""Where tasks run: processes of this machine, or an existing Dask cluster. The results are the same."""

from __future__ import annotations

import os
import re
import signal
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import TYPE_CHECKING, Any

from piqi_planner.evaluation.tasks import EvaluationContext, Task, run_task
from piqi_runtime.errors import PiqiError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from piqi_planner.evaluation.store import Records

Result = tuple[Task, "list[Records]"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
#: A process that was killed (by the system, short of memory) is replaced, this many times in all.
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
        self._processes: dict[Connection, SpawnProcess] = {}

    def run(self, tasks: Sequence[Task]) -> Iterator[Result]:
        """See `Workers.run`. The task of a process that dies is given to another."""
        left, busy = deque(tasks), dict[Connection, Task]()
        deaths = 0

        def died(connection: Connection | None, error: BaseException) -> None:
            nonlocal deaths
            if connection is not None:
                self._end(connection)
                if connection in busy:
                    left.appendleft(busy.pop(connection))
            deaths += 1
            if deaths > RESTARTS:
                raise WorkersError(f"a worker process died {deaths} times; is memory short?") from error

        def give() -> None:
            while left and len(busy) < self.count:
                connection = next((c for c in self._processes if c not in busy), None)
                try:
                    connection = connection or self._start()
                    connection.send(left[0])
                except OSError as error:
                    died(connection, error)
                else:
                    busy[connection] = left.popleft()

        try:
            while left or busy:
                give()
                for connection in [c for c in wait(list(busy)) if isinstance(c, Connection)]:
                    try:
                        found, trace = connection.recv()
                    except (EOFError, OSError) as error:
                        died(connection, error)
                        continue
                    task = busy.pop(connection)
                    if isinstance(found, Exception):
                        raise found from RuntimeError(f"in a worker process:\n{trace}")
                    give()  # now: what is done with a result may take long
                    yield task, found
        finally:
            if busy:  # what they send would be taken for an answer to a later task
                self.close()

    def _start(self) -> Connection:
        # Each has a connection of its own: where they share one, what a process that was killed had sent in part
        # stands before all that the others send.
        spawn = get_context("spawn")
        ours, theirs = spawn.Pipe()
        with theirs:
            process = spawn.Process(target=_work, args=(self._context, theirs), daemon=True)
            process.start()
        self._processes[ours] = process
        return ours

    def _end(self, connection: Connection) -> None:
        process = self._processes.pop(connection)
        process.kill()
        process.join()
        connection.close()

    def close(self) -> None:
        """Ends the processes at once; what they had begun is lost."""
        for process in self._processes.values():
            process.kill()
        for connection in list(self._processes):
            self._end(connection)


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


def _work(context: EvaluationContext, connection: Connection) -> None:
    """Answers each task with its result, or with an error and where it was raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle: it ends its processes
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has gone
        while True:
            task = connection.recv()
            try:
                answer: tuple[Any, str] = run_task(context, task), ""
            except Exception as error:
                answer = error, traceback.format_exc()
            connection.send(answer)


def _end_with_parent() -> None:
    """Where the parent was killed, its processes would wait for tasks for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
