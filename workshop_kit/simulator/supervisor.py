"""The services of an enclave that listen by themselves: started, and started again when they end.

In the form of s6 and its kin: a service is one program that stays in the foreground. One that ends is started anew
after a pause, which doubles each time and is short again once a service has lived for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from workshop_kit.errors import LabError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until a service is started again."""

LONG_ENOUGH = 10.0
"""Seconds after which a service is taken to have worked: its next pause is the first again."""

ATTEMPTS = 3
"""How often a service may end before all of them serve: a mistake is to be seen at once, and one that waits for another
service's first moments still gets there."""

_LAUNCH = Path(__file__).with_name("launch.py")
_POLL = 0.02


class Supervisor:
    """Keeps services running.

    Args:
        services: command by name.
        environment: what the services see.
        folder: where they start.
        gate: the messages that their connections are asked about with.
    """

    def __init__(
        self,
        services: Mapping[str, Sequence[str]],
        *,
        environment: Mapping[str, str],
        folder: Path,
        gate: socket.socket,
    ) -> None:
        self._services = services
        self._environment = environment
        self._folder = folder
        self._gate = gate
        self._own: set[int] = set()
        self._serve = False
        self._keeping: list[asyncio.Task[None]] = []

    async def start(self, port: int) -> None:
        """Start all, and return once somebody listens at `port` of the loopback.

        Raises:
            LabError: a service ends again and again.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._bury)
        self._keeping = [asyncio.create_task(self._keep(name, command)) for name, command in self._services.items()]
        listening = asyncio.create_task(_listening(port))
        done, _ = await asyncio.wait([listening, *self._keeping], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        for task in done:
            task.result()
        self._serve = True

    async def _keep(self, name: str, command: Sequence[str]) -> None:
        pause, ended = FIRST_PAUSE, 0
        while True:
            lived, code = await self._run(command)
            pause = FIRST_PAUSE if lived >= LONG_ENOUGH else pause
            ended += 1
            if not self._serve and ended >= ATTEMPTS:
                raise LabError(f"the service {name} ended {ended} times, the last time with code {code}")
            print(f"the service {name} ended with code {code}; it is started again in {pause:g} s", flush=True)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run(self, command: Sequence[str]) -> tuple[float, int]:
        """Run a service until it ends: the seconds that it lived, and its exit code."""
        begun = asyncio.get_running_loop().time()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(_LAUNCH), str(self._gate.fileno()), *command),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[self._gate.fileno()],
            env=dict(self._environment),
            cwd=self._folder,
            start_new_session=True,
        )
        self._own.add(process.pid)
        code = await process.wait()
        self._own.discard(process.pid)
        return asyncio.get_running_loop().time() - begun, code

    def _bury(self) -> None:
        """Process 1 is given the children of those that end; nobody else waits for them."""
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in self._own:
                    return  # asyncio waits for this one
                os.waitpid(ended.si_pid, os.WNOHANG)


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(_POLL)
        else:
            writer.close()
            return
