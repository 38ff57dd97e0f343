"""Profiles: what each layer, transfer and frequency change costs on each processor of a board."""

from piqi_planner.profile.configurations import format_configuration, parse_configurations
from piqi_planner.profile.model import ConfigurationError, Hole, ModelProfile, ProfiledProcessor, State
from piqi_planner.profile.profile import Profile, load_profile
from piqi_planner.profile.published import PublishedConstants, SideLayer, published_constants
from piqi_runtime.profile_tables import ProfileError

__all__ = [
    "ConfigurationError",
    "Hole",
    "ModelProfile",
    "Profile",
    "ProfileError",
    "ProfiledProcessor",
    "PublishedConstants",
    "SideLayer",
    "State",
    "format_configuration",
    "load_profile",
    "parse_configurations",
    "published_constants",
]
