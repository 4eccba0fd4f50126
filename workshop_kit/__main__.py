"""`workshop` and `python -m workshop_kit`: run a command, and turn errors into one line and an exit code."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Exit 0 when the command did what was asked, 1 with one line when not, 2 for bad arguments, 130 after Ctrl-C."""
    try:
        code = _run()
    except KeyboardInterrupt:  # while modules are loaded, too
        code = 130
    except BrokenPipeError:
        # The reader of a pipe has enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _run() -> int:
    import typer

    from workshop_kit.cli import app
    from workshop_kit.errors import WorkshopKitError

    # typer brings click's errors along from another module in each of its versions; their base class keeps its name.
    kinds: list[type[BaseException]] = [
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    ]
    try:
        code = app(prog_name="workshop", standalone_mode=False)
    except WorkshopKitError as error:
        return _refuse(str(error), 1)
    except tuple(kinds) as error:
        return _refuse(_words(error), 2)
    return code if isinstance(code, int) else 0


def _words(error: BaseException) -> str:
    """What is wrong with the arguments, and where help is; without any arguments, the help itself."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    return message if "\n" in message else message.rstrip(".") + hint


def _refuse(message: str, code: int) -> int:
    print(message if message.startswith("Usage:") else f"workshop: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
