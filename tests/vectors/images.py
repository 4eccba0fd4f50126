"""Enclave images of a few hundred bytes: sound ones of every form, and one for each fault that the format knows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from attested import NOW, Certificate, envelope, p384_key, signed_over
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from workshop_kit.evidence import cbor, cose, pcr

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
GOOD = [(KERNEL, b"kernel"), (CMDLINE, b"cmdline"), (METADATA, b"{}"), (RAMDISK, b"bootstrap"), (RAMDISK, b"service")]
NO_METADATA = [section for section in GOOD if section[0] != METADATA]

Sections = Sequence[tuple[int, bytes]]


@dataclass(frozen=True, kw_only=True)
class ImageVector:
    """An image, what it measures, and its fault.

    Attributes:
        pcrs: empty where the sections cannot be told apart.
        faults: how each begins; one for one deviation, and those that cannot but come along.
    """

    name: str
    why: str
    data: bytes
    pcrs: dict[int, bytes]
    faults: tuple[str, ...]
    at: datetime = NOW


def laid_out(
    sections: Sections,
    *,
    magic: bytes = b".eif",
    version: int = 4,
    flags: int = 0,
    count: int | None = None,
    offsets: dict[int, int] | None = None,
    sizes: dict[int, int] | None = None,
    more: bytes = b"",
    crc: int = 0,
) -> bytes:
    """A file of any sections. What its header says of them, and its checksum, may be other than they are."""
    parts = [struct.pack(">HHQ", kind, 0, len(data)) + data for kind, data in sections]
    begins = {place: 548 + len(b"".join(parts[:place])) for place in range(len(parts))}
    lengths = {place: len(data) for place, (_, data) in enumerate(sections)}
    told = [(begins | (offsets or {})).get(place, 0) for place in range(32)]
    told += [(lengths | (sizes or {})).get(place, 0) for place in range(32)]
    count = len(sections) if count is None else count
    header = struct.pack(">4sHHQQHH64QI", magic, version, flags, 1 << 30, 2, 0, count, *told, 0)
    body = b"".join(parts) + more
    return header + struct.pack(">I", zlib.crc32(header + body) ^ crc) + body


def measurements(sections: Sections) -> dict[int, bytes]:
    """PCR0 of kernel, command line and ramdisks, PCR1 without the ramdisks after the first, PCR2 of those."""
    measured = [(kind, data) for kind, data in sections if kind in (KERNEL, CMDLINE, RAMDISK)]
    later = [place for place, (kind, _) in enumerate(measured) if kind == RAMDISK][1:]
    base = [data for place, (_, data) in enumerate(measured) if place not in later]
    return {
        0: pcr.measure(*(data for _, data in measured)),
        1: pcr.measure(*base),
        2: pcr.measure(*(measured[place][1] for place in later)),
    }


# --- unsigned --------------------------------------------------------------------------------------------------------

# Name, how the fault begins, reason, sections, how their header deviates.
UNSIGNED: tuple[tuple[str, str, str, Sections, dict[str, Any]], ...] = (
    ("ok", "", "the form that nitro-cli writes", GOOD, {}),
    ("ok_version_3", "", "version 3 has no metadata", NO_METADATA, {"version": 3}),
    ("ok_version_2", "", "version 2 is the first with a checksum", NO_METADATA, {"version": 2}),
    ("ok_arm64", "", "the first flag names another processor", GOOD, {"flags": 1}),
    ("ok_one_ramdisk", "", "PCR0 equals PCR1 where there is no second ramdisk", GOOD[:-1], {}),
    ("ok_three_ramdisks", "", "PCR2 measures all but the first", [*GOOD, (RAMDISK, b"more")], {}),
    ("ok_32_sections", "", "as many sections as a header can list", [*GOOD, *[(RAMDISK, b"")] * 27], {}),
    ("ok_other_order", "", "sections are measured in the order of the file", [GOOD[1], GOOD[0], *GOOD[2:]], {}),
    ("ok_empty_sections", "", "a section may be empty", [(KERNEL, b""), (CMDLINE, b""), *GOOD[2:]], {}),
    (
        "ok_kernel_boundary",
        "",
        "a boundary moved between kernel and command line: every PCR is that of ok",
        [(KERNEL, b"kernelcmd"), (CMDLINE, b"line"), *GOOD[2:]],
        {},
    ),
    (
        "ok_ramdisk_boundary",
        "",
        "a boundary moved between ramdisks: PCR0 is that of ok, PCR1 and PCR2 are not",
        [*GOOD[:3], (RAMDISK, b"bootstrapser"), (RAMDISK, b"vice")],
        {},
    ),
    ("magic", "magic: expected a file", "the file begins with other bytes", GOOD, {"magic": b".EIF"}),
    ("version_5", "version: expected 2 to 4, got 5", "the version is yet to come", GOOD, {"version": 5}),
    ("version_1", "version: expected 2 to 4, got 1", "the version knows no checksum", NO_METADATA, {"version": 1}),
    ("crc", "CRC: expected", "the checksum is another file's", GOOD, {"crc": 1}),
    ("count_4", "sections: the header says 4, the file has 5", "the header counts a section less", GOOD, {"count": 4}),
    ("count_6", "sections: the header says 6, the file has 5", "the header counts a section more", GOOD, {"count": 6}),
    (
        "offset",
        "offsets: expected [548, ",
        "the header places the second section on the first",
        GOOD,
        {"offsets": {1: 548}},
    ),
    (
        "offset_unused",
        "offsets: expected [548, ",
        "the header places a section that it does not count",
        GOOD,
        {"offsets": {5: 548}},
    ),
    ("size", "sizes: expected [6, 7, ", "the header gives the last section a byte less", GOOD, {"sizes": {4: 6}}),
    (
        "trailing_bytes",
        "section at 639: expected 12 bytes",
        "too few bytes for a section follow",
        GOOD,
        {"more": b"hidden"},
    ),
    ("type_0", "section at 639: expected type 1 to 5, got 0", "a section of type 0 follows", GOOD, {"more": bytes(12)}),
    (
        "type_6",
        "section at 639: expected type 1 to 5, got 6",
        "a section of type 6 follows",
        GOOD,
        {"more": b"\0\6" + bytes(10)},
    ),
    (
        "size_beyond",
        "section at 639: expected 9223372036854775808 bytes, the file has 0",
        "a section is longer than the file",
        GOOD,
        {"more": b"\0\3\0\0\x80" + bytes(7)},
    ),
    (
        "sections_33",
        "section at ",
        "a section more than a header can list",
        [*GOOD, *[(RAMDISK, b"")] * 28],
        {"count": 32},
    ),
    ("no_kernel", "kernel: expected one section, got 0", "there is no kernel", GOOD[1:], {}),
    ("two_kernels", "kernel: expected one section, got 2", "there are two kernels", [GOOD[0], *GOOD], {}),
    ("no_cmdline", "cmdline: expected one section, got 0", "there is no command line", [GOOD[0], *GOOD[2:]], {}),
    ("no_ramdisk", "ramdisk: expected one or more sections, got none", "there is no ramdisk", GOOD[:3], {}),
    (
        "no_metadata",
        "metadata: expected one section in version 4, got 0",
        "version 4 without metadata",
        NO_METADATA,
        {},
    ),
    (
        "metadata_3",
        "metadata: expected no section in version 3, got 1",
        "version 3 with metadata",
        GOOD,
        {"version": 3},
    ),
    (
        "metadata_list",
        "metadata: expected a JSON object",
        "the metadata are a list",
        [*NO_METADATA, (METADATA, b"[]")],
        {},
    ),
    (
        "metadata_cut",
        "metadata: expected a JSON object",
        "the metadata are no JSON",
        [*NO_METADATA, (METADATA, b"{")],
        {},
    ),
)


def unsigned() -> list[ImageVector]:
    vectors = []
    for name, fault, why, sections, header in UNSIGNED:
        pcrs = {} if fault.startswith(("magic", "section at")) else measurements(sections)
        data, faults = laid_out(sections, **header), (fault,) if fault else ()
        vectors.append(ImageVector(name=name, why=why, data=data, pcrs=pcrs, faults=faults))
    also = ("sections: expected 1 to 32, the header says 33", "sections: the header says 33, the file has 5")
    data, pcrs = laid_out(GOOD, count=33), measurements(GOOD)
    vectors.append(ImageVector(name="count_33", why="the header counts 33 sections", data=data, pcrs=pcrs, faults=also))
    why, faults = "the header is a byte too short", ("magic: expected a file",)
    vectors.append(ImageVector(name="header_cut", why=why, data=laid_out([])[:547], pcrs={}, faults=faults))
    return vectors


# --- signed ----------------------------------------------------------------------------------------------------------

PCR0 = measurements(GOOD)[0]
AUTHOR, OTHER = p384_key(6), p384_key(7)
P256, P521 = ec.derive_private_key(6, ec.SECP256R1()), ec.derive_private_key(6, ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ES256, ES384, ES512 = cose.Algorithm
DAY = timedelta(days=1)


def certificate(**deviation: Any) -> bytes:
    """An author's own certificate, valid at `NOW`."""
    made = Certificate(**{"name": "author", "key": AUTHOR, "ca": None, "usage": None} | deviation)
    return made.der(made)


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def statement(value: bytes = PCR0, *, register: int = 0) -> bytes:
    """What an author signs."""
    return cbor.encode({"register_index": register, "register_value": list(value)})


