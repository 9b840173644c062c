"""Access to `/v1/*`: on loopback for everybody, elsewhere for holders of the token."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["bearer_access", "is_loopback", "require_token_off_loopback"]

_TOKEN = Settings.API_TOKEN.name
_scheme = HTTPBearer(auto_error=False, description=f"The service's {_TOKEN}, where one is set.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: 127.0.0.0/8, ::1, localhost. Names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_token_off_loopback(host: str, token: str | None) -> None:
    """Refuse to serve `/v1/*` on an address that others can reach, without a token.

    Raises:
        SettingError: `host` is not loopback and there is no token.
    """
    if not token and not is_loopback(host):
        raise SettingError(
            _TOKEN,
            f"must be set to serve on {host or 'every address'}; without a token, only loopback (127.0.0.1, ::1, "
            "localhost) is served.",
        )


def bearer_access(token: str | None) -> Callable[..., Awaitable[None]]:
    """A FastAPI dependency that lets a request pass if it carries `Authorization: Bearer <token>`.

    Without a token everybody passes; `require_token_off_loopback` sees to it that everybody is this machine.
    The request is answered with 401 otherwise.
    """
    if not token:
        return _everybody
    expected = token.encode()

    async def holder(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]) -> None:
        # Header bytes come as Latin-1.
        if given is None or not secrets.compare_digest(given.credentials.encode("latin-1"), expected):
            raise HTTPException(
                status_code=401,
                detail=f"This needs the header 'Authorization: Bearer <token>' with the service's {_TOKEN}.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return holder


async def _everybody() -> None:
    pass
