"""Documents whose certificates deviate, each in one thing: check 4, and the leaf's name for 5a."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from attested import ES384, MEASUREMENTS, NOW, ROLES, World, crafted, p384_key, usual_chain
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from vectors.crafting import Make, Row, Vector, edited, made

from workshop_kit.evidence import cbor, cose
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.verifier.ledger import Number

SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)
SIGNER = ("digital_signature", "content_commitment")
NAMES = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DNSName("invalid")])
P256, P521 = ec.derive_private_key(7, ec.SECP256R1()), ec.derive_private_key(7, ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def unknown(size: int = 2) -> x509.ExtensionType:
    """An extension that nobody knows."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(size))


# --- the simulator's own certificates, bundled otherwise -------------------------------------------------------------


def bundled(*places: int) -> Make:
    """A document with the certificates at these places of an honest cabundle, which has four."""
    return edited(lambda world: {"cabundle": tuple(world.document().cabundle[place] for place in places)})


def under_our_root(world: World) -> bytes:
    other = World(seed=2)
    return other.edited(cabundle=(world.pki.root, *other.document().cabundle[1:]))


def with_a_stray(world: World) -> bytes:
    return world.edited(cabundle=(*world.document().cabundle, World(seed=2).document().cabundle[1]))


PATH, ORDER = "a path from", "each certificate issued by the one before it"
BUNDLES: tuple[Row, ...] = (
    (
        "other_infrastructure",
        "first in cabundle",
        "another infrastructure's: every name is right, every key another",
        lambda _: World(seed=2).attest(),
    ),
    ("root_of_ours", PATH, "another infrastructure's certificates follow the trusted root", under_our_root),
    ("cabundle_reversed", "first in cabundle", "the root stands last", bundled(3, 2, 1, 0)),
    ("cabundle_without_root", "first in cabundle", "the root is left out", bundled(1, 2, 3)),
    ("cabundle_without_zonal", PATH, "the zonal certificate is left out", bundled(0, 1, 3)),
    ("cabundle_swapped", ORDER, "the zonal certificate stands before the regional one", bundled(0, 2, 1, 3)),
    ("cabundle_root_twice", ORDER, "the root is there twice", bundled(0, 0, 1, 2, 3)),
    ("cabundle_stray", ORDER, "a certificate that leads nowhere travels along", with_a_stray),
    (
        "leaf_trailing_byte",
        "a certificate at place 4",
        "a byte follows the leaf",
        edited(lambda world: {"certificate": world.document().certificate + b"\0"}),
    ),
)

# --- certificates of our own -----------------------------------------------------------------------------------------

Deviations = dict[str, dict[str, Any]]

CHAINS: tuple[tuple[str, Number | None, str, str, Deviations], ...] = (
    ("ok_chain", None, "", "every certificate is as it should be, an hour old, and good for another", {}),
    (
        "ok_chain_open",
        None,
        "",
        "what no rule fixes is otherwise: path lengths, criticality of keyUsage, unknown extensions",
        {
            "regional": {"path_length": None},
            "zonal": {"usage": ("key_cert_sign",), "critical_usage": False},
            "leaf": {"critical_usage": True, "more": ((unknown(), False),)},
        },
    ),
    (
        "ok_root_not_self_signed",
        None,
        "",
        "the root's signature on itself is another key's: an anchor is trusted for its digest",
        {"root": {"signed_by": p384_key(99)}},
    ),
    (
        "zonal_path_length",
        4,
        PATH,
        "the zonal certificate allows no authority below it, one follows",
        {"zonal": {"path_length": 0}},
    ),
    (
        "zonal_no_authority",
        4,
        PATH,
        "the zonal certificate is no authority",
        {"zonal": {"ca": False, "path_length": None}},
    ),
    ("zonal_no_constraints", 4, PATH, "the zonal certificate has no basicConstraints", {"zonal": {"ca": None}}),
    (
        "zonal_not_critical",
        4,
        PATH,
        "the zonal certificate's basicConstraints are not critical",
        {"zonal": {"critical_constraints": False}},
    ),
    ("zonal_no_usage", 4, PATH, "the zonal certificate has no keyUsage", {"zonal": {"usage": None}}),
    (
        "instance_usage",
        4,
        PATH,
        "the instance's certificate may not sign others",
        {"instance": {"usage": ("digital_signature", "crl_sign")}},
    ),
    ("leaf_authority", 4, PATH, "the leaf is an authority", {"leaf": {"ca": True}}),
    ("leaf_no_constraints", 4, PATH, "the leaf has no basicConstraints", {"leaf": {"ca": None}}),
    ("leaf_no_usage", 4, PATH, "the leaf has no keyUsage", {"leaf": {"usage": None}}),
    ("leaf_usage", 4, PATH, "the leaf may not sign documents", {"leaf": {"usage": ("content_commitment",)}}),
    ("leaf_signs", 4, PATH, "the leaf may sign certificates", {"leaf": {"usage": (*SIGNER, "key_cert_sign")}}),
    (
        "zonal_unknown",
        4,
        PATH,
        "the zonal certificate has an unknown critical extension",
        {"zonal": {"more": ((unknown(), True),)}},
    ),
    ("leaf_unknown", 4, PATH, "the leaf has an unknown critical extension", {"leaf": {"more": ((unknown(), True),)}}),
    ("zonal_names", 4, PATH, "the zonal certificate constrains names", {"zonal": {"more": ((NAMES, True),)}}),
    ("zonal_signature", 4, PATH, "another key signed the zonal certificate", {"zonal": {"signed_by": p384_key(99)}}),
    ("leaf_issuer", 4, PATH, "the leaf names the zonal certificate as issuer", {"leaf": {"issuer": "zonal.crafted"}}),
    (
        "zonal_sha256",
        4,
        "ecdsa-with-SHA384",
        "ECDSA with SHA-256 signed the zonal certificate",
        {"zonal": {"digest": hashes.SHA256}},
    ),
    ("zonal_p256", 4, "a P-384 key at place 2", "the zonal certificate's key is on P-256", {"zonal": {"key": P256}}),
    ("zonal_p521", 4, "a P-384 key at place 2", "the zonal certificate's key is on P-521", {"zonal": {"key": P521}}),
    ("leaf_p256", 4, "a P-384 key at place 4", "the leaf's key is on P-256", {"leaf": {"key": P256}}),
    ("leaf_ed25519", 4, "a P-384 key at place 4", "the leaf's key is Ed25519's", {"leaf": {"key": ED25519}}),
    (
        "leaf_of_another_time",
        4,
        "a time at which all are valid",
        "the leaf's life ended an hour before the others' began",
        {"leaf": {"begin": NOW - timedelta(hours=3), "end": NOW - timedelta(hours=2)}},
    ),
    ("leaf_without_name", "5a", "one without a name", "the leaf has no name", {"leaf": {"name": ""}}),
)


