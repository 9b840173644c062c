"""Access to `/v1/*` of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from fastapi import Depends, FastAPI

from hypervisor_consumers.runtime.ops.auth import bearer_access, is_loopback, require_token_off_loopback
from hypervisor_schemas.errors import SettingError

LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost", "LocalHost"]
ELSEWHERE = [
    "0.0.0.0",
    "::",
    "",
    "10.0.0.7",
    "128.0.0.1",
    "fe80::1",
    "example.org",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "127.1",
]


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("token", [None, "", "s3cret"])
def test_loopback_is_served_with_or_without_a_token(host: str, token: str | None) -> None:
    assert is_loopback(host)
    require_token_off_loopback(host, token)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_elsewhere_is_served_with_a_token(host: str) -> None:
    assert not is_loopback(host)
    require_token_off_loopback(host, "s3cret")


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize("token", [None, ""])
def test_elsewhere_is_refused_without_a_token_in_a_sentence(host: str, token: str | None) -> None:
    with pytest.raises(SettingError) as raised:
        require_token_off_loopback(host, token)
    assert raised.value.setting == "TELEMETRY_API_TOKEN"
    sentence = str(raised.value)
    assert sentence.startswith(f"TELEMETRY_API_TOKEN must be set to serve on {host or 'every address'};")
    assert sentence.endswith(".")


class Client:
    """Asks an application in this process, without a port."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, headers: Mapping[str, str | bytes] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.get(path, headers=dict(headers or {}))

        return asyncio.run(ask())


def client_of(token: str | None, asked: list[str] | None = None) -> Client:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(bearer_access(token))])
    def answer() -> str:
        if asked is not None:
            asked.append("once")
        return "answer"

    return Client(app)


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer anything"}])
def test_without_a_token_everybody_passes(token: str | None, header: dict[str, str]) -> None:
    assert client_of(token).get("/", headers=header).json() == "answer"


def test_with_a_token_only_its_holder_reaches_the_handler() -> None:
    asked: list[str] = []
    client = client_of("s3cret", asked)
    refused = client.get("/", headers={"Authorization": "Bearer wrong"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert asked == []
    assert client.get("/", headers={"Authorization": "Bearer s3cret"}).json() == "answer"


@pytest.mark.parametrize("header", [b"Bearer \xff\xfe", b"Bearer " + b"x" * 8000, "Bearer s\u00e9cret".encode()])
def test_odd_bytes_in_the_header_are_a_wrong_token_not_an_error(header: bytes) -> None:
    assert client_of("s3cret").get("/", headers={"Authorization": header}).status_code == 401


def test_the_api_description_names_the_bearer_scheme() -> None:
    schemes = client_of("s3cret").get("/openapi.json").json()["components"]["securitySchemes"]
    assert schemes["HTTPBearer"]["scheme"] == "bearer"
    assert "TELEMETRY_API_TOKEN" in schemes["HTTPBearer"]["description"]
