"""Which models there are for ProVerif: the two files, and what each weakened one changes in them.

A weakened model is the unbounded counterpart of the variant of that name in `variants`. What is expected was worked out
by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

from workshop_kit.models.proverif import Change, Model


def _after(text: str, added: str) -> Change:
    return Change(text, f"{text}{added}")


P, R, C, E, T = "payload secret", "result secret", "client agrees", "enclave agrees", "result agrees"
_ALL = (P, R, C, E, T)
_IMPOSTOR = (P, C, T)
"""What falls where Mallory passes for the enclave."""
_STRANGER = (R, E)
"""What falls where he passes for the user."""

_NO_PCRS = Change("(=good_image, =n,", "(any: image, =n,")
_NO_SIGNATURE = Change("verify(document, root)", "signed(document)")
_ANY_CLIENT = Change("  if user = known then\n", "")
_USER_LEAKED = _after("  new alice: private_key;\n", "  out(network, alice);\n")
_INFRASTRUCTURE_LEAKED = _after("  new infrastructure: private_key;\n", "  out(network, infrastructure);\n")

# Profile `seed`.
_SEED_CHECKS = "let (=good_image, =n, =public(alice), wrapped: bitstring) = verify"
_SEED_NO_NONCE = Change(_SEED_CHECKS, "let (=good_image, other: nonce, =public(alice), wrapped: bitstring) = verify")
_SEED_LAST = "  | (!Client(alice, public(infrastructure)))\n"
_SEED_OLD_SESSION = """\
  | (!(new n: nonce; new k: session_key;
       let hello = (public(alice), n, sign((label_seed, n, public(alice)), alice)) in
       let answer = sign((good_image, n, public(alice), wrap(as_bits(k), public(alice))), infrastructure) in
       out(network, (hello, answer));
       LEAK))
