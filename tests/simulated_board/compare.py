"""How near a recovered profile is to the one that drove the board."""

from dataclasses import dataclass

import numpy as np

from piqi_planner.profile import ModelProfile


@dataclass(frozen=True)
class Difference:
    """Relative errors of one kind of value: their number, median, mean, greatest."""

    count: int
    median: float
    mean: float
    most: float

    def __str__(self) -> str:
        return f"{self.count:5}  {self.median:7.2%}  {self.mean:7.2%}  {self.most:7.2%}"


def compare(driving: ModelProfile, recovered: ModelProfile) -> dict[str, Difference]:
    """By phase. An NPU's input phase and first load are one copy, as are its last unload and output phase: sums."""
    npu = driving.is_npu
    pairs = {
        "run": [(p.run_ms[~npu]) for p in (driving, recovered)],
        "run, NPU": [p.run_ms[npu] for p in (driving, recovered)],
        "load": [_loads(p)[npu][:, 1:] for p in (driving, recovered)],
        "unload": [_unloads(p)[npu] for p in (driving, recovered)],
        "input": [np.where(npu, _loads(p)[:, 0], p.input_ms) for p in (driving, recovered)],
        "output": [p.output_ms[~npu] for p in (driving, recovered)],
        "transfers": [p.move_ms[:, ~np.eye(len(p.processors), dtype=bool)] for p in (driving, recovered)],
        "transfers' ratio": [np.array([p.move_ratio[key] for key in driving.move_ratio]) for p in (driving, recovered)],
        "delays": [np.concatenate([_changes(p.delay_ms[letter]) for letter in "LBG"]) for p in (driving, recovered)],
        "frames": [(p.input_ms + p.run_ms.sum(axis=1) + p.output_ms)[~npu] for p in (driving, recovered)],
        "power of run": [p.run_mw for p in (driving, recovered)],
        "power of input": [p.input_mw[~npu] for p in (driving, recovered)],
        "power of transfers": [np.array([p.move_mw[key] for key in driving.move_mw]) for p in (driving, recovered)],
    }
    return {name: difference(*both) for name, both in pairs.items()}


def difference(expected: np.ndarray, got: np.ndarray) -> Difference:
    """Of arrays of one shape."""
    errors = np.abs(got / expected - 1).ravel()
    return Difference(len(errors), float(np.median(errors)), float(errors.mean()), float(errors.max()))


def to_text(differences: dict[str, Difference]) -> str:
    """A table."""
    head = f"{'':20}  {'rows':>5}  {'median':>7}  {'mean':>7}  {'most':>7}"
    return "\n".join([head, *(f"{name:20}  {value}" for name, value in differences.items())])


def _loads(profile: ModelProfile) -> np.ndarray:
    """[S, L], the input phase added to the first."""
    loads = profile.load_ms.copy()
    loads[:, 0] += profile.input_ms
    return loads


def _unloads(profile: ModelProfile) -> np.ndarray:
    """[S, L], the output phase added to the last."""
    unloads = profile.unload_ms.copy()
    unloads[:, -1] += profile.output_ms
    return unloads


def _changes(delays: np.ndarray) -> np.ndarray:
    return delays[~np.eye(len(delays), dtype=bool)]
