"""What a page shows: labs, views and the machinery that keeps pages running. Nothing below it imports it.

A page begins with `from workshop_kit.notebook import *`.
"""

from workshop_kit.errors import AccessDeniedError, AppraisalError
from workshop_kit.notebook.lab import Lab
from workshop_kit.notebook.ordinary import OrdinaryServer
from workshop_kit.verifier import AWS_NITRO_ROOT_G1, Policy, ReferenceValues, TrustAnchor, appraise

__all__ = [
    "AWS_NITRO_ROOT_G1",
    "AccessDeniedError",
    "AppraisalError",
    "Lab",
    "OrdinaryServer",
    "Policy",
    "ReferenceValues",
    "TrustAnchor",
    "appraise",
]
