"""What `workshop bench` asks, in an enclave and under plain uvicorn: a few bytes, many bytes in, many bytes out."""

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

PIECE = os.urandom(64 * 1024)
PIECES_IN_A_MIB = 16

app = FastAPI()


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"ok": True}


@app.post("/sum")
async def count(request: Request) -> dict[str, int]:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return {"bytes": size}


@app.get("/blob")
async def blob(mib: int) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(mib * PIECES_IN_A_MIB):
            yield PIECE

    return StreamingResponse(pieces(), media_type="application/octet-stream")
