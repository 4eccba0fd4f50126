"""An attack gone through again, step by step, by other code than found it. Whatever does not follow is refused.

What Mallory hands over must be derivable from what he has by then (`saturated`). What an honest run takes must pass the
checks that SPEC.md demands, less the one that the variant leaves out, and what it sends must follow from it. At the end
the property must really not hold. Nothing of `attacker`, `seed`, `modern`, `parties` or `properties` decides here.
"""

from __future__ import annotations

from collections.abc import Sequence

from saturated import derivable

from workshop_kit.models import Property, Variant
from workshop_kit.models.handshake import GOOD_IMAGE, INFRASTRUCTURE, REFUSAL, Rules, Session, nonce, payload, result
from workshop_kit.models.modern import LABEL as MODERN_LABEL
from workshop_kit.models.parties import Client, Enclave
from workshop_kit.models.search import Attack, Move, Run
from workshop_kit.models.seed import LABEL as SEED_LABEL
from workshop_kit.models.terms import (
    Agreed,
    Derived,
    Digest,
    KemCiphertext,
    KemPublic,
    KemSecret,
    Name,
    Pack,
    Public,
    Sealed,
    Share,
    Signed,
    Term,
    Wrapped,
    pack,
)


class DoesNotFollowError(Exception):
    """A step that nobody can take, or an end that violates nothing."""


def must(condition: object, what: str) -> None:
    if not condition:
        raise DoesNotFollowError(what)


def replay(variant: Variant, attack: Attack) -> None:
    """Raises:
    DoesNotFollowError: this is no attack on the variant.
    """
    known = set(variant.mallory().known)
    runs: dict[str, Run] = {run.title: run for run in variant.runs()}
    for move in attack.moves:
        must(runs[move.before.title] == move.before, f"{move.before.title} is elsewhere")
        if move.received is not None:
            powers = variant.mallory().powers
            must(derivable(move.received, known, powers.broken, powers.signers), "Mallory does not have it")
        check_client(move) if isinstance(move.before, Client) else check_enclave(variant, move)
        runs[move.before.title] = move.after
        if move.sent is not None:
            known.add(move.sent.term)
    check_end(variant, attack, known, list(runs.values()))


def check_client(move: Move) -> None:
    before, after = move.before, move.after
    assert isinstance(before, Client)
    assert isinstance(after, Client)
    if before.session is not None:
        check_record(move, before.session.to_client, sends=None)
    elif after.session is None:
        retry = before.speaks is not None
        must(move.received is (REFUSAL if retry else None), "a hello that nothing leads to")
        must(not retry or before.falls_back_to is after.speaks, "a client that tries again")
        must(move.sent and move.sent.term is hello_of(after), "another hello than it would send")
    else:
        must(move.received is not None, "a session out of nothing")
        assert move.received is not None
        must(before.speaks is after.speaks, "a profile that changes on the way")
        check_session(before.profile.rules, after.session, hello_of(before), move.received)
        must(after.session.secret == secret_for(before, move.received), "a secret that is not in the answer")
        must(move.sent and move.sent.term is Sealed(payload(before.number), after.session.to_enclave), "its request")


def hello_of(client: Client) -> Term:
    """H-1 to H-4."""
    rules, public, own = client.profile.rules, Public(client.user), f"Client {client.number}"
    if client.profile.name == "seed":
        fields: list[Term] = [nonce(client.number)]
        label = SEED_LABEL
    else:
        share = Share(Name(f"{own}'s X25519 private key")) if rules.uses_x25519 else Name("nothing")
        key = KemPublic(Name(f"{own}'s ML-KEM private key")) if rules.uses_ml_kem else Name("nothing")
        fields, label = [nonce(client.number), share, key], MODERN_LABEL
    return pack(public, *fields, Signed(pack(label, *fields, public), client.user))