def section(certificate: bytes, signature: bytes) -> bytes:
    return cbor.encode([{"signing_certificate": list(certificate), "signature": list(signature)}])


def with_label() -> bytes:
    sign1 = cose.read_sign1(cose.sign1(statement(), AUTHOR, ES384))
    return envelope(sign1.protected, {4: b"kid"}, sign1.payload, sign1.signature)


OWN, HONEST = certificate(), cose.sign1(statement(), AUTHOR, ES384)

# Name, how the fault begins, reason, DER of the certificate, envelope.
SIGNED: tuple[tuple[str, str, str, bytes, bytes], ...] = (
    ("ok_signed_p384", "", "signed with a key on P-384", OWN, HONEST),
    ("ok_signed_p256", "", "signed with a key on P-256", certificate(key=P256), cose.sign1(statement(), P256, ES256)),
    ("ok_signed_p521", "", "signed with a key on P-521", certificate(key=P521), cose.sign1(statement(), P521, ES512)),
    ("ok_signed_last_second", "", "the certificate's life is this second", certificate(begin=NOW, end=NOW), HONEST),
    (
        "signed_ed25519",
        "certificate: expected a key on P-256, P-384 or P-521",
        "the certificate's key is Ed25519's",
        certificate(key=ED25519, signed_by=AUTHOR),
        HONEST,
    ),
    (
        "signed_es256",
        "signature: expected ES384 and nothing else",
        "the header names ES256",
        OWN,
        signed_over(ES256.protected, statement(), AUTHOR),
    ),
    (
        "signed_label",
        "signature: expected ES384 and nothing else",
        "the header that nobody signs holds a label",
        OWN,
        with_label(),
    ),
    (
        "signed_other_key",
        "signature: expected one by the certificate's key",
        "another key signed",
        OWN,
        cose.sign1(statement(), OTHER, ES384),
    ),
    (
        "signed_other_image",
        "signature: expected one over this image's PCR0",
        "another image's PCR0 is signed",
        OWN,
        cose.sign1(statement(pcr.ZERO), AUTHOR, ES384),
    ),
    (
        "signed_register_8",
        "signature: expected one over this image's PCR0",
        "the value is signed for another register",
        OWN,
        cose.sign1(statement(register=8), AUTHOR, ES384),
    ),
    (
        "signed_expired",
        "certificate: expected one valid at",
        "the certificate has expired",
        certificate(begin=NOW - 3 * DAY, end=NOW - DAY),
        HONEST,
    ),
    (
        "signed_too_early",
        "certificate: expected one valid at",
        "the certificate is not yet valid",
        certificate(begin=NOW + DAY, end=NOW + 3 * DAY),
        HONEST,
    ),
)

