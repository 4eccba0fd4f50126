"""How messages about a service's files and requests show a value."""

from __future__ import annotations


def show(value: object) -> str:
    """A value in one short line, for the "got …" of a message."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    kinds = {"dict": "a mapping", "list": "a list"}
    return kinds.get(type(value).__name__, f"a value of type {type(value).__name__}")
