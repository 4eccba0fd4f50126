"""The event loops that the kit's edges run on: asyncio's own, and uvloop's where uvicorn has brought it along."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if importlib.util.find_spec("uvloop"):
    LOOPS["uvloop"] = importlib.import_module("uvloop").new_event_loop
