"""The attested handshake against an attacker who owns the network: a search within bounds, and models for ProVerif.

    terms       what messages are made of            attacker    what Mallory makes of them
    search      every order of every move            story       an attack, told step by step
    handshake   names and rules of both profiles     seed, modern
    parties     a client's and an enclave's run      properties  what must hold
    variants    what is left out, one thing each     examine     a variant searched
    proverif    seed.pv, modern.pv, their variants, and what ProVerif says of them

SPEC.md, Shown to be safe, says what this shows and what it does not. `python -m workshop_kit.models` prints the table.
"""

from workshop_kit.models.examine import Result, Trace, examine
from workshop_kit.models.properties import Property
from workshop_kit.models.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Property", "Result", "Trace", "Variant", "examine"]