def secret_for(client: Client, answer: Term) -> Term | None:
    """H-7 and H-8: the secret in an answer that passes the checks which are not left out."""
    rules = client.profile.rules
    if client.profile.name == "seed":
        if rules.binds_key:
            wrapped = user_data(answer, rules, client)
        else:
            document, wrapped = fields(answer, 2)
            user_data(document, rules, client)
        must(isinstance(wrapped, Wrapped) and wrapped.public is Public(client.user), "a key that is not for the user")
        return wrapped.message if isinstance(wrapped, Wrapped) else None
    document, share, ciphertext = fields(answer, 3)
    stated = user_data(document, rules, client)
    digest = Digest(pack(hello_of(client), share, ciphertext))
    must(stated is digest or not rules.binds_key, "user_data is another transcript's digest")
    own, secrets = f"Client {client.number}", []
    if rules.uses_ml_kem:
        assert isinstance(ciphertext, KemCiphertext)
        must(ciphertext.public is KemPublic(Name(f"{own}'s ML-KEM private key")), "a ciphertext for another")
        secrets.append(KemSecret(ciphertext.coins, ciphertext.public))
    if rules.uses_x25519:
        assert isinstance(share, Share)
        secrets.append(agreed(Name(f"{own}'s X25519 private key"), share.exponent))
    return Pack(tuple(secrets))


def agreed(one: Term, other: Term) -> Term:
    return Agreed(*sorted((one, other), key=repr))


def fields(term: Term, count: int) -> tuple[Term, ...]:
    must(isinstance(term, Pack) and len(term.parts) == count, "a message of another shape")
    assert isinstance(term, Pack)
    return term.parts


def user_data(document: Term, rules: Rules, client: Client) -> Term:
    must(isinstance(document, Signed), "no signed document")
    assert isinstance(document, Signed)
    image, quoted, key, data = fields(document.message, 4)
    must(
        document.private is INFRASTRUCTURE or not rules.checks_signature, "a signature that is not the infrastructure's"
    )
    must(image is GOOD_IMAGE or not rules.checks_pcrs, "another image")
    must(quoted is nonce(client.number) or not rules.checks_nonce, "another nonce")
    must(key is Public(client.user) or not rules.checks_public_key, "another public key")
    return data


def check_enclave(variant: Variant, move: Move) -> None:
    before, after = move.before, move.after
    assert isinstance(before, Enclave)
    assert isinstance(after, Enclave)
    if before.session is not None:
        check_record(move, before.session.to_enclave, sends=result(before.number))
        return
    hello, profile, session = move.received, after.speaks, after.session
    must(hello is not None and profile in before.serves and session and move.sent, "a session out of nothing")
    assert hello is not None
    assert profile is not None
    assert session is not None
    assert move.sent is not None
    check_hello(variant, profile.rules, profile.name, hello)
    check_session(profile.rules, session, hello, move.sent.term)
    check_answer(before.number, profile.rules, profile.name, hello, move.sent.term, session)


def check_hello(variant: Variant, rules: Rules, profile: str, hello: Term) -> None:
    """H-5."""
    public, *inner, signature = fields(hello, 3 if profile == "seed" else 5)
    assert isinstance(public, Public)
    users = {"Alice's private key", *(["Bob's private key"] if variant.accomplice else [])}
    assert isinstance(public.private, Name)
    must(public.private.text in users or not rules.knows_its_users, "a stranger's key")
    label = SEED_LABEL if profile == "seed" else MODERN_LABEL
    valid = Signed(pack(label, *inner, public), public.private)
    must(signature is valid or not rules.verifies_hello, "a signature that does not verify")


