"""Post-training quantisation: calibration, cross-layer equalisation, bias correction, partitions.

calibration = calibrate(model, images.batches(...))
quantised = quantise(model, calibration, "per_channel")
quantised.partition(3, 7).save("layers_3_7.piqi")
"""

from piqi_planner.quantise.calibrate import Calibration, calibrate
from piqi_planner.quantise.calibration_file import load_calibration, save_calibration
from piqi_planner.quantise.equalise import equalise
from piqi_planner.quantise.errors import CalibrationError, QuantisationError
from piqi_planner.quantise.network import QuantisedModel, quantise
from piqi_planner.quantise.observers import OBSERVERS, ObserverName
from piqi_planner.quantise.schemes import SCHEMES, SchemeName

__all__ = [
    "OBSERVERS",
    "SCHEMES",
    "Calibration",
    "CalibrationError",
    "ObserverName",
    "QuantisationError",
    "QuantisedModel",
    "SchemeName",
    "calibrate",
    "equalise",
    "load_calibration",
    "quantise",
    "save_calibration",
]
