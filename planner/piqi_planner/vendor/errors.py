"""What can go wrong between our graph and a vendor's toolkit."""

from __future__ import annotations

from piqi_runtime.errors import PiqiError


class VendorError(PiqiError):
    """A range that a vendor's toolkit cannot take, or a toolkit that is missing or failed."""
