"""Every variant that is searched: the protocols as they stand, and weakened ones, each with one thing changed.

Beside each stands what is expected to fall, worked out by hand; the tests compare it with what the search finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from workshop_kit.models.attacker import Attacker, Powers
from workshop_kit.models.handshake import (
    ALICE,
    BOB,
    INFRASTRUCTURE,
    OTHER_IMAGE,
    PUBLIC_NAMES,
    Answer,
    Profile,
    Rules,
)
from workshop_kit.models.modern import Modern
from workshop_kit.models.parties import Client, Enclave
from workshop_kit.models.properties import Judge, Property
from workshop_kit.models.search import Message, Run
from workshop_kit.models.seed import Seed
from workshop_kit.models.terms import KemPublic, Public, Share, Term

PAYLOAD, RESULT, FRESH, CLIENT, ENCLAVE, FORWARD, DOWNGRADE = Property
Falls = frozenset[Property]
NONE: Falls = frozenset()

LONG_TERM_KEYS = (ALICE, INFRASTRUCTURE)
QUANTUM = frozenset[type[Term]]({Public, Share})
"""What Shor's algorithm inverts: RSA, ECDSA and X25519, and not ML-KEM."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A protocol to search, within bounds, and the attacker that it meets.

    Attributes:
        says: what is changed.
        profiles: one for each run of a client; all of them are Alice's.
        enclaves: how many runs of the enclave there are. Each serves every profile of the clients.
        falls: the properties that are expected not to hold.
        recorded: messages of an old session that Mallory has kept.
        knows: secrets that he has from the start.
        broken: what he inverts from the start.
        leaks: secrets that he learns when all is over.
        broken_later: what he inverts then.
        accomplice: Bob is a user of the enclave too, and works with Mallory.
        falls_back: the first client, where it is refused, tries again in the last one's profile.
    """

    name: str
    says: str
    profiles: tuple[Profile, ...]
    enclaves: int = 2
    falls: Falls = NONE
    recorded: tuple[Message, ...] = ()
    knows: tuple[Term, ...] = ()
    broken: frozenset[type[Term]] = frozenset()
    leaks: tuple[Term, ...] = ()
    broken_later: frozenset[type[Term]] = frozenset()
    accomplice: bool = False
    falls_back: bool = False

    def mallory(self) -> Attacker:
        """The attacker before the first message."""
        own = [term for profile in dict.fromkeys(self.profiles) for term in profile.mallorys_own()]
        heard = [message.term for message in self.recorded]
        bobs = [BOB] if self.accomplice else []
        powers = self._powers(self.broken)
        return Attacker.who_knows(*PUBLIC_NAMES, *own, *heard, *bobs, *self.knows, powers=powers)

    def runs(self) -> Iterator[Run]:
        """Every run, before the first message."""
        for number, profile in enumerate(self.profiles, start=1):
            retry = self.profiles[-1] if self.falls_back and number == 1 else None
            yield Client(number, profile, falls_back_to=retry)
        users = frozenset({Public(ALICE), Public(BOB)} if self.accomplice else {Public(ALICE)})
        for number in range(1, self.enclaves + 1):
            yield Enclave(number, tuple(dict.fromkeys(self.profiles)), users)

    def judge(self) -> Judge:
        """What must hold."""
        accomplices = frozenset({Public(BOB)} if self.accomplice else ())
        later = self._powers(self.broken | self.broken_later)
        return Judge(accomplices=accomplices, leaks=self.leaks, powers_later=later)

    def _powers(self, broken: frozenset[type[Term]]) -> Powers:
        return Powers(broken, frozenset({(INFRASTRUCTURE, OTHER_IMAGE)}))


# Name, what is changed, how, what falls in `seed`, what falls in `modern`.
_RULES_LEFT_OUT: tuple[tuple[str, str, Rules, Falls, Falls], ...] = (
    (
        "no-nonce",
        "the client does not check the nonce; in modern, user_data covers it too",
        Rules(checks_nonce=False),
        frozenset({FRESH, CLIENT}),
        NONE,
    ),
    (
        "no-pcrs",
        "the client does not check the PCRs",
        Rules(checks_pcrs=False),
        frozenset({PAYLOAD, FRESH, CLIENT}),
        frozenset({PAYLOAD, CLIENT}),
    ),
    (
        "no-signature",
        "the client does not check who signed the document",
        Rules(checks_signature=False),
        frozenset({PAYLOAD, FRESH, CLIENT}),
        frozenset({PAYLOAD, CLIENT}),
    ),
    (
        "no-public-key",
        "the client does not check public_key: everything else names Alice as well",
        Rules(checks_public_key=False),
        NONE,
        NONE,
    ),
    (
        "unbound",
        "in seed the wrapped key travels beside the document, in modern user_data is not compared",
        Rules(binds_key=False),
        frozenset({PAYLOAD, FRESH, CLIENT}),
        frozenset({PAYLOAD, CLIENT}),
    ),
    (
        "any-client",
        "the enclave takes any client's key",
        Rules(knows_its_users=False),
        frozenset({RESULT, ENCLAVE}),
        frozenset({RESULT, ENCLAVE}),
    ),
    (
        "unsigned-hello",
        "the enclave does not verify the hello's signature; in seed the key stays wrapped for Alice",
        Rules(verifies_hello=False),
        frozenset({CLIENT}),
        frozenset({RESULT, ENCLAVE}),
    ),
    (
        "one-key",
        "both directions have one key",
        Rules(has_two_keys=False),
        frozenset({CLIENT}),
        frozenset({CLIENT}),
    ),
)


def _without_rules() -> Iterator[Variant]:
    for name, says, rules, in_seed, in_modern in _RULES_LEFT_OUT:
        for profile, falls in ((Seed(rules), in_seed), (Modern(rules), in_modern)):
            yield Variant(name=f"{profile.name}-{name}", says=says, profiles=(profile,) * 2, falls=falls)


def _as_they_stand() -> Iterator[Variant]:
    for profile in (Seed(), Modern()):
        yield Variant(name=profile.name, says="as it stands", profiles=(profile,) * 3, enclaves=3)
    modern, says = Modern(), "the enclave serves both profiles; the long-term keys leak when all is over"
    yield Variant(name="both", says=says, profiles=(modern, modern, Seed()), enclaves=3, leaks=LONG_TERM_KEYS)


def _against_more() -> Iterator[Variant]:
    """The protocols as they stand, against more than the network."""
    for profile in (Seed(), Modern()):
        name, seed = profile.name, isinstance(profile, Seed)
        plain = Variant(name=name, says="", profiles=(profile,) * 2)
        yield replace(
            plain,
            name=f"{name}-leaked-afterwards",
            says="Alice's and the infrastructure's key leak when all is over",
            leaks=LONG_TERM_KEYS,
            falls=frozenset({FORWARD}) if seed else NONE,
        )
        yield replace(
            plain,
            name=f"{name}-user-leaked-before",
            says="Mallory has Alice's key from the start",
            knows=(ALICE,),
            falls=frozenset({RESULT, ENCLAVE} | ({PAYLOAD, CLIENT} if seed else NONE)),
        )
        yield replace(
            plain,
            name=f"{name}-infrastructure-leaked-before",
            says="Mallory has the infrastructure's key from the start",
            knows=(INFRASTRUCTURE,),
            falls=frozenset({PAYLOAD, CLIENT} | ({FRESH} if seed else NONE)),
        )
        yield replace(
            plain,
            name=f"{name}-accomplice",
            says="Bob, a user like Alice, works with Mallory",
            accomplice=True,
        )
        yield replace(
            plain,
            name=f"{name}-quantum-afterwards",
            says="a quantum computer, when all is over, inverts RSA, ECDSA and X25519",
            broken_later=QUANTUM,
            falls=frozenset({FORWARD}) if seed else NONE,
        )
        # With every signature forged, what a message may hold multiplies; one enclave's run keeps the search short.
        yield replace(
            plain,
            name=f"{name}-quantum",
            says="a quantum computer from the start: signatures are forged",
            broken=QUANTUM,
            enclaves=1,
            falls=frozenset({PAYLOAD, RESULT, CLIENT, ENCLAVE} | ({FRESH} if seed else NONE)),
        )


def _with_an_old_session() -> Iterator[Variant]:
    """Mallory has recorded a session of Alice's, and got hold of what was secret in it."""
    for profile in (Seed(), Seed(Rules(checks_nonce=False)), Modern(), Modern(Rules(checks_nonce=False))):
        recorded, answer = _old_session(profile)
        nonce = "" if profile.rules.checks_nonce else ", and the client does not check the nonce"
        replayed = isinstance(profile, Seed) and not profile.rules.checks_nonce
        plain = Variant(name="", says="", profiles=(profile,) * 2, recorded=recorded)
        suffix = "-no-nonce" if nonce else ""
        yield replace(
            plain,
            name=f"{profile.name}-old-secret{suffix}",
            says=f"the secret of an old session has leaked{nonce}",
            knows=(answer.session.secret,),
            falls=frozenset({PAYLOAD, FRESH, CLIENT}) if replayed else NONE,
        )
        yield replace(
            plain,
            name=f"{profile.name}-old-keys{suffix}",
            says=f"the derived keys of an old session have leaked{nonce}",
            knows=answer.session[1:],
            falls=frozenset({FRESH, CLIENT}) if replayed else NONE,
        )


