"""What can be wrong with calibration data, or with a network that is to be quantised."""

from piqi_runtime.errors import PiqiError


class CalibrationError(PiqiError):
    """Calibration data that is missing, does not fit the network or cannot be read."""


class QuantisationError(PiqiError):
    """A network, or a range of its layers, that cannot be quantised. Names the operator or tensor."""
