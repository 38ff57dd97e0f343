"""The policy: from what is known of the board (battery, mains, temperature, power) to one operating point.

Sensors make a `Situation`, a `ModeSelector` chooses a mode by the policy's rules, a `PointChooser` chooses a point of
the table by the mode's limits and objective. docs/policy.md describes the files.
"""

from piqi_runtime.policy.choose import Decision, PointChooser
from piqi_runtime.policy.config import Mode, Policy, Rule, load_policy
from piqi_runtime.policy.constraints import Constraints, PolicyError
from piqi_runtime.policy.modes import ModeChoice, ModeSelector
from piqi_runtime.policy.sensors import Sensors
from piqi_runtime.policy.situation import Situation

__all__ = [
    "Constraints",
    "Decision",
    "Mode",
    "ModeChoice",
    "ModeSelector",
    "PointChooser",
    "Policy",
    "PolicyError",
    "Rule",
    "Sensors",
    "Situation",
    "load_policy",
]