def _old_session(profile: Profile) -> tuple[tuple[Message, ...], Answer]:
    hello = profile.hello(0, ALICE)
    answer = profile.answer(0, hello)
    assert answer is not None  # an enclave answers a user's hello
    return (Message("the old hello", hello), Message("the old answer", answer.message)), answer


def _hybrids() -> Iterator[Variant]:
    """`modern` with one half of its key exchange broken, or left out."""
    whole, x25519, ml_kem = Modern(), Modern(Rules(uses_ml_kem=False)), Modern(Rules(uses_x25519=False))
    all_of_it = frozenset({PAYLOAD, RESULT, CLIENT, ENCLAVE})
    for name, says, profile, broken, falls in (
        ("x25519-broken", "Mallory inverts X25519: ML-KEM holds", whole, Share, NONE),
        ("ml-kem-broken", "Mallory inverts ML-KEM: X25519 holds", whole, KemPublic, NONE),
        ("x25519-broken-no-ml-kem", "Mallory inverts X25519, and ML-KEM is left out", x25519, Share, all_of_it),
        ("ml-kem-broken-no-x25519", "Mallory inverts ML-KEM, and X25519 is left out", ml_kem, KemPublic, all_of_it),
    ):
        profiles = (profile,) * 2
        yield Variant(name=f"modern-{name}", says=says, profiles=profiles, broken=frozenset({broken}), falls=falls)
    yield Variant(
        name="modern-quantum-afterwards-no-ml-kem",
        says="a quantum computer, when all is over, and ML-KEM is left out",
        profiles=(x25519,) * 2,
        broken_later=QUANTUM,
        falls=frozenset({FORWARD}),
    )


def _downgrades() -> Iterator[Variant]:
    yield Variant(
        name="both-falls-back",
        says="a client that wants modern tries seed where it is refused",
        profiles=(Modern(), Seed()),
        leaks=LONG_TERM_KEYS,
        falls_back=True,
        falls=frozenset({DOWNGRADE, FORWARD}),
    )
    unsigned = Rules(verifies_hello=False)
    yield Variant(
        name="both-unsigned-hello",
        says="the enclave does not verify hellos: Mallory rewrites a modern one for seed",
        profiles=(Modern(unsigned), Seed(unsigned)),
        falls=frozenset({DOWNGRADE, RESULT, CLIENT, ENCLAVE}),
    )


def _all() -> Iterator[Variant]:
    yield from _as_they_stand()
    yield from _without_rules()
    yield from _against_more()
    yield from _with_an_old_session()
    yield from _hybrids()
    yield from _downgrades()


VARIANTS = {variant.name: variant for variant in _all()}
"""By name, those as they stand first."""
