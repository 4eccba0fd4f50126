"""The main job in a terminal: build an enclave, prove it, connect Alice and Bob, compare; then refuse an impostor."""

from __future__ import annotations

from rich.console import Console

from workshop_kit.errors import AppraisalError, LabError
from workshop_kit.notebook.lab import Lab


def run_demo() -> None:
    """Print each step with what it shows.

    Raises:
        LabError: a step went otherwise than it must.
    """
    console = Console(highlight=False, soft_wrap=True)
    with Lab("millionaires") as lab:
        _build(console, lab)
        _compare(console, lab)
        _refuse(console, lab)
    console.print(
        "\nSimulated: the root of trust was made a moment ago, on this machine. Nothing here guards a secret."
    )


def _build(console: Console, lab: Lab) -> None:
    console.print("[bold]Build[/] data/services/millionaires, with the public keys of Alice and Bob")
    for index, value in lab.reference_values.pcrs.items():
        console.print(f"  PCR{int(index)} {value.hex()[:32]}…")
    console.print("[bold]Run[/] it: infrastructure, enclave and parent instance are three processes")
    console.print(f"  {lab.enclave.enclave_id} behind {lab.enclave.url}")


def _compare(console: Console, lab: Lab) -> None:
    console.print("[bold]Prove[/] it: each client appraises the enclave's evidence, then takes the session key")
    alice, bob = lab.connect("Alice"), lab.connect("Bob")
    for check in lab.results[0].checks:
        console.print(f"  {check.number!s:>3}  {check.name:<30} {check.outcome.value}")
    console.print("[bold]Compare[/]: Alice submits 5, Bob submits 6, to the enclave and to nobody else")
    alice.get("/submit_value", params={"value": 5}).raise_for_status()
    bob.get("/submit_value", params={"value": 6}).raise_for_status()
    answer = alice.get("/compare").json()
    console.print(f'  both learn "{answer}"')
    if answer != "Alice < Bob":
        raise LabError(f'expected "Alice < Bob", got {answer!r}')
    carried = b"".join(seen.data for seen in lab.enclave.parent.seen)
    readable = carried.count(b"submit_value")
    console.print(f"  the parent instance carried {len(carried)} bytes; 'submit_value' occurs in them {readable} times")


def _refuse(console: Console, lab: Lab) -> None:
    console.print("[bold]Refuse[/]: one line of the app is changed, and the operator runs that instead")
    source = lab.folder / "src" / "app.py"
    source.write_text(source.read_text() + "\n# now with a copy of every value\n")
    impostor = lab.run(lab.build())
    try:
        lab.connect("Alice", impostor)
    except AppraisalError as error:
        console.print(f"  {error}")
        return
    raise LabError("expected the impostor to be refused, it was not")
