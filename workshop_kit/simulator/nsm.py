"""The Nitro Security Module of one simulated enclave: a bank of PCRs and a signature under the infrastructure's keys.

It lives in the infrastructure's process. An enclave reaches it only by requests in the NSM API's bytes, its parent
instance not at all. Answers to bad requests follow QEMU's virtio-nsm, the one public description of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime

from workshop_kit.errors import LabError, NsmError
from workshop_kit.evidence import cose, nsm_api, pcr
from workshop_kit.evidence.document import DIGEST, MAX_OPTIONAL, AttestationDocument
from workshop_kit.simulator.pki import Pki
from workshop_kit.simulator.register import Random

VERSION = (1, 0, 0)
LOCKED_AT_START = 16
"""PCRs 0 to 15 are read-only from the beginning; 16 to 31 are the enclave's."""


class Nsm:
    """One enclave's module.

    Args:
        pki: signs what this module attests.
        instance_id: of the parent instance; `module_id` begins with it.
        measurements: PCR index to 48 bytes, made by whoever loaded the image; PCR4 is added here.
    """

    def __init__(
        self, pki: Pki, *, instance_id: str, measurements: Mapping[int, bytes], now: datetime, random: Random
    ) -> None:
        self._pki = pki
        self._random = random
        # The form of genuine ids: 48 bits of milliseconds at the enclave's start, 16 bits of chance.
        self.module_id = f"{instance_id}-enc{int(now.timestamp() * 1000):012x}{random(2).hex()}"
        self._pcrs = [pcr.ZERO] * pcr.COUNT
        for index, value in measurements.items():
            self._pcrs[index] = value
        self._pcrs[pcr.Pcr.PARENT_INSTANCE_ID] = pcr.measure_name(instance_id)
        self._locked = set(range(LOCKED_AT_START))

    def prepare(self, now: datetime) -> None:
        """Have the certificate made that the first document needs; where that fails, it will be tried again then."""
        with suppress(LabError):
            self._pki.signer(self.module_id, now=now)

    def handle(self, request: bytes, *, now: datetime) -> bytes:
        """The response to `request`, both in the NSM API's CBOR. Never raises: what is wrong comes back as a code."""
        try:
            name, fields = nsm_api.decode_request(request)
            answer = self._operations[name](self, now, **fields)
        except NsmError as error:
            return nsm_api.encode_error(error.code)
        except LabError:  # no certificate is to be had
            return nsm_api.encode_error("InternalError")
        return nsm_api.encode_response(name, answer)

    def _attestation(
        self, now: datetime, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None
    ) -> nsm_api.Fields:
        if any(value is not None and len(value) > MAX_OPTIONAL for value in (user_data, nonce, public_key)):
            raise NsmError("InputTooLarge")
        signer = self._pki.signer(self.module_id, now=now)
        document = AttestationDocument(
            module_id=self.module_id,
            timestamp=int(now.timestamp() * 1000),
            pcrs={index: self._pcrs[index] for index in sorted(self._locked)},
            certificate=signer.certificate,
            cabundle=signer.cabundle,
            public_key=public_key,
            user_data=user_data,
            nonce=nonce,
        )
        return {"document": cose.sign1(document.encode(), signer.key, cose.Algorithm.ES384)}

    def _describe_nsm(self, _: datetime) -> nsm_api.Fields:
        major, minor, patch = VERSION
        return {
            "version_major": major,
            "version_minor": minor,
            "version_patch": patch,
            "module_id": self.module_id,
            "max_pcrs": pcr.COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": DIGEST,
        }

    def _describe_pcr(self, _: datetime, *, index: int) -> nsm_api.Fields:
        _require_index(index)
        return {"lock": index in self._locked, "data": self._pcrs[index]}

    def _extend_pcr(self, _: datetime, *, index: int, data: bytes) -> nsm_api.Fields:
        self._require_unlocked(index)
        self._pcrs[index] = pcr.extend(self._pcrs[index], data)
        return {"data": self._pcrs[index]}

    def _lock_pcr(self, _: datetime, *, index: int) -> None:
        self._require_unlocked(index)
        self._locked.add(index)

    def _lock_pcrs(self, _: datetime, *, range: int) -> None:
        if not 0 <= range <= pcr.COUNT:
            raise NsmError("InvalidIndex")
        self._locked.update(_first(range))

    def _get_random(self, _: datetime) -> nsm_api.Fields:
        return {"random": self._random(256)}

    def _require_unlocked(self, index: int) -> None:
        _require_index(index)
        if index in self._locked:
            raise NsmError("ReadOnlyIndex")

    _operations: Mapping[str, Callable[..., nsm_api.Fields | None]] = {
        "Attestation": _attestation,
        "DescribeNSM": _describe_nsm,
        "DescribePCR": _describe_pcr,
        "ExtendPCR": _extend_pcr,
        "GetRandom": _get_random,
        "LockPCR": _lock_pcr,
        "LockPCRs": _lock_pcrs,
    }


def _first(count: int) -> range:
    return range(count)


def _require_index(index: int) -> None:
    if not 0 <= index < pcr.COUNT:
        raise NsmError("InvalidIndex")
