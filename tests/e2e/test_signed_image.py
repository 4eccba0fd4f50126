"""A signed image in a running enclave: PCR8 is its certificate, and a fault in the signature keeps it from starting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from workshop_kit.errors import ImageError
from workshop_kit.evidence.eif import EnclaveImage
from workshop_kit.evidence.eif_signature import read_signature, sign_image
from workshop_kit.notebook import Lab
from workshop_kit.verifier import Policy, ReferenceValues

KEY = ec.generate_private_key(ec.SECP384R1())


def signed(image: EnclaveImage, *, days: tuple[int, int]) -> EnclaveImage:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an author")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = (
        builder.serial_number(7).not_valid_before(now + timedelta(days[0])).not_valid_after(now + timedelta(days[1]))
    )
    return sign_image(image, KEY, builder.sign(KEY, hashes.SHA384()))


def test_a_client_can_ask_for_the_signer_of_the_image() -> None:
    with Lab("millionaires") as lab:
        image = signed(lab.image, days=(-1, 1))
        assert image.signature is not None
        enclave = lab.run(image)
        wanted = image.measurements() | {8: read_signature(image.signature).pcr8}
        demanding = Policy(reference_values=ReferenceValues(wanted), trust_anchor=lab.trust_anchor)
        assert lab.attempt("Alice", enclave, demanding).affirmed
        unsigned = lab.attempt("Alice", lab.enclave, demanding)
        assert [check.number for check in unsigned.failed] == [9]
        assert "PCR8 differs: the image is signed with another certificate, or not signed." in unsigned[9].explanation
        with pytest.raises(ImageError, match="certificate: expected one valid at"):
            lab.run(signed(lab.image, days=(-3, -1)))
