"""Where `workshop fuzz` begins: a few inputs for each target that reach what is deepest in it, made when asked for.

Our own vectors join them, and genuine documents and images where the shared ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path

from attested import MEASUREMENTS, NOW, ROLES, envelope, p384_key, twin
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pair import OFFER, Pair
from targets import ANSWERS, MANIFEST, SEPARATOR, crafted_chain, honest, small_image, world
from vectors_location import vectors

from workshop_kit.channel.framing import Record, RequestHead, ResponseHead, encode_record
from workshop_kit.channel.handshake import Answer, Hello, signed_part
from workshop_kit.channel.hybrid import Offer, Response
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import MalformedEvidenceError
from workshop_kit.evidence import cbor, cose, nsm_api
from workshop_kit.evidence.cpio import Link, write_archive
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.evidence.eif_signature import sign_image
from workshop_kit.service.access import User, Users

OWN = Path(__file__).resolve().parents[1] / "vectors"


def _stored(pattern: str) -> list[bytes]:
    return [file.read_bytes() for folder in (OWN, vectors()) if folder for file in sorted(folder.glob(pattern))]


def documents() -> Iterable[bytes]:
    attested = world().attest(**ANSWERS)
    payload = cose.read_sign1(attested).payload
    yield from (attested, b"\xd2" + attested, twin(attested), world().attest(), world().attest(user_data=b""))
    yield envelope(b"\xa1\x01\x38\x22", {1: -35}, payload, bytes(96))
    yield envelope(b"\xa1\x01\x26", {}, payload, bytes(96))
    yield from _stored("nitro/*.bin")


def payloads() -> Iterable[bytes]:
    document, fields = honest(), world().fields()
    yield document.encode()
    yield cbor.encode(fields)
    yield document._replace(pcrs={index: bytes(48) for index in range(32)}, user_data=bytes(8)).encode()
    yield document._replace(pcrs=MEASUREMENTS, nonce=None, public_key=None).encode()
    yield document._replace(module_id="i-simulated-enc0", timestamp=1).encode()
    yield cbor.encode(fields | {"nitrotpm_pcrs": {}})


def certificates() -> Iterable[bytes]:
    """Each of the chain, whole and by its content; those of stored documents whole."""
    for place, der in enumerate(crafted_chain()):
        yield bytes([place]) + der
        yield bytes([130 + place]) + x509.load_der_x509_certificate(der).tbs_certificate_bytes
    stored = (_chain(evidence) for evidence in _stored("nitro/*.bin"))
    yield from sorted({bytes([place]) + der for chain in stored for place, der in enumerate(chain)})
    yield from (b"\1" + der for der in _odd(crafted_chain()[1]))


def _chain(evidence: bytes) -> tuple[bytes, ...]:
    try:
        document = decode_unverified(evidence)
    except MalformedEvidenceError:
        return ()
    return (*document.cabundle, document.certificate)[: len(ROLES)]


def _odd(der: bytes) -> Iterable[bytes]:
    """What `cryptography` does not read, and says so in classes of its own."""
    yield der.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\x0c", 1)  # version 13
    yield der.replace(b"\x2a\x86\x48\xce\x3d\2\1", b"\x2a\x86\x48\xce\x3c\2\1", 1)  # a key of no known kind


def images() -> Iterable[bytes]:
    image = small_image()
    signed = sign_image(image, p384_key(1), _author())
    odd = write_archive({"\x1b[2J\n": b""}), *image.ramdisks[1:]
    yield from (image.encode(), signed.encode(), image._replace(ramdisks=(b"one", b"two", b"three")).encode())
    yield image._replace(ramdisks=odd).encode()
    yield image.encode().replace(b'{"ImageName": "small"}', b"[" * 11 + b"]" * 11)
    yield from _stored("**/eif/*.eif")


def _author() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an author")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(p384_key(1).public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return builder.sign(p384_key(1), hashes.SHA384(), ecdsa_deterministic=True)


def signers() -> Iterable[bytes]:
    der = _author().public_bytes(Encoding.DER)
    yield from (der, *_odd(der))


def ramdisks() -> Iterable[bytes]:
    yield from small_image().ramdisks
    yield write_archive({"a/b/c": b"\x7fELF", "a/link": Link("b/c"), "z": b""})
    yield write_archive({})
    entry = write_archive({"a": b""})[:110]
    yield entry[:54] + b"-0000070" + entry[62:]  # a size below zero


def items() -> Iterable[bytes]:
    yield honest().encode()
    yield from map(cbor.encode, (0, -1, 2**64 - 1, b"bytes", "text", [[[]]], {"a": {1: None}}, True, 1.5))
    yield cbor.encode_indefinite_map({"a": [1, 2], "b": b""})
    yield b"\x9f\x01\xbf\x61a\xf6\xff\xff"


def requests() -> Iterable[bytes]:
    """One by one, then a whole life of a module."""
    each = [
        nsm_api.encode_request("DescribeNSM"),
        nsm_api.encode_request("GetRandom"),
        nsm_api.encode_request("ExtendPCR", index=16, data=b"more"),
        nsm_api.encode_request("LockPCR", index=16),
        nsm_api.encode_request("LockPCRs", range=20),
        nsm_api.encode_request("DescribePCR", index=16),
        nsm_api.encode_request("Attestation", user_data=b"data", nonce=b"", public_key=None),
    ]
    yield from each
    yield SEPARATOR.join(each)
    yield nsm_api.encode_response("Attestation", {"document": b"\x84"})
    yield nsm_api.encode_error("InputTooLarge")


def records() -> Iterable[bytes]:
    headers = ((b"content-type", b"text/plain"), (b"x-empty", b""))
    yield encode_record(Record(RequestHead(b"GET", b"/compare?a=%20", headers), b"question", end=True))
    yield encode_record(Record(ResponseHead(200, headers), b"answer"))
    yield encode_record(Record(None, b"more", end=True))


def hellos() -> Iterable[bytes]:
    key, nonce = UserKey.generate(), bytes(32)
    public = key.public_bytes
    for offer in (None, OFFER, Offer(bytes(32), OFFER.ml_kem_768)):
        signature = key.sign(signed_part(public, nonce, offer))
        yield Hello(public_key=public, nonce=nonce, signature=signature, offer=offer).encode()
    yield Hello(public_key=public, nonce=nonce, signature=bytes(256)).encode()
    yield Hello(public_key=b"key", nonce=nonce, signature=b"").encode()


def answers() -> Iterable[bytes]:
    pair = Pair()
    yield pair.answer(pair.client.hello())
    yield Answer(b"", Response(bytes(32), bytes(1088))).encode()


def manifests() -> Iterable[bytes]:
    yield MANIFEST.encode()
    yield Users((User("Alice", "asker", UserKey.generate().public_bytes),)).to_yaml().encode()
    yield b"traffic: {inbound: [], '0': {name: old}}\n"
    yield b'paths:\n  - path: "/\\u00e9"\n    access: |\n      asker\n'


SEEDS: Mapping[str, Callable[[], Iterable[bytes]]] = {
    "document": documents,
    "payload": payloads,
    "certificates": certificates,
    "eif": images,
    "signer": signers,
    "ramdisk": ramdisks,
    "cbor": items,
    "nsm": requests,
    "frames": records,
    "hello": hellos,
    "answer": answers,
    "manifest": manifests,
}
