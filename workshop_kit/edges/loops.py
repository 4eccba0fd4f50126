"""How a process runs that carries other people's requests: its event loop and its heap.

The loop is uvloop's, where uvicorn has brought it along: a message costs a quarter less there.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT = 4 * 1024 * 1024


def new_loop() -> asyncio.AbstractEventLoop:
    """Its caller closes it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, in a process that does nothing else."""
    _keep_large_pieces()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def _keep_large_pieces() -> None:
    """Else a piece of 256 KiB comes from the system anew each time, page by page, which costs more than filling it."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT)
