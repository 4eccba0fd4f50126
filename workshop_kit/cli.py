"""The `workshop` command. Each function is one sub-command; the work is done elsewhere.

Results go to standard output, notes and warnings to standard error. Exit codes: 0 done or affirmed, 1 refused or
failed, 2 bad arguments.
"""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from workshop_kit import arguments
from workshop_kit.channel.handshake import Profile
from workshop_kit.edges.user_key import UserKey
from workshop_kit.errors import LabError, MalformedEvidenceError
from workshop_kit.evidence.eif import LARGEST_IMAGE
from workshop_kit.verifier import AppraisalResult, ReferenceValues, appraise

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Secure enclaves, learnt by doing: a simulated Nitro, a verifier, an attested client. Guards no secret.",
)

PcrOption = Annotated[str | None, typer.Option(metavar="HEX", help="Reference value, 96 hexadecimal digits.")]
Pcr16Option = Annotated[
    str | None,
    typer.Option(metavar="HEX", help="Demand these users and this runtime configuration: what `run` prints as pcr16."),
]
ValuesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Published reference values, instead of --pcr0, 1 and 2.")
]
EnclaveOption = Annotated[str, typer.Option(metavar="ID", help="Which one: the id that `run` and `describe` print.")]
RootOption = Annotated[
    str | None, typer.Option(metavar="aws|FILE", help="The trust anchor: AWS's, the default, or a certificate's file.")
]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="A policy in TOML, instead of all demands above.")
]


@app.command()
def keygen(
    key_name: Annotated[str, typer.Option(help="Whose key; the files' names begin with it.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the two files go.")] = Path(),
) -> None:
    """Make a user's RSA-2048 key pair, in two files, and print the public key in base64."""
    arguments.require_file_name(key_name)
    key = UserKey.generate()
    for file in key.save(output, key_name):
        _note(f"wrote {file}")
    print(base64.b64encode(key.public_bytes).decode())


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="The service folder, with .oblivious/service.yaml in it.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The image; default: the folder's name.eif.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:ROLE]=FILE", help="A user and his public key; may be repeated.")
    ] = None,
    reference_values: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the measurements there too, to publish them.")
    ] = None,
    signing_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign: the certificate, in PEM.")
    ] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Sign: its private key, in PEM.")] = None,
    build_arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One of the manifest's build_args; may be repeated.")
    ] = None,
    authorities: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates in PEM that the service trusts; measured.")
    ] = None,
) -> None:
    """Build a service folder into an enclave image, and print its measurements."""
    from workshop_kit.simulator.build import build_enclave

    made = build_enclave(
        folder,
        users=arguments.users_for_folder(user or [], folder),
        build_args=arguments.build_args(build_arg or []),
        authorities=arguments.authorities(authorities),
    )
    image, measured = arguments.signed(made.image, signing_certificate, private_key)
    values = ReferenceValues(measured).to_json()
    target = output or Path(f"{folder.resolve().name}.eif")
    arguments.write_file(target, image.encode())
    if reference_values:
        arguments.write_file(reference_values, values.encode())
        _note(f"wrote {reference_values}")
    for note in made.notes:
        _note(note)
    _note(f"wrote {target}")
    print(values, end="")


@app.command()
def run(
    image: Annotated[Path, typer.Argument(help="An enclave image, as `workshop build` writes.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the parent instance listens; 0: any.")] = 0,
    debug_mode: Annotated[
        bool, typer.Option("--debug-mode", help="As on Nitro: PCR0, 1 and 2 are zero, and clients refuse.")
    ] = False,
    root_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the simulator's root goes; default: beside the image.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Users in YAML, for an image without; PCR16 measures them.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:ROLE]=FILE", help="One of them and his public key, instead.")
    ] = None,
    runtime_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML for the application; PCR16 measures it too.")
    ] = None,
    isolation: Annotated[
        str, typer.Option(metavar="namespaces|seccomp", help="At most this much; `workshop doctor` says what is had.")
    ] = "namespaces",
    unisolated: Annotated[
        bool, typer.Option("--unisolated", help="None at all: the app may do what you may. Evidence says so.")
    ] = False,
    parent_cid: Annotated[
        int, typer.Option(min=2, max=2**32 - 2, help="By which the enclave calls its parent: 3 on Nitro, 2 under QEMU.")
    ] = 3,
) -> None:
    """Run an enclave image in a simulated Nitro, until Ctrl-C."""
    from workshop_kit.simulator.enclave import run_enclave
    from workshop_kit.simulator.isolation.levels import Level

    people = arguments.users_at_run_time(user or [], users, image)
    config = arguments.runtime_config(runtime_config)
    target = root_file or image.with_suffix(".root.pem")
    arguments.end_on_sigterm()
    arguments.allow_many_connections()
    level = arguments.isolation(isolation, unisolated=unisolated)
    with run_enclave(
        image,
        port=port,
        debug_mode=debug_mode,
        users=people,
        runtime_config=config,
        isolation=level,
        parent_cid=parent_cid,
    ) as enclave:
        if enclave.isolation.level is not Level.NAMESPACES:
            _note(f"warning: {enclave.isolation}")
        arguments.write_file(target, arguments.as_pem(enclave.root))
        print(f"root {target}")
        print(f"enclave {enclave.enclave_id}")
        print(f"pcr16 {enclave.pcr16.hex()}")
        print(f"isolation {enclave.isolation.level.value}")
        print(f"listening on {enclave.url}", flush=True)
        enclave.wait()
    _note("the enclave was terminated")


