"""Run configurations in bulk: text to arrays of state indices and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piqi_planner.profile.model import ConfigurationError, Indices, ModelProfile


def parse_configurations(profile: ModelProfile, orders: Sequence[str], freqs: Sequence[str]) -> Indices:
    """Orders ("GLN") and frequencies ("4-7 5 7") as state indices [n, layers]. Raises ConfigurationError."""
    known = {profile.state_text(state): index for index, state in enumerate(profile.states)}
    if len(orders) != len(freqs):
        raise ConfigurationError(f"{len(orders)} orders, but {len(freqs)} lists of frequencies")
    configs = np.empty((len(orders), profile.layer_count), np.intp)
    for config, order, text in zip(configs, orders, freqs, strict=True):
        tokens = text.split()
        for what, count in (("letters", len(order)), ("frequencies", len(tokens))):
            if count != profile.layer_count:
                raise ConfigurationError(
                    f"{order} {text!r}: expected {profile.layer_count} {what} for {profile.name}, got {count}"
                )
        for layer, pair in enumerate(zip(order, tokens, strict=True)):
            if pair not in known:
                raise ConfigurationError(_explain(profile, layer, *pair))
            config[layer] = known[pair]
    return configs


def format_configuration(profile: ModelProfile, config: npt.ArrayLike) -> tuple[str, str]:
    """State indices [layers] as order and frequencies."""
    pairs = [profile.state_text(profile.states[index]) for index in np.asarray(config)]
    return "".join(letter for letter, _ in pairs), " ".join(token for _, token in pairs)


def _explain(profile: ModelProfile, layer: int, letter: str, token: str) -> str:
    if letter not in profile.letters:
        return f"layer {layer}: expected a processor of {profile.letters}, got {letter!r}"
    tokens = [t for known, t in map(profile.state_text, profile.states) if known == letter]
    return f"layer {layer}: expected a frequency of {letter} from {tokens[0]} to {tokens[-1]}, got {token!r}"
