"""The daemon ``piqid``: serves models to applications on a board. docs/protocol.md is what it speaks."""
