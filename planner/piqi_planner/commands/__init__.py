"""The commands of ``planner``: each module adds its parser and the function behind it."""
