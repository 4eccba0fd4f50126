"""What the processes of an enclave and the hypervisor tell each other, beside what the NSM and the proxy are asked.

on the report's pipe     FORKED and a number, where the app's process is another one than was started; ISOLATED and
                         its isolation, before a line of the app; then READY; or why not
on standard input        what is handed in; GO, once whoever forked is gone
on the way out's socket  NETWORK with two descriptors, ALLOW with the manifest's allowlist, once each and before a
                         line of the app; WATCH with a filter's listener; and what the kit's client asks
"""

from __future__ import annotations

FORKED = b"forked "
GO = b"\n"
ISOLATED = b"isolated "
READY = b"ready\n"

NETWORK = b'{"network": true}'
"""With a name server's socket and a listener in the app's network."""

ALLOW = b'{"allow": '
"""How the message begins; pairs of a domain and a port follow."""

WATCH = b'{"watch": true}'
"""With the listener of a filter that asks about connections."""
