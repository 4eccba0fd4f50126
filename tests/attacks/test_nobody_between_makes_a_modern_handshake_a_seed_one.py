"""Somebody between the two wants the profile that he can open later. Nothing that he sends brings it about."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from attested import World
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pair import OFFER, Pair, hello_of, user_key

from workshop_kit.channel.handshake import Hello, Profile, State, decode_hello, signed_part
from workshop_kit.edges.async_client import AsyncAttestedTransport
from workshop_kit.edges.client import AttestedTransport
from workshop_kit.errors import AccessDeniedError, AppraisalError, RemoteProtocolError
from workshop_kit.evidence import cbor

# --- towards the enclave ---------------------------------------------------------------------------------------------


def as_seed(hello: Hello) -> bytes:
    return Hello(public_key=hello.public_key, nonce=hello.nonce, signature=hello.signature).encode()


def as_modern(hello: Hello) -> bytes:
    return Hello(public_key=hello.public_key, nonce=hello.nonce, signature=hello.signature, offer=OFFER).encode()


@pytest.mark.parametrize(("profile", "rewritten"), [(Profile.MODERN, as_seed), (Profile.SEED, as_modern)])
def test_a_hello_that_is_rewritten_into_the_other_profile_is_refused_with_401(
    profile: Profile, rewritten: Callable[[Hello], bytes]
) -> None:
    """The label of what was signed names the profile, so a signature is good in one only."""
    hello = decode_hello(Pair(profile=profile).client.hello())
    with pytest.raises(AccessDeniedError, match="expected a signature by the key in the hello") as caught:
        Pair().enclave.receive_hello(rewritten(hello))
    assert caught.value.status == 401


def test_a_hello_that_only_says_another_profile_is_none_at_all() -> None:
    fields = cbor.decode(Pair().client.hello())
    assert isinstance(fields, dict)
    for profile in ("seed", "", "modern\0", "Modern"):
        with pytest.raises(RemoteProtocolError):
            Pair().enclave.receive_hello(cbor.encode({**fields, "profile": profile}))


def test_no_signature_covers_the_same_bytes_in_both_profiles() -> None:
    """Whatever the fields: the labels differ before the first of them, and neither begins the other."""
    seed, modern = (signed_part(b"key", bytes(32), offer) for offer in (None, OFFER))
    labels = [signed.partition(b"\0")[0] for signed in (seed, modern)]
    assert labels[0] != labels[1]
    assert not any(one.startswith(other) for one, other in (labels, labels[::-1]))


# --- towards the client ----------------------------------------------------------------------------------------------


@pytest.fixture
def alice() -> Pair:
    """A modern handshake whose hello is on its way."""
    pair = Pair()
    pair.client.hello()
    return pair


def seed_document(world: World, nonce: bytes) -> bytes:
    """What the same enclave answers to a hello that Alice sent in profile seed, here with the nonce of the other."""
    return Pair(world, profile=Profile.SEED).answer(hello_of("Alice", offer=None, nonce=nonce))


def test_a_seed_answer_is_no_answer_to_a_modern_hello(alice: Pair) -> None:
    with pytest.raises(RemoteProtocolError, match="expected an answer"):
        alice.receive(seed_document(alice.world, alice.nonce))
    assert alice.client.state is State.REFUSED


def test_a_seed_document_with_keys_beside_it_is_refused_by_rule_10a(alice: Pair) -> None:
    """Genuine, fresh, with her key and even her nonce in it: and it vouches for no keys but the wrapped one."""
    own = X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    document = seed_document(alice.world, alice.nonce)
    with pytest.raises(AppraisalError) as caught:
        alice.receive(cbor.encode({"document": document, "x25519": own, "ml_kem_768": bytes(1088)}))
    assert [check.number for check in caught.value.result.failed] == [10, "10a"]


def test_a_modern_answer_is_no_answer_to_a_seed_hello() -> None:
    """The map is not a document, and the document in it holds no key for her."""
    world = World()
    modern = Pair(world)
    answer = cbor.decode(modern.answer(hello_of("Alice", offer=OFFER, nonce=bytes(32))))
    assert isinstance(answer, dict)
    for message, refusal in ((cbor.encode(answer), AppraisalError), (answer["document"], RemoteProtocolError)):
        seed = Pair(world, profile=Profile.SEED)
        seed.client.hello()
        seed.client._nonce = bytes(32)
        assert isinstance(message, bytes)
        with pytest.raises(refusal):
            seed.receive(message)


# --- the programs that speak -----------------------------------------------------------------------------------------


@contextmanager
def refusing_relay(response: bytes, hellos: list[bytes]) -> Iterator[str]:
    """Keeps what it is sent by two clients, and answers every hello alike; a third would wait in vain."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            for _ in range(2):
                with listener.accept()[0] as connection:
                    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    while len(body) < length:
                        body += connection.recv(65536)
                    hellos.append(body)
                    connection.sendall(response)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(20)


REFUSALS = {
    "unknown profile": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 26\r\n\r\nexpected a hello of seed.\r\n",
    "not let in": b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
    "out of order": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
    "the connection's end": b"",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_no_refusal_makes_a_client_try_another_profile(name: str) -> None:
    """A refusal is nobody's word: a client that fell back on seed would do so whenever somebody wants it."""
    hellos: list[bytes] = []
    with refusing_relay(REFUSALS[name], hellos) as url:
        transport = AttestedTransport(url, user_key("Alice"), World().policy())
        with pytest.raises((AccessDeniedError, RemoteProtocolError)):
            transport.connect()
        transport.close()

        async def connect() -> None:
            asynchronous = AsyncAttestedTransport(url, user_key("Alice"), World().policy())
            try:
                await asynchronous.connect()
            finally:
                await asynchronous.aclose()

        with pytest.raises((AccessDeniedError, RemoteProtocolError)):
            asyncio.run(connect())
    assert [decode_hello(hello).profile for hello in hellos] == [Profile.MODERN] * 2
