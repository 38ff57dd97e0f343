"""The two ways of storing numbers in 8 bits that PiQi's NPUs use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from piqi_planner.quantise.errors import QuantisationError

SchemeName = Literal["per_channel", "per_tensor"]


@dataclass(frozen=True)
class Scheme:
    """How activations and weights are stored. Biases are int32, their scale that of input times weights.

    `equalises`: whether weights need equalisation, because one scale serves all their channels.
    """

    name: SchemeName
    dtype: str
    activation_min: int
    activation_max: int
    per_channel: bool
    equalises: bool

    @property
    def steps(self) -> int:
        return self.activation_max - self.activation_min


#: RK3588 and TensorFlow Lite: int8, weights symmetric, a scale for each output channel.
PER_CHANNEL = Scheme("per_channel", "int8", -128, 127, True, False)
#: RK3399Pro: uint8, weights asymmetric, one scale.
PER_TENSOR = Scheme("per_tensor", "uint8", 0, 255, False, True)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (PER_CHANNEL, PER_TENSOR)}


def find_scheme(name: str) -> Scheme:
    """Raises QuantisationError for an unknown name."""
    if name not in SCHEMES:
        raise QuantisationError(f"scheme must be one of {', '.join(SCHEMES)}, got {name!r}")
    return SCHEMES[name]
