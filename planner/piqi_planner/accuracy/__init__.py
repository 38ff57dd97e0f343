"""Accuracy models: which layers are quantised -> accuracy, and a bound below it."""

from piqi_planner.accuracy.base import AccuracyError, AccuracyModel
from piqi_planner.accuracy.evaluate import LearningCurve, evaluate, learning_curve
from piqi_planner.accuracy.files import load_accuracy_model, save_accuracy_model
from piqi_planner.accuracy.fit import MODELS, Figures, FittedModel, fit_accuracy, held_out, with_bound
from piqi_planner.accuracy.samples import Samples, read_samples

__all__ = [
    "MODELS",
    "AccuracyError",
    "AccuracyModel",
    "Figures",
    "FittedModel",
    "LearningCurve",
    "Samples",
    "evaluate",
    "fit_accuracy",
    "held_out",
    "learning_curve",
    "load_accuracy_model",
    "read_samples",
    "save_accuracy_model",
    "with_bound",
]
