"""Two millionaires learn who is richer, and nothing else (Yao 1982). Inside an enclave, both values stay there.

The enclave proxy authenticates a user and adds the two X-OBLV headers. Without that proxy in front anyone can write
them: the application checks that they are there and cannot check that they are true.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request

DEFAULT_SETTINGS = "/usr/runtime.yaml"
CALL_SECONDS = 10


async def user_name(x_oblv_user_name: Annotated[str | None, Header()] = None) -> str:
    if not x_oblv_user_name:
        raise HTTPException(401, "expected the header X-OBLV-USER-NAME, got none: come through the enclave proxy")
    return x_oblv_user_name


async def user_role(x_oblv_user_role: Annotated[str | None, Header()] = None) -> str:
    if not x_oblv_user_role:
        raise HTTPException(401, "expected the header X-OBLV-USER-ROLE, got none: come through the enclave proxy")
    return x_oblv_user_role


async def submitted(request: Request) -> dict[str, int]:
    return request.app.state.values


User = Annotated[str, Depends(user_name)]
Role = Annotated[str, Depends(user_role)]
Values = Annotated[dict[str, int], Depends(submitted)]

# On the router, so that no route can forget to ask who is there.
router = APIRouter(dependencies=[Depends(user_name), Depends(user_role)])


@router.get("/hello")
async def hello(user: User, role: Role) -> str:
    return f"hello {user}, your role is {role}"


@router.get("/settings")
async def settings() -> Any:
    path = Path(os.environ.get("WORKSHOP_RUNTIME_CONFIG", DEFAULT_SETTINGS))
    if not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@router.get("/call")
async def call(url: str) -> str:
    import httpx  # here, so that the service starts without it where nothing may leave
    from workshop_kit.edges.egress_httpx import async_client  # here too: it needs httpx

    try:
        # It takes no proxy from the environment, which would see, and choose, where the request goes.
        async with async_client(follow_redirects=True, timeout=CALL_SECONDS) as client:
            return (await client.get(url)).text
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise HTTPException(408, str(error) or type(error).__name__) from error


# No `await` stands between the look and the entry, so two requests at once cannot both be the first.
@router.get("/submit_value")
async def submit_value(value: int, user: User, values: Values) -> str:
    if user in values:
        raise HTTPException(401, f"expected one value from {user}, got a second: the first one stands")
    values[user] = value
    return f"the value of {user} is in"


@router.get("/compare")
async def compare(values: Values) -> str:
    if len(values) != 2:
        raise HTTPException(409, f"expected values from exactly 2 users, got {len(values)}: submit first, then compare")
    first, second = sorted(values)
    sign = "<" if values[first] < values[second] else ">="
    return f"{first} {sign} {second}"


def make_app() -> FastAPI:
    """A service to which nobody has submitted a value yet. The manifest lists its routes, so it has no others."""
    app = FastAPI(title="Millionaires", openapi_url=None)
    app.state.values = {}
    app.include_router(router)
    return app


app = make_app()