@app.command()
def describe() -> None:
    """List your enclaves on this machine, as JSON."""
    from workshop_kit.simulator.control import describe_enclaves

    print(json.dumps(describe_enclaves(), indent=2))


@app.command()
def console(enclave_id: EnclaveOption) -> None:
    """Print what an enclave in debug mode has written; nobody can read any other's console."""
    from workshop_kit.simulator.control import console_of

    print(console_of(enclave_id), end="")


@app.command()
def terminate(enclave_id: EnclaveOption) -> None:
    """End an enclave that another terminal or a page runs."""
    from workshop_kit.simulator.control import terminate_enclave

    terminate_enclave(enclave_id)
    print(json.dumps({"EnclaveID": enclave_id, "Terminated": True}, indent=2))


@app.command()
def connect(
    url: Annotated[str, typer.Option(help="Of the parent instance, e.g. http://127.0.0.1.")],
    private_key: Annotated[Path, typer.Option(metavar="FILE", help="The user's private key, in DER.")],
    public_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The user's public key, to compare.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Instead of the one in the URL.")] = None,
    lport: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen on localhost; 0: any.")] = 3030,
    lsocket: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Listen on this Unix socket instead, which is yours alone.")
    ] = None,
    pcr0: PcrOption = None,
    pcr1: PcrOption = None,
    pcr2: PcrOption = None,
    pcr16: Pcr16Option = None,
    reference_values: ValuesOption = None,
    root: RootOption = None,
    policy_file: PolicyOption = None,
    profile: Annotated[Profile, typer.Option(help="Of the handshake; seed is the seed workshop's.")] = Profile.MODERN,
    disable_pcr_check: Annotated[
        bool, typer.Option("--disable-pcr-check", help="Leave check 9 out, and nothing else: any image passes.")
    ] = False,
) -> None:
    """Attest an enclave, then offer it as plain HTTP on localhost, until Ctrl-C."""
    from workshop_kit.edges.connecting import run_client_proxy
    from workshop_kit.edges.sessions import Attesting

    pcrs = {0: pcr0, 1: pcr1, 2: pcr2, 16: pcr16}
    policy = arguments.policy(policy_file, pcrs, reference_values, root, any_image=disable_pcr_check)
    if policy_file is None and not disable_pcr_check and not any(pcrs.values()) and reference_values is None:
        raise typer.BadParameter("expected --pcr0, --pcr1 and --pcr2, or --reference-values FILE; got none")
    endpoint = arguments.endpoint(url, port)
    key = arguments.key_pair(private_key, public_key)

    def report(result: AppraisalResult) -> None:
        if disable_pcr_check:
            _note("warning: PCRs are not checked (--disable-pcr-check). Any program may be reading what you send.")
        _note(f"affirmed {result.claims.document.module_id}, for the holder of {private_key.name}")

    def ready(address: str) -> None:
        print(f"listening on {address}", flush=True)

    attesting = Attesting(endpoint=endpoint, key=key, policy=policy, profile=profile, on_result=report)
    arguments.end_on_sigterm()
    arguments.allow_many_connections()
    arguments.run_until_sigterm(run_client_proxy(attesting, at=lsocket or lport, on_ready=ready))


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="An attestation document.")]) -> None:
    """Decode an attestation document, without judging it."""
    from workshop_kit.evidence.document import decode_unverified
    from workshop_kit.inspection import describe

    try:
        print(describe(decode_unverified(arguments.document(file))))
    except MalformedEvidenceError as error:
        raise LabError(f"{file}: {error}") from None