def chain_vectors() -> list[Vector]:
    """A vector for each row, and for each certificate's life and length."""
    whole = made(4, BUNDLES)
    for name, check, ledger, why, deviations in CHAINS:
        evidence, _ = crafted(World(), **deviations)
        whole.append(_vector(name, check, ledger, why, evidence, deviations))
    whole.append(_vector("leaf_off_curve", 4, "an unreadable one", "the leaf's key is no point", _off_curve(), {}))
    return whole + _lives() + _lengths()


def _vector(name: str, check: Number | None, ledger: str, why: str, evidence: bytes, deviations: Deviations) -> Vector:
    root = replace(usual_chain("")["root"], **deviations.get("root", {}))
    return Vector(
        name=name,
        file=name,
        check=check,
        ledger=ledger,
        why=why,
        evidence=evidence,
        root=root.der(root),
        reference_values=MEASUREMENTS,
    )


def _lives() -> list[Vector]:
    """Chains of which one certificate, and only it, lives for the one second at `NOW`."""
    whole = []
    for role in ROLES:
        deviations = {role: {"begin": NOW, "end": NOW}}
        evidence, _ = crafted(World(), **deviations)
        name = f"ok_{role}_second"
        valid = _vector(name, None, "", f"the {role} certificate's life is this second", evidence, deviations)
        why = f"the {role} certificate, and only it, is"
        early = {"name": f"{role}_not_yet_valid", "why": f"{why} not yet valid", "at": NOW - MILLISECOND}
        late = {"name": f"{role}_expired", "why": f"{why} expired", "at": NOW + SECOND}
        ledger = "life of i-simulated" if role == "leaf" else f"life of {role}"
        whole += [valid, *(replace(valid, check=4, ledger=ledger, **others) for others in (early, late))]
    return whole


def _lengths() -> list[Vector]:
    """Certificates that a meaningless extension fills up to the limit, and beyond it."""
    rows: tuple[tuple[str, Number | None, str, str, str, int], ...] = (
        ("ok_certificate_1024_bytes", None, "", "the leaf is as long as it may be", "leaf", 1024),
        ("certificate_1025_bytes", 3, "bytes as certificate", "the leaf is a byte too long", "leaf", 1025),
        ("cabundle_1025_bytes", 3, "bytes as cabundle[2]", "the zonal certificate is a byte too long", "zonal", 1025),
    )
    return [_vector(name, check, ledger, why, _filled(role, size), {}) for name, check, ledger, why, role, size in rows]


def _filled(role: str, size: int) -> bytes:
    """A document with a `role` certificate of `size` bytes. Signatures vary by a few, so that lengths are tried."""

    def document(filling: int) -> tuple[bytes, int]:
        evidence, _ = crafted(World(), **{role: {"more": ((unknown(filling), False),)}})
        payload: Any = cbor.decode(cose.read_sign1(evidence).payload)
        chain = [*payload["cabundle"], payload["certificate"]]
        return evidence, len(chain[ROLES.index(role)])

    guess = 256 + size - document(256)[1]
    tried = map(document, range(guess - 4, guess + 5))
    return next(evidence for evidence, length in tried if length == size)


def _off_curve() -> bytes:
    """A document whose leaf's key is no point of the curve, and whose leaf is well signed."""
    document = decode_unverified(crafted(World())[0])
    content = x509.load_der_x509_certificate(document.certificate).tbs_certificate_bytes
    point = p384_key(5).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    content = content.replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    signature = p384_key(4).sign(content, ES384.ecdsa)
    # RFC 5280, 4.1: the content, the algorithm as before, the signature as a bit string.
    algorithm = document.certificate[4 + len(content) :][:12]
    body = content + algorithm + b"\x03" + bytes([len(signature) + 1, 0]) + signature
    leaf = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    return cose.sign1(document._replace(certificate=leaf).encode(), p384_key(5), ES384)
