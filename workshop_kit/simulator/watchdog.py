"""Ends an infrastructure's enclaves once it is gone, however it went: a shell that waits for the end of its input.

The kernel ends the process that it started with it (PR_SET_PDEATHSIG), but notes that for one thread: an app that has
another one become another program would be spared. So somebody else waits too, at the cost of a quarter of a megabyte.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading

_SCRIPT = """
guarded=
while read -r word pid; do
  others=
  for each in $guarded; do [ "$each" = "$pid" ] || others="$others $each"; done
  guarded=$others
  [ "$word" = guard ] && guarded="$guarded $pid"
done
[ -z "$guarded" ] || kill -9 $guarded
"""


class Watchdog:
    """One for all processes of an infrastructure. A process that it guards must not be waited for before `release`."""

    def __init__(self) -> None:
        # In a session of its own: what is sent to this process's group is not meant for it.
        self._shell = subprocess.Popen(["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, start_new_session=True)
        self._turn = threading.Lock()

    def guard(self, pid: int) -> None:
        """From now on it ends with this process at the latest."""
        self._tell(f"guard {pid}\n")

    def release(self, pid: int) -> None:
        """It has ended; its number may soon be another's."""
        self._tell(f"release {pid}\n")

    def close(self) -> None:
        """End it, and whatever it guards."""
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):
            self._shell.stdin.close()
        self._shell.wait()

    def _tell(self, line: str) -> None:
        assert self._shell.stdin is not None
        with self._turn, contextlib.suppress(OSError, ValueError):  # somebody has ended it
            self._shell.stdin.write(line.encode())
            self._shell.stdin.flush()
