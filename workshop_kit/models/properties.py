"""What must hold in every state that Mallory can bring about. Each property is a function that finds its violations.

`parties` and the search know nothing of these. A property speaks of honest parties alone: of enclaves that run the good
image, and of users who do not work with Mallory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from workshop_kit.models.attacker import NO_POWERS, Attacker, Powers
from workshop_kit.models.handshake import payload, result
from workshop_kit.models.parties import Client, Enclave, Stage
from workshop_kit.models.search import State, Violation
from workshop_kit.models.terms import Term


class Property(StrEnum):
    """What a table calls each; the functions below say what it means."""

    PAYLOAD = "payload secret"
    RESULT = "result secret"
    FRESH = "keys fresh"
    CLIENT = "client agrees"
    ENCLAVE = "enclave agrees"
    FORWARD = "forward secret"
    DOWNGRADE = "no downgrade"


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Looks at a state.

    Attributes:
        accomplices: public keys of users who work with Mallory. What they are told is not secret.
        leaks: what Mallory learns when all is over; he has recorded everything and hands over nothing any more.
        powers_later: what he can do then.
    """

    accomplices: frozenset[Term] = frozenset()
    leaks: tuple[Term, ...] = ()
    powers_later: Powers = NO_POWERS

    def __call__(self, state: State) -> Iterator[Violation]:
        clients = [run for run in state.runs if isinstance(run, Client)]
        enclaves = [run for run in state.runs if isinstance(run, Enclave) and run.user not in self.accomplices]
        yield from _are_secret(Property.PAYLOAD, _payloads(clients), state.mallory)
        yield from _are_secret(Property.RESULT, _results(enclaves), state.mallory)
        yield from _keys_are_fresh(clients)
        yield from _client_agrees(clients, enclaves)
        yield from _enclave_agrees(clients, enclaves)
        yield from _is_not_downgraded(clients, enclaves)
        if self.leaks or self.powers_later != state.mallory.powers:
            later = state.mallory.later(self.leaks, self.powers_later)
            yield from _is_forward_secret(clients, enclaves, later)


def _payloads(clients: Iterable[Client]) -> list[Term]:
    return [payload(client.number) for client in clients if client.session]


def _results(enclaves: Iterable[Enclave]) -> list[Term]:
    return [result(enclave.number) for enclave in enclaves if enclave.stage is Stage.DONE]


def _are_secret(name: Property, secrets: Iterable[Term], mallory: Attacker) -> Iterator[Violation]:
    """Mallory works out none of what honest parties told each other."""
    for secret in secrets:
        if mallory.can_make(secret):
            yield Violation(name, "Mallory reads it", secret)


def _keys_are_fresh(clients: list[Client]) -> Iterator[Violation]:
    """No two runs of a client take one secret for their sessions."""
    for one, other in combinations(clients, 2):
        if one.session and other.session and one.session.secret is other.session.secret:
            yield Violation(Property.FRESH, f"{one.title} and {other.title} have taken one secret for two sessions")


def _client_agrees(clients: list[Client], enclaves: list[Enclave]) -> Iterator[Violation]:
    """A client's session is that of one enclave that runs the good image, and of no other client; and what it took for
    the result is that enclave's."""
    partners: list[Enclave] = []
    for client in (client for client in clients if client.session):
        partner = next((enclave for enclave in enclaves if enclave.session == client.session), None)
        if partner is None:
            yield Violation(Property.CLIENT, f"no enclave of the good image has the session of {client.title}")
        elif partner in partners:
            yield Violation(Property.CLIENT, f"{partner.title} has one session with two clients")
        elif client.took not in (None, result(partner.number)):
            yield Violation(Property.CLIENT, f"what {client.title} took for the result is not from {partner.title}")
        else:
            partners.append(partner)


def _enclave_agrees(clients: list[Client], enclaves: list[Enclave]) -> Iterator[Violation]:
    """What an enclave took for a request, a client sent to it in the session that both have."""
    sent = {(client.session, payload(client.number)) for client in clients}
    for enclave in enclaves:
        if enclave.took and (enclave.session, enclave.took) not in sent:
            yield Violation(Property.ENCLAVE, f"no client sent what {enclave.title} took for a request")


def _is_not_downgraded(clients: list[Client], enclaves: list[Enclave]) -> Iterator[Violation]:
    """A client's session is in the profile that it wants; and in any other than the first client's, an enclave answers
    only whom asked for it."""
    for client in clients:
        if client.session and client.speaks is not client.wants:
            says = f"{client.title} wanted {client.wants.name} and has a session in {client.profile.name}"
            yield Violation(Property.DOWNGRADE, says)
    asked = {(client.speaks, client.hello) for client in clients}
    for enclave in enclaves:
        other = enclave.speaks is not None and enclave.speaks is not clients[0].wants
        if other and (enclave.speaks, enclave.hello) not in asked:
            yield Violation(Property.DOWNGRADE, f"{enclave.title} has answered in a profile that no client asked for")


def _is_forward_secret(clients: list[Client], enclaves: list[Enclave], later: Attacker) -> Iterator[Violation]:
    """What was recorded stays secret when keys leak afterwards.

    Where clients want different profiles, this is asked for those that want what the first one wants.
    """
    judged = [client for client in clients if client.wants is clients[0].wants]
    hellos = {client.hello for client in judged}
    served = [enclave for enclave in enclaves if enclave.hello in hellos]
    yield from _are_secret(Property.FORWARD, [*_payloads(judged), *_results(served)], later)