"""
_OLD_SECRET = _after(_SEED_LAST, _SEED_OLD_SESSION.replace("LEAK", "out(network, k)"))
_OLD_KEYS = _after(
    _SEED_LAST,
    _SEED_OLD_SESSION.replace("LEAK", "out(network, (to_enclave(k, (hello, answer)), to_client(k, (hello, answer))))"),
)

# Profile `modern`.
_MODERN_CHECKS = "let (=good_image, =n, =public(alice), =digest((hello, gy, c))) = verify"
_X25519_BROKEN = (
    _after("new x: exponent;", " out(network, x);"),
    _after("new y: exponent;", " out(network, y);"),
)
_CLIENT = "Client(alice, public(infrastructure), x, dk)"
_ENCLAVE = "Enclave(infrastructure, public(alice), y)"
_X25519_BROKEN_LATER = (
    Change(_CLIENT, f"((phase 1; out(network, x)) | {_CLIENT})"),
    Change(_ENCLAVE, f"((phase 1; out(network, y)) | {_ENCLAVE})"),
)
_ML_KEM_BROKEN = _after("new dk: kem_private;", " out(network, dk);")
_NO_ML_KEM = (
    Change("(kem_secret(r, ek), exp(gx, y))", "(base, exp(gx, y))"),
    Change("(decapsulate(c, dk), exp(gy, x))", "(base, exp(gy, x))"),
)
_NO_X25519 = (
    Change("(kem_secret(r, ek), exp(gx, y))", "(kem_secret(r, ek), base)"),
    Change("(decapsulate(c, dk), exp(gy, x))", "(decapsulate(c, dk), base)"),
)


def _models() -> Iterator[Model]:
    for name, changes, falls in _SEED:
        yield Model("-".join(filter(None, ("seed", name))), "seed", changes, frozenset(falls))
    for name, changes, falls in _MODERN:
        yield Model("-".join(filter(None, ("modern", name))), "modern", changes, frozenset(falls))


_SEED: tuple[tuple[str, tuple[Change, ...], tuple[str, ...]], ...] = (
    ("", (), ()),
    ("no-nonce", (_SEED_NO_NONCE,), (C,)),
    ("no-pcrs", (_NO_PCRS,), _IMPOSTOR),
    ("no-signature", (_NO_SIGNATURE,), _IMPOSTOR),
    (
        "no-public-key",
        (Change(_SEED_CHECKS, "let (=good_image, =n, other: public_key, wrapped: bitstring) = verify"),),
        (),
    ),
    (
        "unbound",
        (
            _after("const label_seed: bitstring.\n", "const nothing: bitstring.\n"),
            Change("sign((good_image, n, user, wrapped), infra", "sign((good_image, n, user, nothing), infra"),
            Change("let answer = document in", "let answer = (document, wrapped) in"),
            Change("let document = answer in", "let (document: bitstring, wrapped: bitstring) = answer in"),
            Change(_SEED_CHECKS, "let (=good_image, =n, =public(alice), =nothing) = verify"),
        ),
        _IMPOSTOR,
    ),
    ("any-client", (_ANY_CLIENT,), _STRANGER),
    ("unsigned-hello", (Change("  let (=label_seed, =n, =user) = verify(signature, user) in\n", ""),), (C,)),
    ("one-key", (Change("= to_client(k, ", "= to_enclave(k, ", times=2),), (T,)),
    ("leaked-afterwards", (_after(_SEED_LAST, "  | (phase 1; out(network, (alice, infrastructure)))\n"),), (P, R)),
    ("user-leaked-before", (_USER_LEAKED,), (P, R, E, T)),
    ("infrastructure-leaked-before", (_INFRASTRUCTURE_LEAKED,), _IMPOSTOR),
    ("quantum", (_USER_LEAKED, _INFRASTRUCTURE_LEAKED), _ALL),
    ("old-secret", (_OLD_SECRET,), ()),
    ("old-secret-no-nonce", (_OLD_SECRET, _SEED_NO_NONCE), _IMPOSTOR),
    ("old-keys-no-nonce", (_OLD_KEYS, _SEED_NO_NONCE), (C,)),
)
_MODERN: tuple[tuple[str, tuple[Change, ...], tuple[str, ...]], ...] = (
    ("", (), ()),
    (
        "no-nonce",
        (Change(_MODERN_CHECKS, "let (=good_image, other: nonce, =public(alice), =digest((hello, gy, c))) = verify"),),
        (),
    ),
    ("no-pcrs", (_NO_PCRS,), _IMPOSTOR),
    ("no-signature", (_NO_SIGNATURE,), _IMPOSTOR),
    (
        "no-public-key",
        (Change(_MODERN_CHECKS, "let (=good_image, =n, other: public_key, =digest((hello, gy, c))) = verify"),),
        (),
    ),
    (
        "unbound",
        (Change(_MODERN_CHECKS, "let (=good_image, =n, =public(alice), stated: bitstring) = verify"),),
        _IMPOSTOR,
    ),
    ("any-client", (_ANY_CLIENT,), _STRANGER),
    (
        "unsigned-hello",
        (Change("  let (=label_modern, =n, =gx, =ek, =user) = verify(signature, user) in\n", ""),),
        _STRANGER,
    ),
    ("one-key", (Change("= to_client(secrets, ", "= to_enclave(secrets, ", times=2),), (T,)),
    ("user-leaked-before", (_USER_LEAKED,), _STRANGER),
    ("infrastructure-leaked-before", (_INFRASTRUCTURE_LEAKED,), _IMPOSTOR),
    ("quantum-afterwards", _X25519_BROKEN_LATER, ()),
    ("quantum", (_USER_LEAKED, _INFRASTRUCTURE_LEAKED, *_X25519_BROKEN), _ALL),
    ("x25519-broken", _X25519_BROKEN, ()),
    ("ml-kem-broken", (_ML_KEM_BROKEN,), ()),
    ("x25519-broken-no-ml-kem", (*_X25519_BROKEN, *_NO_ML_KEM), (P, R, E, T)),
    ("ml-kem-broken-no-x25519", (_ML_KEM_BROKEN, *_NO_X25519), (P, R, E, T)),
    ("quantum-afterwards-no-ml-kem", (*_X25519_BROKEN_LATER, *_NO_ML_KEM), (P, R)),
)

MODELS = {model.name: model for model in _models()}
"""By name; `seed` and `modern` are the files as they are."""
