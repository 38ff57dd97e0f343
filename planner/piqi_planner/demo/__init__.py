"""What `make demo` shows: a small network, trained on handwritten digits, cut across processors."""

from pathlib import Path

#: The network; ``python -m piqi_planner.demo.train`` makes it.
MODEL = Path(__file__).with_name("digits.tflite")
