"""Accuracy models: what they learn, how sure they are, and that files keep them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import check_grad

from piqi_planner.accuracy import (
    AccuracyError,
    FittedModel,
    Samples,
    evaluate,
    fit_accuracy,
    load_accuracy_model,
    save_accuracy_model,
    with_bound,
)
from piqi_planner.accuracy import gaussian_process as gp
from piqi_planner.accuracy.evaluate import learning_curve, trainings
from piqi_planner.accuracy.fit import BEST, score_quantile
from piqi_planner.accuracy.network import DenseNetwork
from piqi_planner.accuracy.pairwise import PairwiseRidge

LAYERS = 12
NOISE = 0.02


def truth(masks: np.ndarray) -> np.ndarray:
    """Effects of layers, and one strong interaction."""
    effects = -np.linspace(0.02, 0.4, masks.shape[1])
    return 70 + masks @ effects + 0.5 * (masks[:, 1] & masks[:, 2])


def make_samples(count: int, seed: int = 0, layers: int = LAYERS) -> Samples:
    random = np.random.default_rng(seed)
    masks = np.unique(random.random((count * 2, layers)) < 0.4, axis=0)
    masks = random.permutation(masks)[:count]
    return Samples(masks, truth(masks) + random.normal(0, NOISE, len(masks)))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return make_samples(300)


@pytest.fixture(scope="module")
def fitted(samples: Samples) -> FittedModel:
    return fit_accuracy(samples, seed=3)


@pytest.fixture(scope="module")
def surer(samples: Samples) -> FittedModel:
    """Fitted once more, for another confidence."""
    return fit_accuracy(samples, seed=3, confidence=0.99)


@pytest.mark.parametrize("kind", BEST)
def test_every_candidate_learns_effects_and_interactions(kind: str, samples: Samples) -> None:
    predictor = BEST[kind](samples, 0)
    unseen = make_samples(500, seed=1).masks
    assert np.abs(predictor.mean(unseen) - truth(unseen)).mean() < NOISE


def test_bound_covers_what_it_promises(fitted: FittedModel) -> None:
    unseen = make_samples(1500, seed=2)
    for confidence in (0.6, 0.9):
        figures = evaluate(replace(fitted, confidence=confidence), unseen)
        assert abs(figures.coverage - confidence) < 0.06  # the calibration's own deviation is 0.03


def test_cross_validation_agrees_with_unseen_samples(fitted: FittedModel) -> None:
    assert fitted.cross_validation is not None
    unseen = evaluate(fitted, make_samples(1500, seed=4))
    assert fitted.cross_validation.mae_pp == pytest.approx(unseen.mae_pp, rel=0.15)
    assert fitted.cross_validation.coverage == pytest.approx(0.9, abs=0.04)


def test_bound_grows_with_confidence(samples: Samples, fitted: FittedModel, surer: FittedModel) -> None:
    masks = samples.masks[:50]
    assert (surer.predict(masks) == fitted.predict(masks)).all()
    assert (surer.lower_bound(masks) < fitted.lower_bound(masks)).all()
    assert (fitted.lower_bound(masks) < fitted.predict(masks)).all()


def test_far_from_the_samples_it_is_less_sure() -> None:
    sparse = make_samples(300)
    few = sparse.take(np.flatnonzero(sparse.masks.sum(axis=1) <= 4))
    process = gp.GaussianProcess.fit(few, 0)
    near, far = few.masks[:1], np.ones((1, LAYERS), np.bool_)
    assert process.spread(far)[0] > 2 * process.spread(near)[0]


def test_separate_process_extrapolates_sums_of_effects() -> None:
    """From single layers and pairs to all layers: what levelling off would miss by a point."""
    layers = 20
    pairs = np.array([[i in (a, b) for i in range(layers)] for a in range(layers) for b in range(a, layers)])
    effects = -np.linspace(0.05, 0.2, layers)
    noise = np.random.default_rng(0).normal(0, 0.005, len(pairs))
    process = gp.GaussianProcess.fit(Samples(pairs, 70 + pairs @ effects + noise), 0, separate=True)
    all_layers = np.ones((1, layers), np.bool_)
    assert process.mean(all_layers)[0] == pytest.approx(70 + effects.sum(), abs=0.5)


@pytest.mark.parametrize("separate", [False, True])
def test_gradient_of_the_likelihood(separate: bool) -> None:
    some = make_samples(40)
    points = some.masks.astype(np.float64)
    basis = np.linalg.qr(np.column_stack([np.ones(len(points)), points]))[0] if separate else np.zeros((40, 0))
    prior = gp.Hyperparameters.typical(LAYERS).logarithms()
    rest = (prior, points, some.accuracy_percent - some.accuracy_percent.mean(), basis)
    vector = prior + np.random.default_rng(0).normal(0, 0.3, len(prior))
    value, gradient = gp._negative_log_posterior(vector, *rest)
    assert np.isfinite(value)
    error = check_grad(
        lambda v: gp._negative_log_posterior(v, *rest)[0], lambda v: gp._negative_log_posterior(v, *rest)[1], vector
    )
    assert error < 1e-4 * np.linalg.norm(gradient)


def test_process_is_the_textbooks(samples: Samples) -> None:
    """With all samples as anchors, mean and spread are those of plain Gaussian-process regression."""
    some = samples.take(np.arange(gp.SPREAD_ANCHORS))
    process = gp.GaussianProcess.fit(some, 0)
    hyper, unit = process._hyper, some.accuracy_percent.std()
    points, unseen = some.masks.astype(float), make_samples(20, seed=5).masks
    covariance = gp._covariance(points, points, hyper) + hyper.noise * np.eye(len(points))
    cross = gp._covariance(unseen.astype(float), points, hyper)
    centred = some.accuracy_percent - some.accuracy_percent.mean()
    expected = some.accuracy_percent.mean() + cross @ np.linalg.solve(covariance, centred)
    np.testing.assert_allclose(process.mean(unseen), expected, atol=1e-4)
    own = np.diag(gp._covariance(unseen.astype(float), unseen.astype(float), hyper)) + hyper.noise
    variance = own - np.einsum("ij,ji->i", cross, np.linalg.solve(covariance, cross.T))
    np.testing.assert_allclose(process.spread(unseen), unit * np.sqrt(variance), rtol=1e-6)


def test_pairwise_leave_one_out_is_what_it_says(samples: Samples) -> None:
    from piqi_planner.accuracy.pairwise import PENALTIES, _leave_one_out

    some = samples.take(np.arange(30))
    penalty = PENALTIES[5]
    errors = []
    for left_out in range(30):
        rest = some.take(np.delete(np.arange(30), left_out))
        one = some.take(np.array([left_out]))
        errors.append(abs(PairwiseRidge(rest, 0.1, penalty).mean(one.masks)[0] - one.accuracy_percent[0]))
    assert _leave_one_out(some, 0.1)[5] == pytest.approx(np.mean(errors), rel=1e-6)


def test_same_seed_same_model(samples: Samples, fitted: FittedModel, surer: FittedModel) -> None:
    again = replace(surer, confidence=fitted.confidence)
    assert again.kind == fitted.kind
    assert (again.predict(samples.masks) == fitted.predict(samples.masks)).all()
    assert (again.lower_bound(samples.masks) == fitted.lower_bound(samples.masks)).all()


@pytest.mark.parametrize("kind", BEST)
def test_files_keep_everything(kind: str, samples: Samples, tmp_path: Path) -> None:
    model = with_bound(FittedModel(kind, BEST[kind](samples, 0), samples), make_samples(100, seed=6), 0.8)
    save_accuracy_model(model, tmp_path / "model.json")
    loaded = load_accuracy_model(tmp_path / "model.json")
    unseen = make_samples(100, seed=7).masks
    np.testing.assert_allclose(loaded.predict(unseen), model.predict(unseen), atol=1e-9)
    np.testing.assert_allclose(loaded.lower_bound(unseen), model.lower_bound(unseen), atol=1e-9)
    assert (loaded.kind, loaded.layers, loaded.confidence) == (kind, LAYERS, 0.8)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version"),
        ("layers", 11, "expected 11 layers"),
        ("kind", "oracle", "kind: expected one of"),
        ("confidence", 1.5, "confidence"),
        ("scores", ["x"], "scores.0"),
        ("predictor", {}, "predictor"),
        ("samples", {"metric": "a", "masks": [], "accuracy_percent": []}, "0 masks"),
    ],
)
def test_spoilt_file(field: str, value: object, message: str, fitted: FittedModel, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    save_accuracy_model(fitted, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(AccuracyError, match=message) as raised:
        load_accuracy_model(path)
    assert str(path) in str(raised.value)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    for name in ("none.json", "none.h5", "none.keras", "model.pickle"):
        with pytest.raises(AccuracyError, match=name):
            load_accuracy_model(tmp_path / name)
    for name in ("text.json", "text.h5", "text.keras"):
        (tmp_path / name).write_text("text")
        with pytest.raises(AccuracyError, match=name):
            load_accuracy_model(tmp_path / name)


def test_wrong_masks(fitted: FittedModel) -> None:
    with pytest.raises(AccuracyError, match=r"expected the shape \(n, 12\), got \(2, 11\)"):
        fitted.predict(np.zeros((2, 11), np.bool_))
    with pytest.raises(AccuracyError, match="zeros and ones"):
        fitted.predict(np.full((1, LAYERS), 2))
    assert (fitted.predict(np.ones((1, LAYERS), np.int64)) == fitted.predict(np.ones((1, LAYERS), np.bool_))).all()
    assert fitted.predict(np.zeros((0, LAYERS), np.bool_)).shape == (0,)


def test_too_few_samples() -> None:
    with pytest.raises(AccuracyError, match="at least 20 samples are needed, got 10"):
        fit_accuracy(make_samples(10))
    with pytest.raises(AccuracyError, match=r"30 samples are too few for a confidence of 0\.99"):
        fit_accuracy(make_samples(30), confidence=0.99)
    with pytest.raises(AccuracyError, match="confidence"):
        fit_accuracy(make_samples(30), confidence=1.0)
    with pytest.raises(AccuracyError, match="got 'other'"):
        fit_accuracy(make_samples(30), "other")


def test_constant_accuracy() -> None:
    masks = make_samples(60).masks
    model = fit_accuracy(Samples(masks, np.full(len(masks), 71.5)))
    np.testing.assert_allclose(model.predict(masks), 71.5, atol=1e-3)


def test_score_quantile_is_the_conformal_one() -> None:
    assert score_quantile(np.arange(1.0, 10.0), 0.9) == 9  # the ceil(10 * 0.9)-th
    assert score_quantile(np.arange(1.0, 10.0), 0.5) == 5


def test_learning_curve_falls(samples: Samples) -> None:
    curves = list(learning_curve(samples, models=["best"]))
    assert len(curves) == trainings(samples, models=["best"])
    errors = curves[-1].mae_pp["best"]
    assert np.isfinite(errors).all()
    assert errors[0, -1] < errors[0, 0]


def test_spread_of_a_network_is_constant(samples: Samples) -> None:
    network = DenseNetwork.from_dict(
        {"stages": [{"kernel": [[0.5]] * LAYERS, "bias": [60.0], "activation": "linear"}]}, None
    )
    bounded = with_bound(FittedModel("network", network), samples)
    gap = bounded.predict(samples.masks) - bounded.lower_bound(samples.masks)
    assert np.ptp(gap) < 1e-9
    assert evaluate(bounded, samples).coverage == pytest.approx(0.9, abs=0.01)
    with pytest.raises(AccuracyError, match="has no bound"):
        FittedModel("network", network).lower_bound(samples.masks)
