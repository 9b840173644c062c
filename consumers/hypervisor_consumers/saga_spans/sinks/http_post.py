"""One POST of HTTP: connections kept alive, one try, no redirect, answers bounded in size and time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, SSLError

from hypervisor_consumers.saga_spans.otel import our_version
from hypervisor_consumers.saga_spans.sinks.otlp_settings import TlsFiles
from hypervisor_consumers.saga_spans.sinks.sanitize import in_one_line
from hypervisor_schemas.errors import OutputUnavailable, SettingError

__all__ = ["Answer", "HttpPoster", "retry_after", "tls_context"]

_READ_AT_MOST = 64 * 1024
"""Bytes of an answer; what says why is in the first few hundred."""

_LONGEST_WAIT = 3600.0


class Answer(NamedTuple):
    """What came back; header names in lower case, the body cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpPoster:
    """Posts to one address.

    A proxy is taken from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, as other programs do.

    Args:
        url: The address, without user and password.
        shown: The same for people.
        headers: Sent with every request, by names in lower case.
        timeout: Seconds that connecting may take, and after it the answer.
        context: TLS, for an address of https.

    Raises:
        SettingError: The proxy that the environment names is no address.
    """

    def __init__(
        self, url: str, *, shown: str, headers: Mapping[str, str], timeout: float, context: ssl.SSLContext | None
    ) -> None:
        self._url = url
        self._shown = shown
        self._headers = {"user-agent": f"hypervisor-telemetry/{our_version()}", **headers}
        self._timeout = timeout
        self._pool = _pool(url, context)

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send, with these headers besides (in lower case), and wait for the answer.

        Raises:
            OutputUnavailable: There was none, or not in time.
        """
        deadline = time.monotonic() + self._timeout
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers={**self._headers, **headers},
                timeout=urllib3.Timeout(self._timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                content = self._read(response, deadline)
            finally:
                # A connection whose answer wasn't read to its end can't be used again.
                response.close()
        except SSLError as error:
            raise OutputUnavailable(
                f"{self._shown} can't be trusted or doesn't trust this client: {_reason(error)}. "
                "The variables OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY and _CLIENT_CERTIFICATE name the files."
            ) from None
        except (HTTPError, OSError) as error:
            raise OutputUnavailable(f"{self._shown} can't be reached: {_reason(error)}.") from None
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        content = b""
        while len(content) < _READ_AT_MOST:
            piece = response.read1(_READ_AT_MOST - len(content))
            if not piece:
                break
            content += piece
            # The time-out is for each piece: an answer in drops would never end.
            if time.monotonic() > deadline:
                raise TimeoutError("the answer takes too long")
        return content

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS that trusts the given authorities, the system's without them, and shows the client's certificate.

    Raises:
        SettingError: A file can't be read or isn't what it should be.
    """
    contents = files.readable()
    setting = "OTEL_EXPORTER_OTLP_CERTIFICATE"
    try:
        trusted = contents.get("certificate")
        context = ssl.create_default_context(cadata=None if trusted is None else trusted.decode("ascii"))
        if files.client_certificate is not None:
            setting = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
            # A key with a password would ask at a terminal.
            context.load_cert_chain(files.client_certificate, files.client_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingError(
            setting, f"can't be used: {_reason(error)}. Give PEM files without a password."
        ) from None
    return context


def retry_after(text: str | None, now: float) -> float | None:
    """The seconds that a `Retry-After` asks for, an hour at most; None where it is absent or says nothing.

    Args:
        text: Seconds, or a date of HTTP.
        now: Seconds since 1970.
    """
    if text is None:
        return None
    try:
        seconds = float(text) if text.strip().isdecimal() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _pool(url: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(1, maxsize=1, ssl_context=context)
    variable = f"{parts.scheme}_proxy"
    try:
        proxy_parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        user = proxy_parts.username
        headers = (
            None if user is None else urllib3.make_headers(proxy_basic_auth=f"{user}:{proxy_parts.password or ''}")
        )
        address = proxy_parts._replace(netloc=proxy_parts.netloc.rpartition("@")[2]).geturl()
        return urllib3.ProxyManager(address, 1, proxy_headers=headers, maxsize=1, ssl_context=context)
    except (ValueError, LocationParseError, HTTPError):
        raise SettingError(variable, "names no proxy that can be used; give http://host:port.") from None


def _reason(error: BaseException) -> str:
    """What went wrong, in its innermost words."""
    inner = error
    while (cause := inner.__cause__ or inner.__context__) is not None and not isinstance(inner, OSError):
        inner = cause
    if isinstance(inner, TimeoutError) and not inner.args:
        return "timed out"
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    # What speaks no HTTP may be quoted here, byte for byte.
    return in_one_line(text).rstrip(".") or type(inner).__name__
