"""One target under atheris: `guided.py NAME`, then libFuzzer's own arguments. Started by fuzz.py."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["workshop_kit"]):
    from targets import TARGETS


def main() -> None:
    program, name, *options = sys.argv

    def run(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except BaseException as error:  # a panic of `cryptography` is no Exception
            place = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{ascii(error)[:200]} in {Path(place.filename).name}:{place.lineno}"
            print(f"finding: {words}", file=sys.stderr, flush=True)
            raise

    atheris.Setup([program, *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
