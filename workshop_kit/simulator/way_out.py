"""The hypervisor's part in an enclave's way out: it starts the gate when the enclave first asks for it.

Most enclaves of a workshop never go out, and a gate is a process of its own. Until there is one, whatever an app asks
waits unread: the hypervisor looks whether something is there, and takes only what the enclave's own code says before a
line of the app runs, and the listeners of filters, in order to look at those too.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence

from workshop_kit.simulator.messages import ALLOW, NETWORK, WATCH

_LONGEST = 64 * 1024
_MOST_WATCHES = 16
_PATIENCE = 3.0

Start = Callable[[int, Sequence[int], bytes], "subprocess.Popen[bytes]"]


class WayOut:
    """Waits for the first that goes out.

    Args:
        channel: the hypervisor's end of what the enclave's processes ask by; closed at the end.
        start: starts the gate, with what its standard input is to be, the descriptors of channel, name server,
            listener (or -1) and filters, and the allowlist's message.
    """

    def __init__(self, channel: socket.socket, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._allow = b""
        self._network: list[int] = []
        self._watches: list[int] = []
        self.gate: subprocess.Popen[bytes] | None = None
        self._gate_ended = threading.Event()
        # Whoever waits at one end learns that nobody holds the other: `serve`, and afterwards the gate.
        self._over, self._end = os.pipe()

    def close(self) -> None:
        """Wait no longer, and end the gate, if there is one."""
        os.close(self._end)
        if self.gate is not None and not self._gate_ended.wait(_PATIENCE):
            self.gate.kill()

    def serve(self) -> None:
        """Return after `close`, or when the gate has ended by itself; `gate` is still to be waited for."""
        try:
            if self._is_needed():
                self.gate = self._start(self._over, (self._channel.fileno(), *self._listeners()), self._allow)
        finally:
            # Nobody else holds them from here on: where the gate ends, what waits for it fails.
            self._channel.close()
            for each in (*self._network, *self._watches, self._over):
                os.close(each)
        if self.gate is not None:
            _await(self.gate)
            self._gate_ended.set()

    def _listeners(self) -> list[int]:
        return [*(self._network or (-1, -1)), *self._watches]

    def _is_needed(self) -> bool:
        """Wait until an app asks; False where all is over before."""
        while True:
            ready = self._ready()
            if self._over in ready:
                return False
            asked = ready.pop(self._channel.fileno(), 0)
            for each in [each for each in self._watches if not ready.get(each, select.POLLIN) & select.POLLIN]:
                self._watches.remove(each)  # nobody is left who could ask
                os.close(each)
                del ready[each]
            # What the enclave's own code says comes first: an app may ask in the same moment.
            if asked:
                if not self._take():
                    return True
            elif ready:
                return True

    def _ready(self) -> dict[int, int]:
        poll = select.poll()
        for each in (self._over, self._channel.fileno(), *self._network, *self._watches):
            poll.register(each, select.POLLIN)
        return dict(poll.poll())

    def _take(self) -> bool:
        """Take a message that is not for the gate alone; False where the next one is."""
        beginning = self._channel.recv(len(NETWORK) + 1, socket.MSG_PEEK)
        if beginning == NETWORK and not self._network and not self._allow:
            self._network = self._descriptors(2)
        elif beginning == WATCH and len(self._watches) < _MOST_WATCHES:
            self._watches += filter(_is_no_socket, self._descriptors(1))
        elif beginning.startswith(ALLOW) and not self._allow:
            self._allow = self._channel.recv(_LONGEST)
        else:
            return False
        return True

    def _descriptors(self, most: int) -> list[int]:
        return socket.recv_fds(self._channel, _LONGEST, most)[1]


def _await(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, and leave it its number; macOS has a call for that since Python 3.13."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _is_no_socket(descriptor: int) -> bool:
    """A filter's listener is none, and an app's socket could hold up whoever closes it."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return True
    with socket.socket(fileno=descriptor) as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    return False
