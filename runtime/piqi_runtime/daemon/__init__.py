"""The daemon ``piqid``: serves models to applications on a board. docs/protocol.md is what it speaks."""

import os

# Before pydantic is imported: that it looks for plugins costs a tenth of the start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
