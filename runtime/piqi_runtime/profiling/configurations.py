"""Which run configurations a profile needs. Each is measured once a round, however many tables it serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from piqi_runtime.boards import Board

Range = tuple[int, int]
Network = Literal["model", "synthetic"]


@dataclass(frozen=True)
class Configuration:
    """`network`: the kit's model, or the synthetic one; `order`, `freqs` as in a table. Empty order: the idle board."""

    network: Network
    order: str
    freqs: str

    def __str__(self) -> str:
        return f"{self.network} {self.order} {self.freqs}" if self.order else "idle"


IDLE = Configuration("model", "", "")


@dataclass(frozen=True)
class State:
    """A processor at an operating point: `own` index (of an NPU its host's) and `host`'s, if it has one.

    `token`: as run configurations have it.
    """

    letter: str
    own: int
    host: int | None
    token: str


class Space:
    """What is to be measured: processors of a board, and the frequency indices of each.

    `letters`: with the hosts of all that have one; `indices`: of those with less than all.
    """

    def __init__(self, board: Board, letters: Iterable[str], indices: Mapping[str, Sequence[int]]) -> None:
        self.board = board
        wanted = set(letters)
        self.letters = "".join(letter for letter in board.letters if letter in wanted)
        self._indices = {
            letter: sorted(indices.get(letter, range(board.processor(letter).opp_count))) for letter in board.letters
        }

    def indices(self, letter: str) -> list[int]:
        """Frequency indices of a processor; of an NPU its host's."""
        processor = self.board.processor(letter)
        return self._indices[processor.host if processor.kind == "npu" and processor.host else letter]

    def kind(self, letter: str) -> str:
        """cpu, gpu or npu."""
        return self.board.processor(letter).kind

    def states(self, letter: str) -> list[State]:
        """All operating points of a processor."""
        processor = self.board.processor(letter)
        if processor.host is None:
            return [State(letter, own, None, str(own)) for own in self.indices(letter)]
        hosts = self.indices(processor.host)
        if processor.kind == "npu":
            return [State(letter, host, host, str(host)) for host in hosts]
        return [State(letter, own, host, f"{own}-{host}") for own in self.indices(letter) for host in hosts]

    def movers(self) -> str:
        """Those that transfers are measured between: CPUs and GPUs; an NPU's are its host's."""
        return "".join(letter for letter in self.letters if self.kind(letter) != "npu")

    def lowest(self, letter: str) -> str:
        """The token of the lowest frequencies."""
        return "0-0" if self.kind(letter) == "gpu" else "0"

    def host(self, letter: str) -> str:
        """The CPU that feeds a processor; a CPU feeds itself."""
        return self.board.processor(letter).host or letter


def plan(space: Space, layer_count: int, ranges: Sequence[Range]) -> list[Configuration]:
    """All configurations, each once. `ranges`: of the partitions there are, for runs of layers on an NPU."""
    found: list[Configuration] = [IDLE]
    for letter in space.letters:
        for state in space.states(letter):
            found += layer_configurations(space, state, layer_count)
        if space.kind(letter) == "npu":
            found += [run_configuration(space, letter, span, layer_count) for span in long_runs(ranges)]
        else:
            found += [change for change, _, _ in changes(space, letter, layer_count)]
    if layer_count > 1:
        for source, destination in pairs(space):
            found.append(alternating(space, source, destination, layer_count))
    found += [configuration for _, configuration in frequency_rows(space)]
    return list(dict.fromkeys(found))


def layer_configurations(space: Space, state: State, layer_count: int) -> list[Configuration]:
    """Those that have every layer in `state`; an NPU's take turns with its host, so that each layer is one run."""
    if space.kind(state.letter) != "npu" or layer_count == 1:
        return [Configuration("model", state.letter * layer_count, " ".join([state.token] * layer_count))]
    host = space.host(state.letter)
    return [
        Configuration("model", _alternate(*ends, layer_count), " ".join([state.token] * layer_count))
        for ends in ((state.letter, host), (host, state.letter))
    ]


def run_configuration(space: Space, npu: str, span: Range, layer_count: int) -> Configuration:
    """A range of layers on the NPU, the others on its host, at the host's highest frequency."""
    host, (first, last) = space.host(npu), span
    order = "".join(npu if first <= layer <= last else host for layer in range(layer_count))
    return Configuration("model", order, " ".join([str(space.indices(npu)[-1])] * layer_count))


def long_runs(ranges: Iterable[Range]) -> list[Range]:
    """The ranges of more than one layer."""
    return [span for span in ranges if span[0] < span[1]]


def pairs(space: Space) -> Iterator[tuple[str, str]]:
    """(source, destination) of every transfer that a profile has."""
    return ((a, b) for a in space.movers() for b in space.movers() if a != b)


def alternating(space: Space, source: str, destination: str, layer_count: int) -> Configuration:
    """Two processors in turns at their lowest frequencies: a transfer behind every layer."""
    order = _alternate(source, destination, layer_count)
    return Configuration("model", order, " ".join(space.lowest(letter) for letter in order))


def changes(space: Space, letter: str, layer_count: int) -> Iterator[tuple[Configuration, int, int]]:
    """(configuration, a, b): layers at index a, those of `changed` at b, the rest at a again."""
    there, back = changed(layer_count)
    if there == 0:
        return
    states = {state.own: state for state in space.states(letter)}  # a GPU's at its host's highest
    for place, a in enumerate(space.indices(letter)):
        for b in space.indices(letter)[place + 1 :]:
            tokens = [states[b if there <= layer < back else a].token for layer in range(layer_count)]
            yield Configuration("model", letter * layer_count, " ".join(tokens)), a, b


def changed(layer_count: int) -> tuple[int, int]:
    """The layers before which a frequency changes, and changes back: both behind a layer, where the processor works.

    Of two layers the next frame changes back, before its input phase; of one, nothing changes.
    """
    there = max(layer_count // 3, 1) if layer_count > 1 else 0
    return there, max(2 * layer_count // 3, there + 1)


def frequency_rows(space: Space) -> Iterator[tuple[tuple[str, str, str, str], Configuration]]:
    """The keys of transfer_frequency.csv, each with what measures it, the lowest frequencies of a pair first.

    A GPU's data is copied by its host; otherwise the destination copies. What a GPU has made goes to its host,
    wherever it goes from there. All frequencies of who copies: what is between an NPU and its host follows others'.
    """
    for source, destination in pairs(space):
        if space.kind(source) == "gpu" and space.host(source) != destination:
            continue
        gpus = [letter for letter in (source, destination) if space.kind(letter) == "gpu"]
        copier = space.host(gpus[0]) if gpus else destination
        for index in range(space.board.processor(copier).opp_count):
            tokens = [
                f"0-{index}" if space.kind(end) == "gpu" else str(index if end == copier else 0)
                for end in (source, destination)
            ]
            key = (source, destination, tokens[0], tokens[1])
            yield key, Configuration("synthetic", source + destination, " ".join(tokens))


def steps_of(order: str, npus: str) -> list[Range]:
    """(first, last) layer of each step of a run configuration: a run of layers on an NPU is one."""
    steps: list[Range] = []
    for layer, letter in enumerate(order):
        if layer and letter in npus and order[layer - 1] == letter:
            steps[-1] = (steps[-1][0], layer)
        else:
            steps.append((layer, layer))
    return steps


def _alternate(first: str, second: str, count: int) -> str:
    return "".join(second if layer % 2 else first for layer in range(count))
