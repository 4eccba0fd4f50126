"""The infrastructure's process, as a program: `hypervisor`, and before it the process of its first enclave."""

from __future__ import annotations

import sys
from pathlib import Path

from workshop_kit.simulator.interpreter import Interpreter

if __name__ == "__main__":
    ahead = Interpreter()
    from workshop_kit.simulator.hypervisor import main  # it takes its time, and Python starts there meanwhile

    main(Path(sys.argv[1]), ahead)
