"""A run without Mallory's help, messages of another shape, and each property on states made by hand."""

from __future__ import annotations

import pytest

from workshop_kit.models import Property
from workshop_kit.models.attacker import Attacker, Powers
from workshop_kit.models.handshake import ALICE, BOB, NOTHING, PUBLIC_NAMES, REFUSAL, Profile, Rules, payload, result
from workshop_kit.models.modern import Modern
from workshop_kit.models.parties import Client, Enclave, Stage
from workshop_kit.models.properties import Judge
from workshop_kit.models.search import Move, Run, State
from workshop_kit.models.seed import Seed
from workshop_kit.models.terms import Public, Sealed, Term, pack

SEED, MODERN = Seed(), Modern()
PROFILES = [SEED, MODERN, Seed(Rules(binds_key=False)), Modern(Rules(uses_ml_kem=False))]


def deaf(*known: Term) -> Attacker:
    """Mallory with nothing of his own but what everybody knows."""
    return Attacker.who_knows(*PUBLIC_NAMES, *known)


def only(run: Run, mallory: Attacker) -> Move:
    [move] = run.moves(mallory)
    return move


def exchange(profile: Profile) -> tuple[Client, Enclave]:
    """An honest client and an honest enclave, each message handed over as it is."""
    asked = only(Client(1, profile), deaf())
    assert asked.sent is not None
    answered = next(Enclave(1, (profile,)).moves(deaf(asked.sent.term)))
    assert answered.sent is not None
    requested = next(asked.after.moves(deaf(asked.sent.term, answered.sent.term)))
    assert requested.sent is not None
    responded = next(answered.after.moves(deaf(requested.sent.term)))
    assert responded.sent is not None
    taken = next(requested.after.moves(deaf(responded.sent.term)))
    assert isinstance(taken.after, Client)
    assert isinstance(responded.after, Enclave)
    return taken.after, responded.after


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}, {profile.rules}"[:60])
def test_an_honest_exchange_ends_with_one_session_and_what_each_had_to_say(profile: Profile) -> None:
    client, enclave = exchange(profile)
    assert client.session == enclave.session
    assert (enclave.took, client.took) == (payload(1), result(1))
    assert client.stage is enclave.stage is Stage.DONE
    assert not list(client.moves(deaf()))
    assert not list(enclave.moves(deaf()))
    assert not violated(client, enclave)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.name}, {profile.rules}"[:60])
@pytest.mark.parametrize(
    "message", [NOTHING, pack(NOTHING), pack(NOTHING, NOTHING, NOTHING)], ids=lambda each: repr(each)[:9]
)
def test_messages_of_another_shape_are_refused(profile: Profile, message: Term) -> None:
    assert profile.authenticated(message) is None
    assert profile.answer(1, message) is None
    assert profile.accept(message, 1, ALICE) is None


@pytest.mark.parametrize(("mine", "others"), [(SEED, MODERN), (MODERN, SEED)], ids=lambda profile: profile.name)
def test_a_message_of_one_profile_is_none_of_the_other(mine: Profile, others: Profile) -> None:
    hello = others.hello(1, ALICE)
    answer = others.answer(1, hello)
    assert answer is not None
    assert mine.authenticated(hello) is None
    assert mine.accept(answer.message, 1, ALICE) is None


def test_a_key_that_is_wrapped_for_another_user_is_none() -> None:
    """Whatever the checks let through: who cannot unwrap has no session."""
    careless = Seed(Rules(checks_nonce=False, checks_public_key=False))
    answer = careless.answer(1, careless.hello(2, BOB))
    assert answer is not None
    assert careless.accept(answer.message, 2, BOB) is not None
    assert careless.accept(answer.message, 1, ALICE) is None


def test_a_stranger_is_refused_and_a_user_is_not() -> None:
    hello = SEED.hello(1, BOB)
    assert [move.received for move in Enclave(1, (SEED,)).moves(deaf(hello))] == []
    users = frozenset({Public(ALICE), Public(BOB)})
    assert [move.received for move in Enclave(1, (SEED,), users).moves(deaf(hello))] == [hello]


