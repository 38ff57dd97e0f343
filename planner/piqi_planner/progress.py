"""A progress bar with the time left, on a terminal; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yields the items; shows on stderr how many of `total` are done and how long the rest will take."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def share_bar(title: str) -> Iterator[Callable[[float], None]]:
    """A function to call with the share of the work that is done, 0 to 1."""
    columns = (TextColumn(title), BarColumn(), TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done: bar.update(task, completed=done)


class StageBars:
    """One display for work in stages: a line for each stage, and one for the whole with the time left.

    `shares`: stage -> share of the time that it usually takes. Use as a context manager.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._shares = shares
        self._done = 0.0
        self._tasks = {name: self._progress.add_task(name, total=1.0, start=False) for name in shares}
        self._whole = self._progress.add_task("all", total=sum(shares.values()))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """A function to call with the share of the stage that is done; at the end all of it is."""
        task, share = self._tasks[name], self._shares[name]
        self._progress.start_task(task)

        def update(done: float) -> None:
            self._progress.update(task, completed=done)
            self._progress.update(self._whole, completed=self._done + share * done)

        yield update
        update(1.0)
        self._done += share

    def __enter__(self) -> StageBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
