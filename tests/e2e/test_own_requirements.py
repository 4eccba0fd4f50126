"""A service with libraries of its own on the built-in base is measured, and not run on other libraries."""

from __future__ import annotations

import pytest

from workshop_kit.errors import LabError
from workshop_kit.notebook import Lab
from workshop_kit.simulator.image import assemble_image, read_folder


def test_an_image_that_brings_distributions_is_not_run_on_other_ones() -> None:
    with Lab("millionaires") as lab:
        image = assemble_image(read_folder(lab.folder), name="m", distributions="tinydist==1.0 sha256:00\n")
        with pytest.raises(LabError, match="runs services on its own libraries, the image brings others"):
            lab.run(image)
