"""Runs in the peers' environment, at the document's own time: time the named peers and ours on one document.

Its last line of output is JSON: the seconds of every case by round, and why a peer was skipped.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from interleave import Case, interleave
from peer_adapters import DEBUG, PEERS, Peer, Subject
from yardstick import at_first_sight, verifications

from workshop_kit.verifier import Policy, ReferenceValues, UnsafeDebugPolicy, appraise

BASE = "5 ES384 verifications"
OURS = "appraisal, first sight"
OURS_KNOWN = "appraisal, chain known"

LONGEST_REASON = 200


def shut_the_network() -> list[str]:
    """Let whatever looks a name up or connects raise, for good. What was attempted is written to the list."""
    attempts: list[str] = []

    def refusing(name: str) -> Callable[..., NoReturn]:
        def refuse(*_: object, **__: object) -> NoReturn:
            attempts.append(name)
            raise OSError("the network is shut here")

        return refuse

    for owner, names in ((socket, ("getaddrinfo", "gethostbyname")), (socket.socket, ("connect", "connect_ex"))):
        for name in names:
            setattr(owner, name, refusing(name))
    return attempts


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


def accepting(
    peers: Iterable[Peer], subject: Subject, attempts: Sequence[str]
) -> tuple[dict[str, Case], dict[str, str]]:
    """The peers that accept the document without the network, as calls, and of the others why not."""
    cases, skipped = {}, {}
    for peer in peers:
        before = len(attempts)
        try:
            cases[peer.package] = peer.adapter(subject)
            cases[peer.package]()
        except Exception as error:  # noqa: BLE001  whatever another's package raises is its reason
            skipped[peer.package] = one_line(f"{type(error).__name__}: {error}")
        if len(attempts) > before:
            skipped[peer.package] = f"wants the network ({attempts[-1]})"
    return {package: case for package, case in cases.items() if package not in skipped}, skipped


def ours(subject: Subject) -> dict[str, Case]:
    """All checks that the document can pass, and the signatures that none can do without."""
    kind = UnsafeDebugPolicy if subject.file.name == DEBUG else Policy
    document, evidence, now = subject.document, subject.evidence, subject.now
    expected = ReferenceValues({index: document.pcrs[index] for index in (0, 1, 2)})
    policy = kind(reference_values=expected, nonce=document.nonce)

    def verify() -> object:
        return appraise(evidence, policy, now=now).claims

    return {BASE: verifications(evidence)[1], OURS: at_first_sight(verify), OURS_KNOWN: verify}


def main(file: str, *packages: str) -> None:
    logging.disable(logging.CRITICAL)
    attempts = shut_the_network()
    subject = Subject(Path(file))
    cases, skipped = accepting((peer for peer in PEERS if peer.package in packages), subject, attempts)
    print(json.dumps({"seconds": interleave(ours(subject) | cases), "skipped": skipped}))


if __name__ == "__main__":
    main(*sys.argv[1:])