def test_a_client_that_falls_back_does_so_once_and_on_a_refusal_alone() -> None:
    asked = only(Client(1, MODERN, falls_back_to=SEED), deaf()).after
    again = only(asked, deaf())
    assert again.received is REFUSAL
    assert again.sent is not None
    assert again.sent.term is SEED.hello(1, ALICE)
    assert not list(again.after.moves(deaf()))


def violated(*runs: Run, mallory: Attacker | None = None, judge: Judge | None = None) -> set[str]:
    state = State(runs, mallory or deaf())
    return {violation.property for violation in (judge or Judge())(state)}


CLIENT, ENCLAVE = exchange(SEED)


def test_a_payload_is_secret_once_it_was_sent_and_a_result_once_it_was_told() -> None:
    knowing = deaf(payload(1), result(1))
    assert violated(Client(1, SEED), Enclave(1, (SEED,)), mallory=knowing) == set()
    assert violated(CLIENT, ENCLAVE, mallory=knowing) == {Property.PAYLOAD, Property.RESULT}


def test_what_a_user_is_told_who_works_with_mallory_is_no_secret() -> None:
    judge = Judge(accomplices=frozenset({Public(ALICE)}))
    assert Property.RESULT not in violated(ENCLAVE, mallory=deaf(result(1)), judge=judge)


def test_two_clients_with_one_secret_are_not_fresh_and_do_not_both_agree() -> None:
    assert violated(CLIENT, CLIENT._replace(number=2), ENCLAVE) == {Property.FRESH, Property.CLIENT}


def test_a_client_agrees_with_an_enclave_that_has_its_session_and_told_what_it_took() -> None:
    assert violated(CLIENT, ENCLAVE) == set()
    assert violated(CLIENT) == {Property.CLIENT}
    assert violated(CLIENT._replace(took=payload(1)), ENCLAVE) == {Property.CLIENT}
    assert violated(CLIENT, ENCLAVE._replace(number=2)) == {Property.CLIENT}


def test_an_enclave_agrees_with_a_client_that_sent_what_it_took() -> None:
    assert violated(CLIENT, ENCLAVE._replace(took=payload(2))) == {Property.ENCLAVE}
    assert violated(Client(1, SEED), ENCLAVE) == {Property.ENCLAVE}


def test_a_session_in_another_profile_than_wanted_is_a_downgrade() -> None:
    assert violated(CLIENT._replace(wants=MODERN), ENCLAVE) == {Property.DOWNGRADE}


def test_an_answer_in_a_weaker_profile_that_nobody_asked_for_is_a_downgrade() -> None:
    answered = ENCLAVE._replace(stage=Stage.AGREED, took=None)
    assert violated(Client(1, MODERN), answered) == {Property.DOWNGRADE}
    assert violated(Client(1, MODERN), CLIENT, answered._replace(took=payload(1), stage=Stage.DONE)) == set()


def test_forward_secrecy_is_asked_where_something_leaks_and_for_who_wants_the_strongest() -> None:
    assert CLIENT.session is not None
    hello, sealed = SEED.hello(1, ALICE), Sealed(payload(1), CLIENT.session.to_enclave)
    answer = SEED.answer(1, hello)
    assert answer is not None
    knowing = deaf(hello, answer.message, sealed)
    leaks = Judge(leaks=(ALICE,))
    assert violated(CLIENT, ENCLAVE, mallory=knowing) == set()
    assert violated(CLIENT, ENCLAVE, mallory=knowing, judge=leaks) == {Property.FORWARD}
    assert violated(Client(2, MODERN), CLIENT, ENCLAVE, mallory=knowing, judge=leaks) == set()
    quantum = Judge(powers_later=Powers(broken=frozenset({Public})))
    assert violated(CLIENT, ENCLAVE, mallory=knowing, judge=quantum) == {Property.FORWARD}