NO_INTEGERS = cbor.encode([{"signing_certificate": pem(OWN), "signature": HONEST}])

# Name, how the fault begins, reason, contents of signature sections; PCR8 cannot be told.
NO_SIGNATURE: tuple[tuple[str, str, str, bytes], ...] = (
    ("signature_no_cbor", "signature: not strict CBOR", "the section is no CBOR", b"\xff"),
    (
        "signature_map",
        "signature: expected an array of one map",
        "the map is not in an array",
        section(pem(OWN), HONEST)[1:],
    ),
    (
        "signature_bytes",
        "signature: expected bytes as an array of integers",
        "byte strings are byte strings",
        NO_INTEGERS,
    ),
    ("signature_no_certificate", "certificate: expected one in PEM", "the certificate is DER", section(OWN, HONEST)),
    (
        "signature_no_envelope",
        "signature: not a COSE_Sign1",
        "the envelope is the bare signature",
        section(pem(OWN), HONEST[-96:]),
    ),
)


def signed() -> list[ImageVector]:
    vectors = []
    for name, fault, why, der, sign1 in SIGNED:
        image = laid_out([*GOOD, (SIGNATURE, section(pem(der), sign1))])
        pcrs, faults = measurements(GOOD) | {8: pcr.measure(der)}, (fault,) if fault else ()
        vectors.append(ImageVector(name=name, why=why, data=image, pcrs=pcrs, faults=faults))
    for name, fault, why, content in NO_SIGNATURE:
        image = laid_out([*GOOD, (SIGNATURE, content)])
        vectors.append(ImageVector(name=name, why=why, data=image, pcrs=measurements(GOOD), faults=(fault,)))
    twice = laid_out([*GOOD, *[(SIGNATURE, section(pem(OWN), HONEST))] * 2])
    pcrs, faults = measurements(GOOD) | {8: pcr.measure(OWN)}, ("signature: expected one section at most, got 2",)
    return [
        *vectors,
        ImageVector(name="signed_twice", why="there are two signatures", data=twice, pcrs=pcrs, faults=faults),
    ]


def images() -> list[ImageVector]:
    """All of them, by name each once."""
    return [*unsigned(), *signed()]
