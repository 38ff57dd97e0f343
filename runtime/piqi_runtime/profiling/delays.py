"""How long a change of frequency takes to have an effect, from layers that ran through it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: A change is not seen where the two frequencies differ by less in time than this part of it.
MIN_DIFFERENCE = 0.02


def infer_delay_ms(times_ms: Floats, old_ms: Floats, new_ms: Floats) -> float | None:
    """The delay d for which pieces of work, run one after another behind a request, take `times_ms` [pieces].

    For d the processor goes on at the old frequency, at which a piece takes `old_ms`, then at the new one (`new_ms`).
    The piece in which it changes takes d + (1 - d / old) new, so d = (t - new) / (1 - new / old), behind those that
    ran wholly as it was. Which piece that is follows from what explains all times best. None where the two
    frequencies do not differ in time.
    """
    if abs(float(old_ms.sum() - new_ms.sum())) < MIN_DIFFERENCE * float(new_ms.sum()):
        return None
    best: tuple[float, float] | None = None
    for piece, (time, old, new) in enumerate(zip(times_ms, old_ms, new_ms, strict=True)):
        if old <= 0 or old == new:
            continue
        inside = float(np.clip((time - new) / (1 - new / old), 0.0, old))
        error = time - (inside + (1 - inside / old) * new)
        unexplained = float(
            ((times_ms - old_ms)[:piece] ** 2).sum() + error**2 + ((times_ms - new_ms)[piece + 1 :] ** 2).sum()
        )
        if best is None or unexplained < best[0]:
            best = unexplained, float(old_ms[:piece].sum()) + inside
    return None if best is None else best[1]