@app.command()
def describe_eif(file: Annotated[Path, typer.Argument(help="An enclave image.")]) -> None:
    """Print an image's measurements and every fault that it has: exit 0 without one, 1 with any."""
    from workshop_kit.inspection import describe_image

    description = describe_image(arguments.readable(file, most=LARGEST_IMAGE), now=datetime.now(UTC))
    print(json.dumps(description, indent=2))
    for fault in description["Faults"]:
        _note(f"fault: {fault}")
    raise typer.Exit(1 if description["Faults"] else 0)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="An enclave image, or a service folder.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
) -> None:
    """Say why PCRs differ, down to the file and the bytes: exit 0 when they agree, 1 when not."""
    from workshop_kit.simulator.comparison import compare_images

    differences = compare_images(arguments.image_or_folder(first), arguments.image_or_folder(second))
    for difference in differences:
        print(difference)
    if not differences:
        print("PCR0, PCR1 and PCR2 agree: both measure the same")
    raise typer.Exit(1 if differences else 0)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An attestation document.")],
    pcr0: PcrOption = None,
    pcr1: PcrOption = None,
    pcr2: PcrOption = None,
    pcr16: Pcr16Option = None,
    reference_values: ValuesOption = None,
    root: RootOption = None,
    at: Annotated[
        str,
        typer.Option(
            metavar="now|document|TIME", help="When; ISO 8601 (UTC where it names no zone), or seconds since 1970."
        ),
    ] = "now",
    max_age: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How old it may be; default: 300.")
    ] = None,
    policy_file: PolicyOption = None,
    nonce: Annotated[str | None, typer.Option(metavar="HEX", help="The challenge that it must answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Appraise an attestation document: exit 0 when affirmed, 1 when refused."""
    evidence = arguments.document(file)
    pcrs = {0: pcr0, 1: pcr1, 2: pcr2, 16: pcr16}
    policy = arguments.policy(policy_file, pcrs, reference_values, root, max_age=max_age)
    if nonce is not None:
        policy = policy.for_handshake(nonce=arguments.hexadecimal(nonce, "--nonce"))
    result = appraise(evidence, policy, now=arguments.time_of_appraisal(at, evidence))
    print(result.to_json() if as_json else result)
    raise typer.Exit(0 if result.affirmed else 1)


@app.command()
def doctor() -> None:
    """Say how far this machine can keep an enclave's app away from itself, layer by layer: exit 1 where it cannot."""
    from workshop_kit.simulator.doctor import report

    lines = report()
    for line in lines:
        print(line)
    raise typer.Exit(1 if len(lines) == 1 else 0)


@app.command()
def demo() -> None:
    """The main job in a terminal: Alice and Bob build, prove and use an enclave, and an impostor is refused."""
    from workshop_kit.demo import run_demo

    run_demo()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    unisolated: Annotated[
        bool, typer.Option("--unisolated", help="Labs run enclaves that nothing keeps in; each says so.")
    ] = False,
) -> None:
    """Open the workshop in JupyterLab, on a copy in my-work/. Further arguments go to JupyterLab."""
    from workshop_kit.tasks import open_lab

    open_lab(context.args, unisolated=unisolated)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run every test and every page, and say what was skipped and why. Further arguments go to pytest."""
    from workshop_kit.tasks import run_tests

    raise typer.Exit(run_tests(context.args))


@app.command()
def pages(
    check: Annotated[bool, typer.Option("--check", help="Fail on a stale page, and write nothing.")] = False,
) -> None:
    """Execute every page anew and store its outputs."""
    from workshop_kit.tasks import regenerate_pages

    raise typer.Exit(regenerate_pages(check=check))


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PART...", help="verifier, enclave, first-byte, rates, memory, sessions; default: all."),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Time other verifiers instead, installed in .venv-peers; ours must be ahead."),
    ] = False,
) -> None:
    """Measure the kit against the primitives that it contains, and against TLS, in interleaved runs."""
    from workshop_kit.tasks import run_bench

    if parts and peers:
        raise typer.BadParameter("expected parts or --peers, got both")
    run_bench(parts or [], peers=peers)


@app.command()
def fuzz(
    file: Annotated[Path | None, typer.Argument(help="One input, to run by itself; needs --target.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long, all targets together.")] = 60,
    target: Annotated[str | None, typer.Option(metavar="NAME", help="One target instead of all.")] = None,
) -> None:
    """Feed the kit bytes that nobody thought of, guided by the code that they reach: exit 1 with a finding."""
    from workshop_kit.tasks import run_fuzz

    if file and not target:
        raise typer.BadParameter("expected --target NAME with a file, got none")
    if file:
        arguments.readable(file)
    raise typer.Exit(run_fuzz(file=file, seconds=seconds, target=target))


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
