"""A service on an ordinary server: the way that pages show first, and take back."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import httpx

from workshop_kit.edges.serving import BackgroundServer, bind
from workshop_kit.errors import LabError


class OrdinaryServer:
    """A service's app without enclave, proxy or attestation, with the memory that its operator can read.

    Args:
        folder: a service folder of the built-in base.
    """

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("ordinary_app", folder / "src" / "app.py")
        if spec is None or spec.loader is None:
            raise LabError(f"expected src/app.py in {folder}, got none")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._app = module.make_app()
        self._server = BackgroundServer(self._app, bind(0))
        self._client = httpx.Client(base_url=self._server.url)

    def get(self, path: str, *, user: str, role: str = "querier") -> Any:
        """Send a request that says it is `user`'s. Nothing checks whether it is."""
        headers = {"X-OBLV-USER-NAME": user, "X-OBLV-USER-ROLE": role}
        return self._client.get(path, headers=headers).json()

    def memory(self) -> dict[str, int]:
        """What the operator finds in the process's memory."""
        return dict(self._app.state.values)

    def close(self) -> None:
        self._client.close()
        self._server.close()
