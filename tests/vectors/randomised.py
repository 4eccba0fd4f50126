"""RSA-PSS, RSA-OAEP and ML-KEM-768's encapsulation with their chance as an argument, so that vectors are repeatable.

Written out from RFC 8017 and FIPS 203, since the library keeps that chance to itself. For vectors alone: nothing here
runs in constant time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import rsa

_BYTES = 256  # of RSA-2048


# --- RSA, RFC 8017 ---------------------------------------------------------------------------------------------------


def pss_sign(key: rsa.RSAPrivateKey, message: bytes, *, salt: bytes) -> bytes:
    """RSASSA-PSS with SHA-256 (8.1.1 and 9.1.1), under a salt of 32 bytes."""
    digest = hashlib.sha256(bytes(8) + hashlib.sha256(message).digest() + salt).digest()
    data = bytes(_BYTES - len(salt) - len(digest) - 2) + b"\1" + salt
    masked = _xor(data, _mgf1(digest, len(data)))
    numbers = key.private_numbers()
    encoded = int.from_bytes(bytes([masked[0] & 0x7F]) + masked[1:] + digest + b"\xbc", "big")
    return pow(encoded, numbers.d, numbers.public_numbers.n).to_bytes(_BYTES, "big")


def oaep_encrypt(key: rsa.RSAPublicKey, message: bytes, *, seed: bytes) -> bytes:
    """RSAES-OAEP with SHA-256 and an empty label (7.1.1), under a seed of 32 bytes."""
    digest = hashlib.sha256(b"").digest()
    data = digest + bytes(_BYTES - len(message) - 2 * len(digest) - 2) + b"\1" + message
    masked = _xor(data, _mgf1(seed, len(data)))
    encoded = b"\0" + _xor(seed, _mgf1(masked, len(seed))) + masked
    numbers = key.public_numbers()
    return pow(int.from_bytes(encoded, "big"), numbers.e, numbers.n).to_bytes(_BYTES, "big")


def _mgf1(seed: bytes, size: int) -> bytes:
    blocks = (hashlib.sha256(seed + counter.to_bytes(4, "big")).digest() for counter in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


# --- ML-KEM-768, FIPS 203 --------------------------------------------------------------------------------------------

_Q, _N, _K = 3329, 256, 3
_U_BITS, _V_BITS = 10, 4
_Polynomial = list[int]


def encapsulate(public_key: bytes, *, message: bytes) -> tuple[bytes, bytes]:
    """The secret and its ciphertext (algorithm 17), for 32 bytes of chance."""
    secret_and_chance = hashlib.sha3_512(message + hashlib.sha3_256(public_key).digest()).digest()
    return secret_and_chance[:32], _encrypt(public_key, message, secret_and_chance[32:])


def _encrypt(public_key: bytes, message: bytes, chance: bytes) -> bytes:
    """K-PKE.Encrypt (algorithm 14)."""
    size = _N * 12 // 8
    key = [_unpacked(public_key[place * size : (place + 1) * size], 12) for place in range(_K)]
    rho = public_key[_K * size :]
    noise = [_noise(chance, number) for number in range(2 * _K + 1)]
    secret = [_ntt(each) for each in noise[:_K]]
    columns = [[_uniform(rho + bytes([i, j])) for j in range(_K)] for i in range(_K)]
    first = [_sum(_inverse(_dot(columns[i], secret)), noise[_K + i]) for i in range(_K)]
    bits = [_round_up(bit) for bit in _unpacked(message, 1)]
    second = _sum(_sum(_inverse(_dot(key, secret)), noise[2 * _K]), bits)
    return b"".join(_compressed(each, _U_BITS) for each in first) + _compressed(second, _V_BITS)


def _round_up(bit: int) -> int:
    return bit * (_Q + 1) // 2


def _compressed(values: _Polynomial, bits: int) -> bytes:
    """4.7 and algorithm 5: each coefficient in so many bits."""
    rounded = (((value << bits) + _Q // 2) // _Q % (1 << bits) for value in values)
    return sum(value << place * bits for place, value in enumerate(rounded)).to_bytes(_N * bits // 8, "little")


def _unpacked(data: bytes, bits: int) -> _Polynomial:
    """Algorithm 6."""
    whole = int.from_bytes(data, "little")
    return [whole >> place * bits & (1 << bits) - 1 for place in range(_N)]


def _noise(chance: bytes, number: int) -> _Polynomial:
    """Algorithm 8 with eta = 2: the difference of two pairs of bits."""
    nibbles = _unpacked(hashlib.shake_256(chance + bytes([number])).digest(_N // 2), 4)
    return [(nibble & 3).bit_count() - (nibble >> 2).bit_count() for nibble in nibbles]


def _uniform(seed: bytes) -> _Polynomial:
    """Algorithm 7: 12-bit numbers of a stream, those below q."""
    stream = hashlib.shake_128(seed).digest(3 * _N)
    numbers = (number for place in range(0, len(stream), 3) for number in _pair(stream[place : place + 3]))
    values = [number for number in numbers if number < _Q][:_N]
    assert len(values) == _N, "a stream twice as long as needed was too short"
    return values


def _pair(three: bytes) -> tuple[int, int]:
    both = int.from_bytes(three, "little")
    return both & 0xFFF, both >> 12


def _reversed7(number: int) -> int:
    return int(f"{number:07b}"[::-1], 2)


_ZETAS = [pow(17, _reversed7(number), _Q) for number in range(128)]


def _blocks(size: int) -> Iterator[int]:
    return iter(range(0, _N, 2 * size))


def _ntt(values: _Polynomial) -> _Polynomial:
    """Algorithm 9."""
    out, zetas, size = list(values), iter(_ZETAS[1:]), _N // 2
    while size >= 2:
        for start in _blocks(size):
            zeta = next(zetas)
            for place in range(start, start + size):
                turned = zeta * out[place + size] % _Q
                out[place], out[place + size] = (out[place] + turned) % _Q, (out[place] - turned) % _Q
        size //= 2
    return out


def _inverse(values: _Polynomial) -> _Polynomial:
    """Algorithm 10."""
    out, zetas, size = list(values), iter(reversed(_ZETAS)), 2
    while size <= _N // 2:
        for start in _blocks(size):
            zeta = next(zetas)
            for place in range(start, start + size):
                one, other = out[place], out[place + size]
                out[place], out[place + size] = (one + other) % _Q, zeta * (other - one) % _Q
        size *= 2
    return [value * pow(_N // 2, -1, _Q) % _Q for value in out]


def _dot(one: list[_Polynomial], other: list[_Polynomial]) -> _Polynomial:
    """Products of polynomials in the transformed domain (algorithms 11 and 12), added up."""
    out = [0] * _N
    for a, b in zip(one, other, strict=True):
        for pair in range(_N // 2):
            low, high, zeta = 2 * pair, 2 * pair + 1, pow(17, 2 * _reversed7(pair) + 1, _Q)
            out[low] += a[low] * b[low] + a[high] * b[high] * zeta
            out[high] += a[low] * b[high] + a[high] * b[low]
    return [value % _Q for value in out]


def _sum(one: _Polynomial, other: _Polynomial) -> _Polynomial:
    return [(a + b) % _Q for a, b in zip(one, other, strict=True)]
