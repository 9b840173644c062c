"""A client of a service's web application in this process, without a port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
from fastapi import FastAPI

__all__ = ["Client"]


class Client:
    """A client whose requests are independent of each other."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def request(self, method: str, path: str, headers: Mapping[str, str | bytes] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, headers=dict(headers or {}))

        return asyncio.run(ask())

    def get(self, path: str, headers: Mapping[str, str | bytes] | None = None) -> httpx.Response:
        return self.request("GET", path, headers)
