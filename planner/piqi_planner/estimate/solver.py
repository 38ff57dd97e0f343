"""Least absolute relative errors with coefficients that are not negative."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from piqi_planner.profile.model import Floats

_ROUNDS = 25
_ENOUGH = 0.05  # errors of the logarithm below this count by their square


def solve(columns: Floats, values: Floats, weights: Floats | None = None) -> Floats:
    """x >= 0 [k] that makes `columns` [n, k] @ x close to `values` [n] > 0, by the logarithm of the ratio.

    Non-negative least squares of relative errors, weighted anew in each round until it is a robust fit of logarithms.
    """
    scale = columns.max(axis=0)
    used = scale > 0
    relative = columns[:, used] / scale[used] / values[:, None]
    base = np.sqrt(np.ones(len(values)) if weights is None else weights)
    root = base
    x = np.zeros(int(used.sum()))
    for _ in range(_ROUNDS):
        x, _ = nnls(relative * root[:, None], root, maxiter=100 * len(x) + 100)
        ratio = np.maximum(relative @ x, 1e-9)
        logs, errors = np.log(ratio), ratio - 1
        bend = np.divide(logs, errors, out=np.ones_like(logs), where=np.abs(errors) > 1e-9)
        root = base * np.sqrt(bend / np.maximum(np.abs(logs), _ENOUGH))
    found = np.zeros(columns.shape[1])
    found[used] = x / scale[used]
    return found
