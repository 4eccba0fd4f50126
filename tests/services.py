"""Small services made to order in a test's folder, for what the demonstration service does not do."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

MANIFEST = """\
auth: [{{auth_name: users, auth_type: signed_headers}}]
base_image: workshop_asgi
paths:
{paths}
roles:
  - {{role_name: querier, role_auth: users, role_cardinality: 3}}
  - {{role_name: auditor, role_auth: users, role_cardinality: 3}}
traffic: {{inbound: [{{name: http, port: 80, type: tcp}}]}}
"""


def make_service(folder: Path, app: str, *paths: str) -> Path:
    """A folder whose src/app.py is `app` and whose manifest opens `paths`, to queriers unless it says `/a=auditor`."""
    listed = [path.partition("=") for path in paths or ("/",)]
    rules = "\n".join(f"  - {{path: {path}, access: {access or 'querier'}}}" for path, _, access in listed)
    (folder / ".oblivious").mkdir(parents=True)
    (folder / "src").mkdir()
    (folder / ".oblivious/service.yaml").write_text(MANIFEST.format(paths=rules))
    (folder / "src/app.py").write_text(app)
    return folder


ASGI = """\
import json, os, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    status, headers, body = await answer(scope, receive)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

async def body_of(receive):
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)

def as_json(value):
    body = json.dumps(value).encode()
    return 200, [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())], body

"""
"""The frame of an application: `answer(scope, receive)` is to be added, and gives status, headers and body."""


def write_wheel(directory: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel of `files`, made by hand: a zip with three more files (the binary distribution format, PEP 427)."""
    info = f"{name}-{version}.dist-info"
    contents = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(_record(path, text, hashlib.sha256(text.encode()).digest()) for path, text in contents.items())
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in (contents | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            archive.writestr(path, text)
    return wheel


def _record(path: str, text: str, digest: bytes) -> str:
    encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return f"{path},sha256={encoded},{len(text.encode())}\n"
