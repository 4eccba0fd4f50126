"""PCR arithmetic against constants that others measured."""

from __future__ import annotations

import hashlib

from workshop_kit.evidence import pcr

EMPTY_RAMDISK = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
"""PCR2 of images with one ramdisk only, in nine genuine documents."""


def test_the_measurement_of_nothing_is_the_one_in_genuine_documents() -> None:
    """It is SHA-384(zeros || SHA-384("")), so the data are digested first; SHA-384(zeros) would be another value."""
    assert pcr.measure().hex() == pcr.measure(b"").hex() == EMPTY_RAMDISK
    assert pcr.measure() != hashlib.sha384(bytes(48)).digest()


def test_a_measurement_digests_twice_and_a_name_once() -> None:
    zeros = bytes(48)
    assert pcr.measure(b"data") == hashlib.sha384(zeros + hashlib.sha384(b"data").digest()).digest()
    assert pcr.measure_name("i-0") == hashlib.sha384(zeros + b"i-0").digest()
    assert pcr.measure_name("i-0") != pcr.measure(b"i-0")


def test_pcr4_of_a_genuine_document_comes_from_its_instance_id() -> None:
    """The debug document of 2021-03-05, module i-026ae32a18c80f866-enc01780356441553dc."""
    genuine = "6e32db11ec7af5927b05c4d9059edfae96f45f50f8b54f59f19f0a093db9085049b01a9759cacbc5922db5aaba0be067"
    assert pcr.measure_name("i-026ae32a18c80f866").hex() == genuine


def test_boundaries_between_parts_are_not_measured() -> None:
    """Why PCR0 alone is no reference value."""
    assert pcr.measure(b"ker", b"nel") == pcr.measure(b"kernel") == pcr.measure(b"k", b"", b"ernel")
    assert pcr.measure(b"a", b"b") != pcr.measure(b"b", b"a")


def test_extending_depends_on_what_was_there_and_on_the_order() -> None:
    once = pcr.extend(pcr.ZERO, b"a")
    assert once == hashlib.sha384(bytes(48) + b"a").digest()
    assert pcr.extend(once, b"b") != pcr.extend(pcr.extend(pcr.ZERO, b"b"), b"a")
    assert pcr.extend(pcr.ZERO, b"") != pcr.ZERO
    assert pcr.measure(b"a") == pcr.extend(pcr.ZERO, hashlib.sha384(b"a").digest())


def test_indices_have_the_meaning_of_the_user_guide() -> None:
    assert {each.name: int(each) for each in pcr.Pcr} == {
        "IMAGE": 0,
        "KERNEL_AND_BOOTSTRAP": 1,
        "APPLICATION": 2,
        "PARENT_IAM_ROLE": 3,
        "PARENT_INSTANCE_ID": 4,
        "SIGNING_CERTIFICATE": 8,
        "USERS_AND_RUNTIME_CONFIG": 16,
    }
    assert pcr.SIZE == len(pcr.ZERO) == 48
    assert pcr.COUNT == 32
