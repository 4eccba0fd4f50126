"""Every exception of the kit. Nothing from cbor2, cryptography, pydantic or a socket leaves the kit in another class.

    WorkshopKitError
    ├── ProtocolError
    │   ├── LocalProtocolError      this side called in the wrong order
    │   └── RemoteProtocolError     the peer broke SPEC.md
    ├── MalformedEvidenceError      the bytes are no attestation document (gates 1-3)
    ├── EndorsementError            the certificates vouch for no key (gate 4)
    ├── AppraisalError              parsed and refused; `.result` holds the ledger
    ├── ManifestError               the author's mistake in service.yaml or beside it
    ├── ImageError                  an enclave image cannot be built or read
    ├── AccessDeniedError           the enclave proxy refuses a user, a role or a path
    ├── EgressDeniedError           nothing leaves the enclave to there
    ├── ServiceError                the service behind the enclave proxy broke HTTP or its connection
    ├── NsmError                    the NSM API's own error codes
    └── LabError                    the simulated world cannot do what was asked

A message is one line: what was expected, what came, what to do.
"""

from __future__ import annotations

from typing import Any


class WorkshopKitError(Exception):
    """The root of the tree."""


class ProtocolError(WorkshopKitError):
    """The conversation of SPEC.md cannot go on."""


class LocalProtocolError(ProtocolError):
    """A method was called in a state that does not allow it."""


class RemoteProtocolError(ProtocolError):
    """The peer, or whoever stands between, sent what SPEC.md does not allow."""


class MalformedEvidenceError(WorkshopKitError):
    """The bytes are no attestation document; `.check` is the gate that says so (1, 2 or 3; "3a" for a NitroTPM's)."""

    def __init__(self, message: str, *, check: int | str = 3, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.check = check
        self.expected = expected
        self.actual = actual


class EndorsementError(WorkshopKitError):
    """The certificates beside a document do not lead from the trust anchor to its leaf (gate 4)."""

    def __init__(self, *, expected: str, actual: str) -> None:
        super().__init__(f"the document's key is not endorsed: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class AppraisalError(WorkshopKitError):
    """The evidence was refused. `.result` is the `verifier.AppraisalResult`, whose ledger says by which check."""

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message)
        self.result = result


class ManifestError(WorkshopKitError):
    """A mistake in service.yaml, the users' file or the runtime configuration, with its place."""

    def __init__(self, message: str, *, path: str = "", file: str = "", line: int | None = None) -> None:
        place = f"{file}:{line}" if file and line is not None else file
        super().__init__(": ".join(part for part in (place, path, message) if part))
        self.message = message
        self.path = path
        self.file = file
        self.line = line


class ImageError(WorkshopKitError):
    """An enclave image cannot be built from its folder, or its bytes cannot be read."""


class AccessDeniedError(WorkshopKitError):
    """The enclave proxy refuses; `.status` is the HTTP status that says so."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class EgressDeniedError(WorkshopKitError):
    """A name or an address that the enclave's app does not reach, with the reason."""


class ServiceError(WorkshopKitError):
    """The service broke HTTP or its connection, and no client is to blame; it may have done what it was asked to."""


class NsmError(WorkshopKitError):
    """The NSM answered with one of its error codes, `.code` (NSM API, `ErrorCode`)."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the NSM answered {code}")
        self.code = code


class LabError(WorkshopKitError):
    """The simulated world cannot do what was asked."""
