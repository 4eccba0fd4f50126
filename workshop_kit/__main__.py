"""`workshop` and `python -m workshop_kit`: run a command, and turn the kit's errors into one line and an exit code."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Exit 0 when the command did what was asked, 1 with one line when not, 2 for bad arguments, 130 after Ctrl-C."""
    from workshop_kit.cli import app
    from workshop_kit.errors import WorkshopKitError

    try:
        app(prog_name="workshop")
    except WorkshopKitError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _stop(message: str) -> None:
    print(f"workshop: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
