"""Becomes a service of an enclave's, whose connections are asked about from its first line on.

Run as a program: the descriptor of the gate's messages, and the service's command.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from workshop_kit.simulator.isolation import connects


def main(descriptor: str, *command: str) -> None:
    gate = socket.socket(fileno=int(descriptor))
    try:
        connects.hand_over(gate, connects.watch())
    except OSError as error:
        print(f"without a way out: {error}", flush=True)
    os.set_inheritable(gate.detach(), True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", flush=True)
        sys.exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
