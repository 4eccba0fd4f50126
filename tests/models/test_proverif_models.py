"""The models for ProVerif: their bytes, what is recorded of them, and how they agree with the search within bounds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from proverif_syntax import Reader, WrongModelError

from workshop_kit.errors import LabError
from workshop_kit.models import VARIANTS, Property, recording
from workshop_kit.models import proverif as proverif_module
from workshop_kit.models.proverif import NOT_RUN, QUERIES, Change, Model, read_results, read_verdicts
from workshop_kit.models.proverif_models import MODELS

FELL = """\
--------------------------------------------------------------
Verification summary:

Query not attacker_p1(payload[]) is false.

Query not attacker_p1(result[]) is true.

Query inj-event(ClientHas(k_2,n_2)) ==> inj-event(EnclaveHas(k_2,n_2)) is true.

Query inj-event(EnclaveTook(k_2,m_2)) ==> inj-event(ClientSent(k_2,m_2)) cannot be proved.

Query inj-event(ClientTook(k_2,m_2)) ==> inj-event(EnclaveSent(k_2,m_2)) is true.

--------------------------------------------------------------
"""


@pytest.mark.parametrize("name", MODELS)
def test_a_result_stands_with_the_digest_of_the_model_that_it_is_for(name: str) -> None:
    """After a change: `python -m workshop_kit.models record`, with `--without-proverif` where there is none."""
    recorded = read_results()[name]
    assert recorded["sha256"] == MODELS[name].digest
    assert recorded["expected"] == MODELS[name].expected


def test_results_are_kept_of_the_models_that_there_are() -> None:
    assert list(read_results()) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_not_checked_says_so_and_what_was_is_as_expected(name: str) -> None:
    recorded = read_results()[name]
    if recorded["checked"] is None:
        assert recorded["note"] == NOT_RUN
        return
    checked = recorded["checked"]
    assert isinstance(checked, dict)
    assert checked.keys() == {"proverif", "date", "verdicts"}
    assert checked["verdicts"] == MODELS[name].expected


def test_proverif_says_what_is_expected() -> None:
    if shutil.which("proverif") is None:
        pytest.skip("ProVerif is not on the path; workshop_kit/models/results.json says what was recorded")
    assert {name: recording.run(model) for name, model in MODELS.items()} == {
        name: model.expected for name, model in MODELS.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_as_proverifs_language(name: str) -> None:
    """Names, arities, types and the five queries, as far as our own reader knows the language."""
    queries = Reader(MODELS[name].text).model()
    assert len(queries) == len(QUERIES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("out(network, hello);", "out(network, helo);"),
        ("out(network, hello);", "out(hello, network);"),
        ("out(network, hello);", "out(network, hello;"),
        ("seal(payload, ke)", "seal(payload)"),
        ("seal(payload, ke)", "seal(ke, payload)"),
        ("new n: nonce;", "new n: nonsense;"),
        ("new n: nonce;", "new secret: nonce;"),
        ("event ClientHas(ke, n);", "event ClientHas(n, ke);"),
        ("event ClientHas(ke, n);", "event ClientHad(ke, n);"),
        ("Client(alice, public(infrastructure))", "Client(public(alice), public(infrastructure))"),
        ("let told = unseal(response, kc) in", "let told = unseal(response, kc)"),
        ("query attacker(payload).", "query attacker(payload)"),
        ("const good_image: image.", ""),
    ],
)
def test_the_reader_of_proverifs_language_refuses(old: str, new: str) -> None:
    text = MODELS["seed"].text
    assert old in text
    with pytest.raises(WrongModelError):
        Reader(text.replace(old, new)).model()


def test_the_first_models_are_the_files_as_they_are_and_the_others_differ() -> None:
    folder = Path(proverif_module.__file__).parent
    for name in ("seed", "modern"):
        assert MODELS[name].text == (folder / f"{name}.pv").read_text()
    assert len({model.digest for model in MODELS.values()}) == len(MODELS)
    assert {file.stem for file in folder.glob("*.pv")} == {"seed", "modern"}


def test_a_change_that_does_not_fit_its_file_any_more_is_said() -> None:
    with pytest.raises(LabError, match=r"expected 'no such line' 1 times in seed.pv, got 0"):
        _ = Model("broken", "seed", (Change("no such line", ""),), frozenset()).text


@pytest.mark.parametrize("name", MODELS)
def test_the_unbounded_model_expects_what_the_bounded_search_finds(name: str) -> None:
    """Two models of one protocol, written apart. Where secrecy falls in time or afterwards, ProVerif has one query."""
    falls, refuted = VARIANTS[name].falls, MODELS[name].falls
    afterwards = Property.FORWARD in falls
    assert ("payload secret" in refuted) == (Property.PAYLOAD in falls or afterwards)
    assert ("result secret" in refuted) == (Property.RESULT in falls or afterwards)
    assert ("enclave agrees" in refuted) == (Property.ENCLAVE in falls)
    assert bool({"client agrees", "result agrees"} & refuted) == (Property.CLIENT in falls)


def test_what_both_call_alike_leaves_the_same_thing_out() -> None:
    assert MODELS.keys() <= VARIANTS.keys()
    assert {name for name in VARIANTS if name.endswith(("-no-nonce", "-no-pcrs", "-unbound"))} - MODELS.keys() == {
        "modern-old-secret-no-nonce",
        "modern-old-keys-no-nonce",
    }


def test_verdicts_are_read_from_the_summary_alone() -> None:
    """The same sentences stand further up in ProVerif's output, one for each step of its work."""
    earlier = "RESULT not attacker(payload[]) is true.\nQuery not attacker(payload[]) in process 0\n"
    assert read_verdicts(earlier + FELL) == {
        "payload secret": "false",
        "result secret": "true",
        "client agrees": "true",
        "enclave agrees": "cannot be proved",
        "result agrees": "true",
    }


@pytest.mark.parametrize(
    "output", ["", "Error: line 3", FELL.replace("payload", "nothing"), FELL.replace("is true", "?")]
)
def test_output_without_every_verdict_is_no_result(output: str) -> None:
    with pytest.raises(LabError, match="expected one verdict"):
        read_verdicts(output)
