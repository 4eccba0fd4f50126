"""`python -m workshop_kit.models`: the table of variants, an attack told, and ProVerif's results."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from workshop_kit.errors import LabError
from workshop_kit.models import VARIANTS, Property, examine


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"workshop: {message}; see `{self.prog} --help`\n")


def main(arguments: list[str]) -> int:
    """0 when what was searched is as expected, 1 when not or with one line that says why, 2 for bad arguments."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.command == "trace":
            if given.variant not in VARIANTS:
                parser.error(f"expected a variant from the table, got {given.variant!r}")
            print(examine(VARIANTS[given.variant]))
            return 0
        if given.command == "export":
            return _export(given.folder)
        if given.command == "record":
            return _record(without=given.without_proverif)
    except LabError as error:
        print(f"workshop: {error}", file=sys.stderr)
        return 1
    return _table()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m workshop_kit.models", description="Without a command: search every variant.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    trace = commands.add_parser("trace", help="search one variant and tell its attacks", prog=parser.prog)
    trace.add_argument("variant", metavar="VARIANT", help="a name from the table")
    export = commands.add_parser("export", help="write the models for ProVerif into a folder", prog=parser.prog)
    export.add_argument("folder", type=Path)
    record = commands.add_parser("record", help="run ProVerif and write down what it says", prog=parser.prog)
    record.add_argument(
        "--without-proverif", action="store_true", help="only renew digests, and drop results that no longer fit"
    )
    return parser


def _table() -> int:
    expected = True
    print(f"{'variant':36} {'runs':>4} {'states':>6}  what falls")
    for variant in VARIANTS.values():
        result = examine(variant)
        falls = ", ".join(each for each in Property if each in result.fell) or "nothing"
        runs = f"{len(variant.profiles)}x{variant.enclaves}"
        surprise = "" if result.fell == variant.falls else ", which was not expected"
        expected = expected and not surprise
        print(f"{variant.name:36} {runs:>4} {result.states:6}  {falls}{surprise}", flush=True)
    return 0 if expected else 1


def _export(folder: Path) -> int:
    from workshop_kit.models.recording import export

    export(folder)
    return 0


def _record(*, without: bool) -> int:
    from workshop_kit.models.recording import keep_what_fits, record

    if without:
        keep_what_fits()
        return 0
    surprises = record()
    print("\n".join(surprises) or "as expected", file=sys.stderr if surprises else sys.stdout)
    return 1 if surprises else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
