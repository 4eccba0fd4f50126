"""An app's own NSM: found where it is, in an enclave of each kind, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import running
from services import ASGI, make_service

from workshop_kit.edges.nsm_device import open_nsm
from workshop_kit.errors import LabError, NsmError
from workshop_kit.evidence import nsm_api
from workshop_kit.evidence.document import decode_unverified
from workshop_kit.simulator.isolation.levels import Level

APP = (
    ASGI
    + """
from workshop_kit.edges.nsm_device import open_nsm

async def answer(scope, receive):
    device = open_nsm()
    response = await device.request(await body_of(receive))
    return 200, [(b"x-device", str(os.path.exists("/dev/nsm")).encode())], response
"""
)


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.value)
def test_an_app_attests_by_itself_at_each_level(tmp_path: Path, level: Level) -> None:
    """Over a connection beside the proxy's own, with the API's bytes and its error codes."""
    with running(make_service(tmp_path / "service", APP, "/"), isolation=level) as enclave:
        if enclave.enclave.isolation.level is not level:
            pytest.skip(f"this machine gives no more: {enclave.enclave.isolation}")
        client = enclave.client()
        asked = client.post("/", content=nsm_api.encode_request("Attestation", user_data=b"chosen"))
        document = decode_unverified(nsm_api.decode_response(asked.content, "Attestation")["document"])
        assert (document.user_data, document.module_id) == (b"chosen", enclave.enclave.enclave_id)
        assert (asked.headers["x-device"] == "True") == (level is Level.NAMESPACES)
        refused = client.post("/", content=nsm_api.encode_request("ExtendPCR", index=0, data=b"x"))
        with pytest.raises(NsmError, match="ReadOnlyIndex"):
            nsm_api.decode_response(refused.content, "ExtendPCR")


def test_outside_an_enclave_there_is_none() -> None:
    with pytest.raises(LabError, match="expected an NSM, got none: this process runs in no enclave"):
        open_nsm()