def check_answer(number: int, rules: Rules, profile: str, hello: Term, answer: Term, session: Session) -> None:
    """H-6."""
    public, given, *inner, _ = fields(hello, 3 if profile == "seed" else 5)
    if profile == "seed":
        wrapped: Term = Wrapped(Name(f"key {number}"), public)
        data, beside = (wrapped, []) if rules.binds_key else (Name("nothing"), [wrapped])
        must(session.secret is Name(f"key {number}"), "a key that is not fresh")
    else:
        mine, coins = Name(f"Enclave {number}'s X25519 private key"), Name(f"Enclave {number}'s coins")
        beside = [
            Share(mine) if rules.uses_x25519 else Name("nothing"),
            KemCiphertext(coins, inner[1]) if rules.uses_ml_kem else Name("nothing"),
        ]
        data = Digest(pack(hello, *beside))
        theirs = inner[0].exponent if isinstance(inner[0], Share) else None
        secrets = [KemSecret(coins, inner[1])] if rules.uses_ml_kem else []
        both = [*secrets, *([agreed(mine, theirs)] if theirs and rules.uses_x25519 else [])]
        must(session.secret is Pack(tuple(both)), "another secret")
    document = Signed(pack(GOOD_IMAGE, given, public, data), INFRASTRUCTURE)
    must(answer is (pack(document, *beside) if beside else document), "another answer than it would send")


def check_session(rules: Rules, session: Session, hello: Term, answer: Term) -> None:
    """K-1 and K-2."""
    for key in (session.to_enclave, session.to_client):
        must(isinstance(key, Derived), "a key that is not derived")
        assert isinstance(key, Derived)
        must(key.secret is session.secret, "a key of another secret")
        must(key.context is Digest(pack(hello, answer)), "a key of another transcript")
    must((session.to_enclave is session.to_client) != rules.has_two_keys, "K-2")


def check_record(move: Move, key: Term, *, sends: Term | None) -> None:
    must(isinstance(move.received, Sealed) and move.received.key is key, "a record that does not open")
    assert isinstance(move.received, Sealed)
    must(move.after.took is move.received.message, "it took something else")  # type: ignore[attr-defined]
    if sends is None:
        must(move.sent is None, "it has nothing to send")
    else:
        answer = Sealed(sends, move.after.session.to_client)  # type: ignore[attr-defined]
        must(move.sent and move.sent.term is answer, "another response than it would send")


def check_end(variant: Variant, attack: Attack, known: set[Term], runs: Sequence[Run]) -> None:
    """The property named does not hold, said once more in other words."""
    clients = [run for run in runs if isinstance(run, Client)]
    enclaves = [run for run in runs if isinstance(run, Enclave)]
    sessions = [client.session for client in clients if client.session]
    kind, secret = Property(attack.violation.property), attack.violation.secret
    if kind in (Property.PAYLOAD, Property.RESULT, Property.FORWARD):
        assert secret is not None
        later = kind is Property.FORWARD
        broken = variant.broken | (variant.broken_later if later else frozenset())
        heard, signers = [*known, *(variant.leaks if later else ())], variant.mallory().powers.signers
        must(derivable(secret, heard, broken, signers), "Mallory does not read it")
        told = {payload(client.number) for client in clients if client.session}
        told |= {result(enclave.number) for enclave in enclaves if enclave.took}
        must(secret in told, "nobody told it")
    elif kind is Property.FRESH:
        secrets = [session.secret for session in sessions]
        must(len(secrets) > len(set(secrets)), "every client has a secret of its own")
    elif kind is Property.CLIENT:
        held = {enclave.session: result(enclave.number) for enclave in enclaves}
        wrong = [client for client in clients if client.session and client.session not in held]
        wrong += [client for client in clients if client.took and client.took is not held.get(client.session)]
        must(wrong or len(sessions) > len(set(sessions)), "each client agrees with an enclave")
    elif kind is Property.ENCLAVE:
        sent = {(client.session, payload(client.number)) for client in clients if client.session}
        wrong_requests = [
            enclave for enclave in enclaves if enclave.took and (enclave.session, enclave.took) not in sent
        ]
        must(wrong_requests, "every request is a client's")
    else:
        moved = [client for client in clients if client.session and client.speaks is not client.wants]
        hellos = {hello_of(client) for client in clients if client.speaks}
        uncalled = [
            each for each in enclaves if each.speaks and each.speaks.name == "seed" and each.hello not in hellos
        ]
        must(moved or uncalled, "nobody is in a profile that he did not ask for")
