"""Who checks: appraisal of Nitro attestation documents, the same for genuine and for simulated evidence.

    result = appraise(evidence, Policy(reference_values=...), now=datetime.now(UTC))
    print(result)              # ten numbered checks: expected, actual, and what skipping each would cost
    result.claims              # raises AppraisalError unless the result affirms

Policies compose with `AllOf` and `AnyOf`; `policy_file.load_policy` reads one from a file. Lift this package,
`evidence` and `errors` out to point them at real enclaves: they open no socket and read no clock.
"""

from workshop_kit.verifier.appraisal import AppraisalResult, Check, Claims, Outcome, appraise
from workshop_kit.verifier.endorsements import AWS_NITRO_ROOT_G1, TrustAnchor
from workshop_kit.verifier.policy import (
    AllOf,
    AnyOf,
    AnyPolicy,
    Policy,
    UnsafeAnyAgePolicy,
    UnsafeAnyImagePolicy,
    UnsafeDebugPolicy,
)
from workshop_kit.verifier.reference_values import ReferenceValues

__all__ = [
    "AWS_NITRO_ROOT_G1",
    "AllOf",
    "AnyOf",
    "AnyPolicy",
    "AppraisalResult",
    "Check",
    "Claims",
    "Outcome",
    "Policy",
    "ReferenceValues",
    "TrustAnchor",
    "UnsafeAnyAgePolicy",
    "UnsafeAnyImagePolicy",
    "UnsafeDebugPolicy",
    "appraise",
]
