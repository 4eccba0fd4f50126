"""As a program: finds the environment that an image was measured with, in a process that ends.

What knows Pythons and packages is larger than the infrastructure that asks. Given the image's second ramdisk, unpacked,
it prints the environment, the installation of its Python and the note that `find_python` gives, a line each; or in one
line why there is none, and ends with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workshop_kit.errors import ImageError
from workshop_kit.simulator.image import DISTRIBUTIONS, SERVICE
from workshop_kit.simulator.layout import read_plan
from workshop_kit.simulator.requirements import measured_environment


def main(application: Path) -> int:
    """0, or 1 where there is none."""
    plan = read_plan(application)
    assert plan is not None
    try:
        print(*measured_environment(plan, application / SERVICE, application / DISTRIBUTIONS), sep="\n")
    except ImageError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
