"""Errors that a user can act on. Libraries raise them; only a command's ``main`` prints them and exits."""


class PiqiError(Exception):
    """Base of every error whose message is meant for the user; `exit_code` is the command's."""

    exit_code = 1
