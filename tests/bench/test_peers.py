"""`workshop bench --peers` without its peers: who is left out and why, and what the answer is. Nothing is timed."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
from itertools import pairwise, permutations
from pathlib import Path

import interleave
import peers
import pytest
from interleave import Case
from peer_adapters import PEERS, Peer, Subject
from peer_timing import BASE, LONGEST_REASON, OURS, OURS_KNOWN, accepting, one_line

SUBJECT = Subject(Path("no-document.bin"))


def peer(package: str, case: Case) -> Peer:
    return Peer(package, lambda _: case)


def refusing() -> None:
    raise ValueError("the nonce\nis another")


def missing(_: Subject) -> Case:
    raise ModuleNotFoundError("no such package")


def measured(**ratios: float) -> dict[str, list[float]]:
    """Three rounds in which ours takes 1.2 times the base, and each peer as many times as it says."""
    times = {BASE: 1.0, OURS: 1.2, OURS_KNOWN: 0.2} | ratios
    return {name: [2 * value, value, 3 * value] for name, value in times.items()}


# --- who runs --------------------------------------------------------------------------------------------------------


def test_a_peer_that_refuses_the_genuine_document_is_skipped_with_its_own_words_and_the_others_stay() -> None:
    cases, skipped = accepting([peer("a", refusing), peer("b", int)], SUBJECT, [])
    assert cases == {"b": int}
    assert skipped == {"a": "ValueError: the nonce is another"}


def test_a_peer_whose_package_is_missing_is_skipped_with_its_reason() -> None:
    assert accepting([Peer("a", missing)], SUBJECT, []) == ({}, {"a": "ModuleNotFoundError: no such package"})


def test_a_peer_that_asks_for_the_network_is_skipped_even_where_it_gets_on_without() -> None:
    """What it does without is not what it does."""
    attempts = ["connect"]
    cases, skipped = accepting([peer("a", lambda: attempts.append("getaddrinfo")), peer("b", int)], SUBJECT, attempts)
    assert cases == {"b": int}
    assert skipped == {"a": "wants the network (getaddrinfo)"}


def test_a_reason_is_one_line_of_bounded_length() -> None:
    assert one_line(" many\n  lines\t") == "many lines"
    assert len(one_line("long " * LONGEST_REASON)) == LONGEST_REASON


def test_without_faketime_those_that_know_only_the_present_are_skipped_and_told_how_to_get_it() -> None:
    skipped = peers.without_another_time(PEERS, None)
    assert skipped.keys() == {peer.package for peer in PEERS if peer.knows_only_the_present}
    assert all("apt install faketime" in reason for reason in skipped.values())
    assert peers.without_another_time(PEERS, "faketime") == {}


def test_one_failed_installation_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def install(package: str) -> None:
        tried.append(package)
        if package == "a":
            raise peers.InstallationError("no such package")

    monkeypatch.setattr(peers, "install", install)
    monkeypatch.setattr(peers, "is_installed", lambda peer: peer.package == "c")
    skipped = peers.without_installation([peer("a", int), peer("b", int), peer("c", int)])
    assert skipped == {"a": "cannot be installed: no such package"}
    assert tried == ["a", "b"]


def test_an_installed_package_is_found_however_its_name_is_spelled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second run asks no registry."""
    installed = tmp_path / "lib" / "python3.11" / "site-packages" / "some_peer-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: some_peer\nVersion: 1.0\n")
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    assert peers.is_installed(peer("some-peer", int))
    assert not peers.is_installed(peer("another-peer", int))


def test_an_attempt_is_noted_though_the_peer_swallows_the_error() -> None:
    program = "import socket; from peer_timing import shut_the_network; attempts = shut_the_network()"
    swallowed = "\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: print(attempts)"
    assert python(program + swallowed).stdout == "['getaddrinfo']\n"


def test_the_shut_network_raises_where_an_open_one_connects() -> None:
    """Against a socket that listens here, so that a network that is not shut shows."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        for attempt in (
            f"socket.create_connection({address}, timeout=5)",
            f"socket.socket().connect({address})",
            f"socket.socket().connect_ex({address})",
            "socket.getaddrinfo('localhost', 80)",
            "socket.gethostbyname('localhost')",
        ):
            assert python(f"import socket; {attempt}").returncode == 0
            shut = python(f"import socket, peer_timing; peer_timing.shut_the_network(); {attempt}")
            assert shut.stderr.splitlines()[-1] == "OSError: the network is shut here"


def python(program: str) -> subprocess.CompletedProcess[str]:
    folder = Path(peers.__file__).parent
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


def test_every_case_runs_behind_every_other_and_once_a_round() -> None:
    """A case takes more or less for what ran before it: a fixed order would be an advantage for somebody."""
    ran: list[str] = []
    cases = {name: functools.partial(ran.append, name) for name in "abcd"}
    seconds = interleave.interleave(cases, rounds=121, window=0)
    assert {len(times) for times in seconds.values()} == {121}
    rounds = ran[8:]  # two calls of each told how many fill a window
    assert {"".join(sorted(rounds[at : at + 4])) for at in range(0, len(rounds), 4)} == {"abcd"}
    assert {before + after for before, after in pairwise(rounds) if before != after} == {
        before + after for before, after in permutations("abcd", 2)
    }


def test_a_ratio_is_of_what_a_case_takes_when_left_alone() -> None:
    """Half of one case's rounds were disturbed."""
    assert interleave.ratio({"a": [3.0] * 11, "b": [1.0] * 5 + [9.0] * 6}, "a", "b") == 3


# --- the answer ------------------------------------------------------------------------------------------------------


def test_three_slower_peers_on_any_documents_are_enough() -> None:
    assert peers.complaint([measured(a=1.3, b=1.4), measured(c=1.5)]) == ""


def test_fewer_than_three_peers_show_nothing() -> None:
    assert "at least 3 peers to run, got 2" in peers.complaint([measured(a=1.3, b=1.4), measured()])


@pytest.mark.parametrize("time", [1.1, 1.2])
def test_a_peer_that_is_as_fast_as_ours_or_faster_is_named(time: float) -> None:
    complaint = peers.complaint([measured(a=1.3, b=1.4), measured(quick=time)])
    assert complaint.endswith("not so with quick")


def test_a_remembered_chain_does_not_count_as_faster() -> None:
    """Every peer follows the chain each time: what is compared is the first sight."""
    assert peers.complaint([measured(a=0.5, b=1.4, c=1.5)]).endswith("not so with a")


def test_rows_are_sorted_and_show_the_ratio_over_the_verifications() -> None:
    heading, *rows, note = peers.table(measured(b=1.5, a=1.125), "document.bin")
    assert heading.split() == ["what", "ratio"]
    assert [row.rsplit(maxsplit=1) for row in rows] == [
        [OURS_KNOWN, "0.20"],
        ["a", "1.12"],
        [OURS, "1.20"],
        ["b", "1.50"],
    ]
    assert BASE in note
    assert "document.bin" in note


def test_without_the_genuine_documents_nothing_is_installed_and_one_line_says_where_they_are_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKSHOP_VECTORS", str(tmp_path))
    monkeypatch.setattr(peers, "prepare_environment", pytest.fail)
    with pytest.raises(SystemExit) as stopped:
        peers.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "workshop bench: the genuine documents are not here: see tests/README.md\n"
