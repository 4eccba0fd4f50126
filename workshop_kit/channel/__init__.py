"""The conversation of SPEC.md, both sides, without I/O: bytes in, bytes and values out.

Nothing here opens a socket, reads a clock or draws a random number; `now`, keys and primitives that randomise are
arguments.
"""
