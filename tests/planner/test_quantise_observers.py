"""Statistics and observers against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piqi_planner.quantise.observers import observed_range
from piqi_planner.quantise.statistics import MAX_ROWS, ChannelStatistics


def collect(batches):
    statistics = ChannelStatistics.empty(batches[0].shape[-1], histogram=True)
    for batch in batches:
        statistics.update(batch)
    return statistics


batches = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(1e-3, 1e3)), min_size=1, max_size=5
).map(
    lambda drawn: [
        np.random.default_rng(seed).normal(mean, deviation, (300, 3)).astype(np.float32)
        for seed, mean, deviation in drawn
    ]
)


@settings(max_examples=50, deadline=None)
@given(batches=batches)
def test_streaming_is_as_good_as_all_at_once(batches):
    statistics, values = collect(batches), np.concatenate(batches)
    np.testing.assert_array_equal(statistics.minimum, values.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, values.max(axis=0))
    assert observed_range(statistics, "minmax", 99) == (min(values.min(), 0), max(values.max(), 0))
    assert (statistics.counts.sum(axis=1) == len(values)).all()
    # Each value is in the bin whose bounds enclose it, or (rounding) in the next one.
    for c in range(3):
        edges = statistics.low[c] + np.arange(129) * statistics.width[c]
        cumulative = np.searchsorted(np.sort(values[:, c]), edges[1:])
        drift = np.abs(np.cumsum(statistics.counts[c]) - cumulative)
        assert drift.max() <= 5


@settings(max_examples=50, deadline=None)
@given(batches=batches, percentile=st.floats(60, 99.9))
def test_percentile(batches, percentile):
    statistics, values = collect(batches), np.concatenate(batches)
    low, high = observed_range(statistics, "percentile", percentile)
    bin_width = statistics.width.max()
    outside = 1 - percentile / 100
    for got, share in ((low, outside), (high, 1 - outside)):
        reference = np.quantile(values, [max(share - 0.01, 0), min(share + 0.01, 1)])
        clipped = min(reference[0], 0) if share < 0.5 else max(reference[0], 0)
        upper = min(reference[1], 0) if share < 0.5 else max(reference[1], 0)
        assert clipped - 2 * bin_width <= got <= upper + 2 * bin_width


def quantisation_error(values, low, high):
    step = (high - low) / 255
    stored = np.rint(np.clip(values, low, high) / step) * step
    return float(np.mean(np.square(values - stored)))


@pytest.mark.parametrize("seed", range(5))
def test_mse_is_near_the_best_range(seed):
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.standard_normal((40, MAX_ROWS, 4)), 0 if seed % 2 else -np.inf).astype(np.float32)
    values[0, 0, 0] = 30  # worth cutting off
    low, high = observed_range(collect(values), "mse", 99)
    widest = max(-values.min(), values.max())
    best = min(
        quantisation_error(values, max(values.min(), -f * widest), min(values.max(), f * widest))
        for f in np.linspace(0.05, 1, 40)
    )
    assert quantisation_error(values, low, high) <= 1.15 * best
    assert quantisation_error(values, low, high) < 0.8 * quantisation_error(values, values.min(), values.max())


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-20, 1e20])
def test_constant_values(observer, value):
    low, high = observed_range(collect([np.full((10, 2), value, np.float32)] * 2), observer, 99.9)
    assert (low, high) == pytest.approx((min(value, 0), max(value, 0)), rel=0.02)


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_rescaled_statistics(observer):
    rng = np.random.default_rng(0)
    values, scales = rng.normal(1, 2, (4000, 3)), np.array([0.01, 1, 300])
    got = observed_range(collect([values]).rescaled(scales), observer, 99)
    expected = observed_range(collect([values / scales]), observer, 99)
    assert got == pytest.approx(expected, rel=0.02)


def test_values_that_are_not_finite():
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            collect([np.array([[1.0, bad]])])


def test_observers_need_what_they_look_at():
    statistics = ChannelStatistics.empty(2, histogram=False)
    statistics.update(np.ones((3, 2)))
    with pytest.raises(ValueError, match="no histogram"):
        observed_range(statistics, "mse", 99)
