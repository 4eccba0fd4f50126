"""What leaves a running enclave: what its manifest lists, by any library; all else is refused, written down and unseen.

The app uses ordinary libraries as they are. Behind the parent instance is a stand-in, so no packet leaves the loopback.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import DEADLINE, descendants, running_of, until
from running import Running, running
from services import ASGI, make_service

from workshop_kit.errors import LabError
from workshop_kit.evidence.pcr import ZERO
from workshop_kit.simulator.isolation.levels import OBTAINED, Level
from workshop_kit.simulator.stand_in import StandInInternet
from workshop_kit.verifier import ReferenceValues, TrustAnchor, UnsafeDebugPolicy

APP = (
    ASGI
    + """
import array, asyncio, contextlib, errno, pathlib, select, socket, ssl, urllib.parse, urllib.request
from workshop_kit.edges import egress_client

CA = str(pathlib.Path(__file__).with_name("ca.pem"))

def split(url):
    parsed = urllib.parse.urlsplit(url)
    return parsed.hostname, parsed.port or 443, parsed.path or "/"

def asking(name, path, body=b""):
    head = f"POST {path} HTTP/1.1\\r\\nhost: {name}\\r\\nconnection: close\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
    return head.encode() + body

def by_urllib(url):
    return urllib.request.urlopen(url, timeout=20, context=ssl.create_default_context(cafile=CA)).read().decode()

def by_httpx(url):
    import httpx
    context = ssl.create_default_context(cafile=CA)
    return httpx.get(url, timeout=20, verify=context, follow_redirects=True).raise_for_status().text

def by_requests(url):
    import requests
    return requests.get(url, timeout=20, verify=CA).text

def by_socket(url):
    name, port, path = split(url)
    with socket.create_connection((name, port), 20) as plain:
        with ssl.create_default_context(cafile=CA).wrap_socket(plain, server_hostname=name) as secure:
            secure.sendall(asking(name, path))
            return b"".join(iter(lambda: secure.recv(4096), b"")).decode().partition("\\r\\n\\r\\n")[2]

async def exchange(reader, writer, name, path, body=b""):
    writer.write(asking(name, path, body))
    answered = await reader.read()
    writer.close()
    return answered.decode().partition("\\r\\n\\r\\n")[2]

async def opened(url, body=b""):
    name, port, path = split(url)
    streams = await asyncio.open_connection(name, port, ssl=ssl.create_default_context(cafile=CA))
    return await exchange(*streams, name, path, body)

def by_asyncio(url):
    return asyncio.run(asyncio.wait_for(opened(url), 20))

def by_select(url):
    name, port, _ = split(url)
    address = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    with socket.socket() as plain:
        plain.setblocking(False)
        begun = plain.connect_ex(address)
        if begun not in (0, errno.EINPROGRESS):
            raise OSError(begun, os.strerror(begun))
        writable = select.select([], [plain], [], 20)[1]
        return [bool(writable), plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]

def many(url, count):
    async def all_of_them():
        return await asyncio.gather(*(opened(url, b"number %d" % each) for each in range(int(count))))
    return asyncio.run(asyncio.wait_for(all_of_them(), 25))

async def by_kit(url):
    name, port, path = split(url)
    reader, writer = await egress_client.open_connection(name, port)
    await writer.start_tls(ssl.create_default_context(cafile=CA), server_hostname=name)
    return await exchange(reader, writer, name, path)

def connect(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as plain:
        plain.settimeout(20)
        plain.connect((address, int(port)))

def sendto(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"users' data", (address, int(port)))

def send(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, int(port)))
        datagrams.send(b"users' data")

def look_up(name):
    return [found[4][0] for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]

def gate(messages, handing):
    with socket.socket(fileno=os.dup(int(os.environ["WORKSHOP_EGRESS"]))) as channel:
        for message, times in json.loads(messages):
            with contextlib.ExitStack() as opened:
                descriptor = handed_over(handing, opened)
                ancillary = array.array("i", [descriptor])
                control = [] if descriptor < 0 else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ancillary)]
                channel.sendmsg([bytes.fromhex(message) * int(times)], control)

def handed_over(what, opened):
    if what == "a pipe":  # to be read from, and full
        reading, writing = os.pipe()
        os.write(writing, b"x")
        opened.callback(os.close, reading), opened.callback(os.close, writing)
        return reading
    if what == "a file":
        return opened.enter_context(open(__file__)).fileno()
    kinds = {"a socket": socket.SOCK_STREAM, "a datagram socket": socket.SOCK_DGRAM}
    return opened.enter_context(socket.socketpair(socket.AF_UNIX, kinds[what])[0]).fileno() if what in kinds else -1

