"""What holds for any bytes at all. The property tests hold it against theirs, `workshop fuzz` against what it finds."""

from __future__ import annotations

import json
from collections.abc import Mapping

import cbor2
from attested import refused_by

from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor
from workshop_kit.evidence.document import AttestationDocument, decode_unverified
from workshop_kit.verifier import AppraisalResult
from workshop_kit.verifier.ledger import RULES


def require_calm(evidence: bytes, result: AppraisalResult) -> None:
    """A ledger with all its lines and nothing raised; a refusal to decode has our class and one printable line."""
    assert [check.number for check in result.checks] == list(RULES)
    assert all(line.isprintable() for line in str(result).splitlines())
    assert len(json.loads(result.to_json())["checks"]) == len(RULES)
    assert result.affirmed == (refused_by(result) is None and not result.failed)
    decoded = _decoded(evidence)
    if isinstance(decoded, AttestationDocument):
        assert decoded == result.document
        return
    assert result.document is None
    assert decoded.check == refused_by(result)
    assert str(decoded).isprintable()
    assert len(str(decoded)) < 300


def _decoded(evidence: bytes) -> AttestationDocument | MalformedEvidenceError:
    try:
        return decode_unverified(evidence)
    except MalformedEvidenceError as error:
        return error


def require_one_reading(data: bytes) -> cbor.Value:
    """What the strict reader accepts, cbor2 reads alike, and writes back unless a length is indefinite; the value.

    Raises:
        MalformedEvidenceError: the strict reader refuses it.
    """
    value = cbor.decode(data)
    assert same(cbor2.loads(data), value)
    if b"\x9f" not in data and b"\xbf" not in data:
        assert cbor2.dumps(value) == data
    return value


def same(one: object, other: object) -> bool:
    """Equality that tells 1 from True, which Python does not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return len(one) == len(other) and all(
            same(a, b) and same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other
