"""What `cryptography` raises on certificates that it cannot read, for all who read those of strangers."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    Warning,
)
"""All but the first are no ValueErrors. It warns of negative serial numbers and overlong names, which raises where the
program runs with `-W error`."""
