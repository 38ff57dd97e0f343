"""What is wrong with a model file."""

from piqi_runtime.errors import PiqiError


class ModelError(PiqiError):
    """A model file that cannot be read, contradicts itself or needs an operator PiQi does not have.

    The message names the file and, where there is one, the operator, its output tensor and its place.
    """

    exit_code = 3
