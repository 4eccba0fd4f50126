"""A program: mutual TLS 1.3 and an echo, nothing more. Its argument is the folder of the certificates.

It runs on uvloop, as uvicorn does, and prints its port once it listens.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import uvloop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64):
            writer.write(data)
    except OSError:
        pass  # a client that has what it came for goes without a word
    finally:
        writer.close()


async def main(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "root.pem")
    context.load_cert_chain(folder / "server.pem")
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
