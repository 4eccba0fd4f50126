"""A client's handshake over the carrier: an answer comes in pieces, of bounded length, or is nobody's refusal."""

from __future__ import annotations

import pytest
from pair import Pair

from workshop_kit.channel.client_handshake import MAX_ANSWER
from workshop_kit.channel.handshake import Profile, State
from workshop_kit.edges.carrier import ANSWER_TYPES
from workshop_kit.edges.dialogue import Endpoint, HandshakeDialogue
from workshop_kit.errors import AccessDeniedError, RemoteProtocolError

profiles = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.value)


def begun(profile: Profile) -> tuple[Pair, HandshakeDialogue, bytes]:
    """A dialogue whose request is out, and the hello in it."""
    pair = Pair(profile=profile)
    dialogue = HandshakeDialogue(pair.client, Endpoint("127.0.0.1", 8080, False), lambda: pair.world.now)
    return pair, dialogue, dialogue.request().partition(b"\r\n\r\n")[2]


def response(body: bytes, *, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, size) + body


@profiles
def test_an_answer_may_come_a_byte_at_a_time(profile: Profile) -> None:
    pair, dialogue, hello = begun(profile)
    *all_but_one, last = response(pair.answer(hello))
    for value in all_but_one:
        assert dialogue.receive(bytes([value])) is None
    result = dialogue.receive(bytes([last]))
    assert result is not None
    assert result.affirmed
    assert pair.client.session().session_id == pair.enclave.session().session_id


@profiles
def test_an_answer_that_is_longer_than_any_is_refused_before_it_ends(profile: Profile) -> None:
    """Or whoever answers fills the client's memory."""
    pair, dialogue, _ = begun(profile)
    most = response(bytes(MAX_ANSWER), length=1 << 40)
    assert dialogue.receive(most) is None
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_ANSWER} bytes"):
        dialogue.receive(b"\0")
    assert pair.client.state is State.AWAITING_EVIDENCE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(b"401 Unauthorized", AccessDeniedError), (b"403 Forbidden", AccessDeniedError)]
    + [(status, RemoteProtocolError) for status in (b"400 Bad Request", b"404 Not Found", b"503 Service Unavailable")],
)
def test_another_status_is_a_refusal_whatever_it_carries(status: bytes, kind: type[Exception]) -> None:
    """A right answer under a wrong status is none: the client does not look at it."""
    pair, dialogue, hello = begun(Profile.MODERN)
    with pytest.raises(kind):
        dialogue.receive(response(pair.answer(hello), status=status))
    assert pair.client.state is State.AWAITING_EVIDENCE


def test_each_profiles_answer_has_a_type_of_its_own() -> None:
    assert set(ANSWER_TYPES) == {profile.value for profile in Profile}
    assert ANSWER_TYPES["modern"] == b"application/cbor"