async def answer(scope, receive):
    asked = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
    try:
        if scope["path"] == "/by_kit":
            return as_json({"ok": await by_kit(**asked)})
        return as_json({"ok": await asyncio.to_thread(globals()[scope["path"][1:]], **asked)})
    except Exception as error:
        return as_json({"error": type(error).__name__, "text": str(error), "errno": getattr(error, "errno", None)})
"""
)
LIBRARIES = ("urllib", "httpx", "requests", "socket")
CALLS = (
    *(f"/by_{library}" for library in (*LIBRARIES, "asyncio", "select", "kit")),
    *("/many", "/connect", "/sendto", "/send", "/look_up", "/gate"),
)

GOOD = "93.184.215.14"
BAD = {
    "loopback.example": (["127.0.0.1"], "127.0.0.1, which is loopback (RFC 1122)"),
    "loopback6.example": (["::1"], "::1, which is loopback (RFC 4291)"),
    "private.example": (["10.0.0.1"], "10.0.0.1, which is private (RFC 1918)"),
    "link-local.example": (["169.254.7.7"], "169.254.7.7, which is link-local (RFC 3927)"),
    "link-local6.example": (["fe80::7"], "fe80::7, which is link-local (RFC 4291)"),
    "metadata.example": (
        ["169.254.169.254"],
        "169.254.169.254, which is a cloud's metadata service (AWS, Azure, Google Cloud)",
    ),
    "mixed.example": ([GOOD, "192.168.1.1"], "192.168.1.1, which is private (RFC 1918)"),
}
ALLOWED = [("example.com", 443), ("example.com", 8443), *((name, 443) for name in BAD)]
LISTED = "the allowlist has example.com, loopback.example, loopback6.example, ..."


class Internet(StandInInternet):
    """A stand-in that keeps which names it was asked for; every name that a test could mean has an address."""

    def __init__(self, *, impostor: bool = False) -> None:
        others = ("evil.example", "sub.example.com", *(f"{library}.evil.example" for library in LIBRARIES))
        bad = {name: addresses for name, (addresses, _) in BAD.items()}
        super().__init__({name: [GOOD] for name in ("example.com", *others)} | bad, impostor=impostor)
        self.asked: list[str] = []

    async def resolve(self, name: str) -> list[str]:
        self.asked.append(name)
        return await super().resolve(name)


@dataclass
class Started:
    """An enclave with an app that tries what it is told to, and the stand-in behind its parent instance."""

    net: Internet
    running: Running
    client: httpx.Client

    def call(self, path: str, **asked: Any) -> dict[str, Any]:
        answered = self.client.get(path, params=asked, timeout=DEADLINE)
        result: dict[str, Any] = answered.raise_for_status().json()
        return result

    def fetch(self, library: str, url: str) -> dict[str, Any]:
        if importlib.util.find_spec(library) is None and library in ("requests",):
            pytest.skip(f"{library} is not installed here")
        return self.call(f"/by_{library}", url=url)

    def works(self) -> bool:
        return self.fetch("kit", "https://example.com/") == {"ok": "hello from example.com"}

    def has_logged(self, line: str) -> None:
        until(lambda: f"{line}\n" in self.running.enclave.console(), f"{line!r}, in:\n{self.running.enclave.console()}")

    @property
    def lines(self) -> list[str]:
        """All that the gate has written by now: what it wrote for a connection comes behind what came before."""
        count = self.running.enclave.console().count("egress example.com:443 allowed")
        assert self.works()
        until(lambda: self.running.enclave.console().count("egress example.com:443 allowed") > count, "another line")
        return [line for line in self.running.enclave.console().splitlines() if line.startswith("egress ")]


@contextmanager
def started(
    folder: Path,
    *,
    allowed: Sequence[tuple[str, int]] = ALLOWED,
    impostor: bool = False,
    level: Level = Level.NAMESPACES,
    **more: Any,
) -> Iterator[Started]:
    make_service(folder, APP, *CALLS)
    manifest = folder / ".oblivious/service.yaml"
    entries = (f"{{name: w{n}, domain: {name}, port: {port}, type: tcp}}" for n, (name, port) in enumerate(allowed))
    manifest.write_text(manifest.read_text().rstrip().removesuffix("}") + f", outbound: [{', '.join(entries)}]}}\n")
    with Internet(impostor=impostor) as net:
        (folder / "src/ca.pem").write_bytes(net.ca)
        with running(folder, debug_mode=True, isolation=level, internet=net, **more) as enclave:
            isolation = enclave.enclave.isolation
            if isolation.level is not level:
                pytest.skip(f"this machine gives no more: {isolation}")
            if level is Level.NAMESPACES and isolation.layers["connections"] != OBTAINED:
                pytest.skip(f"nothing here asks about connections: {isolation}")
            anchor = TrustAnchor.from_certificate(enclave.enclave.root)
            values = ReferenceValues(dict.fromkeys((0, 1, 2), ZERO))  # all that evidence in debug mode has
            policy = UnsafeDebugPolicy(trust_anchor=anchor, reference_values=values)
            yield Started(net, enclave, enclave.client(policy=policy))


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("egress") / "service") as one:
        yield one


@pytest.fixture(scope="module", params=list(Level), ids=lambda level: level.value)
def at_each_level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("level") / "service", level=request.param) as one:
        yield one


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def untouched(net: Internet, unwanted: Collection[str]) -> bool:
    """Nobody asked for these names, and nobody dialled these addresses."""
    return not set(unwanted) & {*net.asked, *(address for address, _ in net.dialled)}


# --- what is listed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [443, 8443])
def test_a_library_as_it_is_reaches_a_listed_name_and_checks_its_certificate(
    enclave: Started, library: str, port: int
) -> None:
    authority = "example.com" if port == 443 else f"example.com:{port}"
    greeting = f"hello from {'example.com' if library == 'socket' else authority}"
    assert enclave.fetch(library, f"https://{authority}/") == {"ok": greeting}
    assert enclave.net.dialled[-1] == (GOOD, port)
    enclave.has_logged(f"egress example.com:{port} allowed: on the allowlist")


def test_a_redirect_within_the_list_is_followed(enclave: Started) -> None:
    url = "https://example.com/redirect?to=https://example.com:8443/"
    assert enclave.fetch("httpx", url) == {"ok": "hello from example.com:8443"}


def test_a_name_may_be_written_in_capitals_and_with_its_final_dot(enclave: Started) -> None:
    assert enclave.fetch("select", "https://EXAMPLE.com./") == {"ok": [True, 0]}
    assert enclave.net.asked[-1] == "example.com"  # the allowlist's own spelling, which carries nothing


def test_a_connection_that_does_not_block_works(enclave: Started) -> None:
    assert enclave.fetch("asyncio", "https://example.com/") == {"ok": "hello from example.com"}
    assert enclave.fetch("select", "https://example.com/") == {"ok": [True, 0]}
    assert enclave.fetch("select", "https://evil.example/")["error"] == "TimeoutError"


def test_a_hundred_connections_at_once_each_get_their_own_answer(enclave: Started) -> None:
    answered = enclave.call("/many", url="https://example.com/echo", count=100)
    assert answered == {"ok": [f"number {each}" for each in range(100)]}


def test_an_operators_own_server_is_refused_by_the_apps_tls(tmp_path: Path) -> None:
    """It has the name, the address, and a certificate of an authority that is called like the one in the image."""
    with started(tmp_path / "service", impostor=True) as deceived:
        for library in (*LIBRARIES, "asyncio", "kit"):
            before = len(deceived.net.dialled)
            if library == "requests" and importlib.util.find_spec("requests") is None:
                continue
            refused = deceived.fetch(library, "https://example.com/")
            assert "certificate verify failed" in refused["text"], library
            assert deceived.net.dialled[before:] == [(GOOD, 443)], library


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_the_gate_is_a_process_once_something_goes_out_and_the_enclave_ends_with_it(
    tmp_path: Path, level: Level
) -> None:
    """Most enclaves of a workshop never go out, and need none."""
    with started(tmp_path / "service", level=level) as one:
        enclave = one.running.enclave
        before = descendants(enclave.infrastructure.pid)
        assert len(before) == 2  # its own, and the shell that would end it
        (own,) = (each for each in before if each.pid == enclave.describe()["ProcessID"])
        assert one.works()
        (gate,) = descendants(enclave.infrastructure.pid) - before
        assert one.works()
        os.kill(gate.pid, signal.SIGKILL)
        with pytest.raises(LabError, match="ended by itself"):
            enclave.wait()
        until(lambda: not running_of({own}), "the end of the enclave")


def test_an_enclave_calls_its_parent_instance_by_the_id_that_this_one_has(tmp_path: Path) -> None:
    with started(tmp_path / "service", parent_cid=2) as under_qemu:
        assert under_qemu.fetch("urllib", "https://example.com/") == {"ok": "hello from example.com"}
        assert under_qemu.works()


# --- what is not -----------------------------------------------------------------------------------------------------


def test_another_port_of_a_listed_name_is_refused(enclave: Started, library: str) -> None:
    port = 1000 + LIBRARIES.index(library)
    assert "error" in enclave.fetch(library, f"https://example.com:{port}/")
    enclave.has_logged(f"egress example.com:{port} refused: the allowlist has example.com with the ports 443, 8443, "
                       f"not {port}")  # fmt: skip
    assert port not in {dialled for _, dialled in enclave.net.dialled}


def test_a_sub_domain_of_a_listed_name_is_refused(enclave: Started, library: str) -> None:
    port = 2000 + LIBRARIES.index(library)
    assert "error" in enclave.fetch(library, f"https://sub.example.com:{port}/")
    reason = "the allowlist has example.com, and sub.example.com is another name than example.com: list it too"
    enclave.has_logged(f"egress sub.example.com:{port} refused: {reason}")
    assert untouched(enclave.net, ["sub.example.com"])


@pytest.mark.parametrize(
    ("address", "port"),
    [(GOOD, 443), ("169.254.169.254", 80), ("2606:2800:220:1::1", 443), ("::1:2:3", 443), ("10.0.0.1", 22)],
)
def test_an_address_is_refused_also_that_of_a_listed_name(enclave: Started, address: str, port: int) -> None:
    before = len(enclave.net.dialled)
    refused = enclave.call("/connect", address=address, port=port)
    assert refused["error"] == "TimeoutError"
    shown = f"[{address}]" if ":" in address else address
    reason = "expected a domain, got an address, and the allowlist names domains"
    enclave.has_logged(f"egress {shown}:{port} refused: {reason}")
    assert enclave.net.dialled[before:] == []


@pytest.mark.parametrize("library", ["urllib", "httpx", "requests"])
def test_a_redirect_to_elsewhere_is_refused(enclave: Started, library: str) -> None:
    elsewhere = f"{library}.evil.example"
    refused = enclave.fetch(library, f"https://example.com/redirect?to=https://{elsewhere}/")
    assert "error" in refused
    reason = f"{LISTED} and not {elsewhere}: list it under traffic.outbound of service.yaml"
    enclave.has_logged(f"egress {elsewhere}:443 refused: {reason}")
    assert enclave.net.dialled[-1] == (GOOD, 443)
    assert untouched(enclave.net, [elsewhere])


@pytest.mark.parametrize("name", BAD)
def test_a_listed_name_with_an_address_of_the_operators_network_is_refused(enclave: Started, name: str) -> None:
    addresses, kind = BAD[name]
    before = len(enclave.net.dialled)
    for library in ("socket", "httpx"):
        assert "error" in enclave.fetch(library, f"https://{name}/")
    reason = f"expected global addresses of {name} only, got {kind}"
    enclave.has_logged(f"egress {name}:443 refused: {reason}")
    assert f"egress {name}:443 refused: {reason}" in map(str, enclave.running.enclave.parent.egress)
    assert enclave.net.dialled[before:] == []
    assert untouched(enclave.net, {*addresses} - {GOOD})


@pytest.mark.parametrize("how", ["/sendto", "/send"])
@pytest.mark.parametrize(("address", "port"), [("8.8.8.8", 53), ("example.com", 443)])
def test_a_datagram_goes_nowhere(enclave: Started, how: str, address: str, port: int) -> None:
    """Not to a listed name either, as HTTP/3 would send it."""
    refused = enclave.call(how, address=address, port=port)
    assert refused["errno"]
    enclave.has_logged(f"egress {address}:{port} refused: no datagram leaves an enclave")


def test_looking_up_a_secret_tells_it_to_nobody_outside(enclave: Started) -> None:
    secret = secrets.token_hex(16)
    name = f"{secret}.example.com"
    assert "ok" in enclave.call("/look_up", name=name)
    enclave.has_logged(f"egress {name}:53 refused: the allowlist has example.com, and {name} is another name than "
                       "example.com: list it too")  # fmt: skip
    assert enclave.works()  # whatever had been sent before it would have arrived by now
    seen = [*enclave.net.asked, *map(str, enclave.running.enclave.parent.egress), *map(str, enclave.net.dialled)]
    assert [each for each in seen if secret in each] == []


def test_the_parent_instance_hears_of_listed_names_and_ports_only(enclave: Started) -> None:
    for url in ("https://example.com:81/", "https://evil.example/", "https://sub.example.com/", f"https://{GOOD}/"):
        assert "error" in enclave.fetch("socket", url)
        assert enclave.fetch("kit", url)["error"] == "EgressDeniedError"
    assert enclave.works()
    heard = {(decision.name, decision.port) for decision in enclave.running.enclave.parent.egress}
    assert heard <= set(ALLOWED)
    assert ("example.com", 443) in heard
    assert set(enclave.net.asked) <= {name for name, _ in ALLOWED}
    assert {address for address, _ in enclave.net.dialled} == {GOOD}


def test_with_an_empty_list_nothing_leaves(tmp_path: Path) -> None:
    with started(tmp_path / "service", allowed=()) as closed:
        for library in ("urllib", "httpx", "socket", "asyncio", "kit"):
            assert "error" in closed.fetch(library, "https://example.com/"), library
        assert "error" in closed.call("/connect", address=GOOD, port=443)
        assert "error" in closed.call("/sendto", address="8.8.8.8", port=53)
        closed.has_logged(
            "egress example.com:443 refused: the allowlist is empty, without example.com: "
            "list it under traffic.outbound of service.yaml"
        )
        assert (closed.net.asked, closed.net.dialled) == ([], [])
        assert list(closed.running.enclave.parent.egress) == []


# --- the gate's channel ----------------------------------------------------------------------------------------------

GARBAGE = [
    *(b"", b"\0\xff", b"{", b"[]", b"{}", b"1", b"null", b'"allow"', b"x"),
    *(b'{"allow": 1}', b'{"allow": [["evil.example"]]}', b'{"allow": {}, "connect": {}}', b'{"connect": 7}'),
    *(b'{"connect": ["example.com"]}', b'{"connect": ["example.com", "x"]}', b'{"connect": [[], {}]}'),
    *(b'{"connect": ["example.com", 1e400]}', b'{"connect": ["\\ud800", 443]}', b'{"connect": ["a b\\n", -7]}'),
    *(b'{"connect": ["example.com", 443]}', b'{"watch": 7}', b'{"watch": true}', b'{"exit": 0}'),
]


def test_an_app_cannot_put_a_name_on_the_list(at_each_level: Started) -> None:
    """Whatever it sends comes after the list of the manifest, which comes once."""
    added = json.dumps([(b'{"allow": [["evil.example", 443]]}'.hex(), 1)] * 3)
    assert "ok" in at_each_level.call("/gate", messages=added, handing="nothing")
    assert at_each_level.works()
    refused = at_each_level.fetch("kit", "https://evil.example/")
    assert refused["error"] == "EgressDeniedError"
    assert untouched(at_each_level.net, ["evil.example"])


@pytest.mark.parametrize("handing", ["nothing", "a socket", "a datagram socket", "a pipe", "a file"])
def test_garbage_in_the_gates_channel_does_no_harm(at_each_level: Started, handing: str) -> None:
    many = [(b"[", 20_000), (b"x", 60_000), (b"\0", 70_000)]
    messages = json.dumps([(message.hex(), times) for message, times in [*((each, 1) for each in GARBAGE), *many]])
    assert "ok" in at_each_level.call("/gate", messages=messages, handing=handing)
    assert at_each_level.works()
    assert at_each_level.fetch("kit", "https://evil.example/")["error"] == "EgressDeniedError"
    assert untouched(at_each_level.net, ["evil.example"])
    assert "Traceback" not in at_each_level.running.enclave.console()


# --- the kit's own client, at every level ----------------------------------------------------------------------------


def test_the_kits_client_reaches_a_listed_name_at_every_level(at_each_level: Started) -> None:
    before = len(at_each_level.net.dialled)
    assert at_each_level.fetch("kit", "https://example.com:8443/") == {"ok": "hello from example.com"}
    assert at_each_level.net.dialled[before:] == [(GOOD, 8443)]
    at_each_level.has_logged("egress example.com:8443 allowed: on the allowlist")


@pytest.mark.parametrize(
    ("name", "port", "reason"),
    [
        ("evil.example", 443, f"{LISTED} and not evil.example: list it under traffic.outbound of service.yaml"),
        ("example.com", 80, "the allowlist has example.com with the ports 443, 8443, not 80"),
        (GOOD, 443, "expected a domain, got an address, and the allowlist names domains"),
        ("private.example", 443, f"expected global addresses of private.example only, got {BAD['private.example'][1]}"),
    ],
)
def test_the_kits_client_says_why_there_is_no_way_at_every_level(
    at_each_level: Started, name: str, port: int, reason: str
) -> None:
    refused = at_each_level.fetch("kit", f"https://{name}:{port}/")
    assert (refused["error"], refused["text"]) == ("EgressDeniedError", f"{name}:{port}: {reason}")
    assert f"egress {name}:{port} refused: {reason}" in at_each_level.lines
    assert untouched(at_each_level.net, ["evil.example", "10.0.0.1"])
