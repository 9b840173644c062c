"""The HTTP client of this project: answers bounded in time and size, one try, no secrets in errors.

urllib3 does the work. It is imported with the first request: most agents never make one. A redirect is an answer
like others, unless the caller allows some; then it is followed within the origin alone. A proxy is taken from
`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, as other programs do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.printable import printable
from hypervisor_schemas.version import user_agent

if TYPE_CHECKING:
    import ssl

    import urllib3

__all__ = ["HttpAnswer", "HttpClient", "HttpStream", "NoAnswer", "NotTrusted", "reason_of", "retry_after_seconds"]

MAX_BODY_BYTES = 128 * 1024 * 1024
"""The most bytes of an answer, unless the caller says otherwise."""

_MAX_LINE_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_MAX_RETRY_AFTER_SECONDS = 3600.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class NoAnswer(OSError):
    """No answer came, or not in time, or it is larger than allowed; the text says why, without a secret."""


class NotTrusted(NoAnswer):
    """TLS failed: one side doesn't trust the other."""


class HttpAnswer(NamedTuple):
    """An answer that was read; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Sends requests, each once. Threads may share it, unless it keeps connections.

    Args:
        timeout_seconds: For connecting and for the answer together; an answer that comes in drops may take twice
            as long.
        headers: Sent with every request.
        keep_alive: Whether connections are kept for the next request. Then all requests go to one address, and
            a process that was forked must not use the client.
        tls: TLS for addresses of https; by default it trusts the system's authorities.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        headers: Mapping[str, str] = _NO_HEADERS,
        keep_alive: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._headers = {"user-agent": user_agent(), **headers}
        if not keep_alive:
            self._headers["connection"] = "close"
        self._keep_alive = keep_alive
        self._tls = tls
        self._kept_pool: urllib3.PoolManager | None = None

    def prepare(self, url: str) -> None:
        """Make ready for requests to `url`, so that a wrong proxy is known before the first one.

        Raises:
            SettingError: The proxy that the environment names is no address.
        """
        pool = self._new_pool(url)
        if self._keep_alive:
            self._kept_pool = pool

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        timeout_seconds: float | None = None,
        max_bytes: int = MAX_BODY_BYTES,
        cut: bool = False,
        redirects: int = 0,
    ) -> HttpAnswer:
        """The answer, whatever its status.

        Args:
            method: `GET`, `POST` and so on.
            url: Without user and password.
            body: The content to send.
            headers: Sent besides the client's own; they win.
            timeout_seconds: In place of the client's.
            max_bytes: The most bytes of the answer's body.
            cut: Whether a longer body is cut; else it is an error.
            redirects: How many redirects of a GET are followed at most, within the origin of `url`.

        Raises:
            NoAnswer: There was none, not in time, or a larger one.
        """
        deadline = time.monotonic() + (self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        while True:
            left_seconds = max(deadline - time.monotonic(), 0.001)
            with self._opened(method, url, body, headers, {"total": left_seconds}) as response:
                content = _read(response, deadline, max_bytes, cut=cut)
                answer = HttpAnswer(response.status, _lower(response.headers), content)
            target = _same_origin_target(url, answer) if redirects > 0 and method == "GET" else None
            if target is None:
                return answer
            url, redirects = target, redirects - 1

    @contextlib.contextmanager
    def stream(self, url: str, headers: Mapping[str, str], silence_seconds: float) -> Iterator[HttpStream]:
        """The answer to `GET url`, to be read line by line, for as long as the other side sends.

        Raises:
            NoAnswer: None began within `silence_seconds`.
        """
        each = {"connect": silence_seconds, "read": silence_seconds}
        with self._opened("GET", url, None, headers, each) as response:
            yield HttpStream(response)

    def close(self) -> None:
        """Close the connections that are kept."""
        pool, self._kept_pool = self._kept_pool, None
        if pool is not None:
            pool.clear()

    @contextlib.contextmanager
    def _opened(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: Mapping[str, float],
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to one request, its body not yet read; `timeouts` as of `urllib3.Timeout`."""
        import urllib3  # noqa: PLC0415 - with the first request

        with _translated():
            pool = self._pool(url)
            response = pool.request(
                method,
                url,
                body=body,
                headers={**self._headers, **headers},
                timeout=urllib3.Timeout(**timeouts),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        try:
            yield response
        finally:
            # A connection whose answer wasn't read to its end can't be used again.
            response.close()
            if not self._keep_alive:
                pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        if not self._keep_alive:
            return self._new_pool(url)
        if self._kept_pool is None:
            self._kept_pool = self._new_pool(url)
        return self._kept_pool

    def _new_pool(self, url: str) -> urllib3.PoolManager:
        import urllib3  # noqa: PLC0415 - with the first request
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        if self._tls is None and url.startswith("https:"):
            import ssl  # noqa: PLC0415

            self._tls = ssl.create_default_context()
        proxy = _proxy_of(url)
        if proxy is None:
            return urllib3.PoolManager(1, maxsize=1, ssl_context=self._tls)
        try:
            parts = urlsplit(proxy)
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers = None if parts.username is None else urllib3.make_headers(proxy_basic_auth=pair)
            address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            return urllib3.ProxyManager(address, 1, proxy_headers=headers, maxsize=1, ssl_context=self._tls)
        except (ValueError, HTTPError):
            variable = f"{urlsplit(url).scheme}_proxy"
            raise SettingError(variable, "names no proxy that can be used; give http://host:port.") from None


class HttpStream:
    """An answer that is read while it comes."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = _lower(response.headers)
        self._response = response

    def read(self, max_bytes: int) -> bytes:
        """At most so many bytes of the body.

        Raises:
            NoAnswer: The connection was lost or is silent for too long.
        """
        return _read(self._response, None, max_bytes, cut=True)

    def lines(self) -> Iterator[bytes]:
        """Every line that was ended by a line feed, without it, until the other side closes the answer.

        Raises:
            NoAnswer: The connection was lost or is silent for too long, or a line has no end.
        """
        rest = b""
        while piece := _piece(self._response, _PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if len(rest) > _MAX_LINE_BYTES:
                raise NoAnswer(f"a line is longer than {_MAX_LINE_BYTES} bytes")


def retry_after_seconds(header: str | None) -> float | None:
    """The seconds that a `Retry-After` asks for, an hour at most; None where it is absent or says nothing."""
    from urllib3 import Retry  # noqa: PLC0415 - there is no header without a request
    from urllib3.exceptions import InvalidHeader  # noqa: PLC0415

    if header is None:
        return None
    try:
        seconds = Retry().parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return float(min(seconds, _MAX_RETRY_AFTER_SECONDS))


def reason_of(error: BaseException) -> str:
    """The innermost reason of an error, as one line."""
    inner = error
    while not isinstance(inner, OSError):
        cause = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)
        if cause is None:
            break
        inner = cause
    if isinstance(inner, TimeoutError) and not inner.args:
        return "timed out"
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    # An answer that is no HTTP may be quoted here, byte for byte.
    return printable(text, 300, as_line=True).rstrip(".") or type(inner).__name__


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of urllib3 and of sockets, as `NoAnswer`."""
    from urllib3.exceptions import HTTPError, LocationValueError, SSLError  # noqa: PLC0415

    try:
        yield
    except SettingError as error:
        raise NoAnswer(str(error).rstrip(".")) from None
    except SSLError as error:
        raise NotTrusted(reason_of(error)) from None
    except LocationValueError:
        # Its own text quotes the address.
        raise NoAnswer("the address can't be used") from None
    except (HTTPError, OSError) as error:
        raise NoAnswer(reason_of(error)) from None
    except ValueError:
        # Its own text quotes the header, which may be a token.
        raise NoAnswer("the address or a header holds a character that HTTP doesn't allow") from None


def _read(response: urllib3.BaseHTTPResponse, deadline: float | None, max_bytes: int, *, cut: bool) -> bytes:
    pieces: list[bytes] = []
    left = max_bytes if cut else max_bytes + 1
    while left and (piece := _piece(response, left)):
        pieces.append(piece)
        left -= len(piece)
        # The time-out is for each piece: an answer in drops would never end.
        if deadline is not None and time.monotonic() > deadline:
            raise NoAnswer("the answer takes too long")
    if not left and not cut:
        raise NoAnswer(f"the answer is larger than {max_bytes} bytes")
    return b"".join(pieces)


def _piece(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    with _translated():
        return response.read1(min(max_bytes, _PIECE_BYTES))


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _same_origin_target(url: str, answer: HttpAnswer) -> str | None:
    """The address that a redirect leads to, if it is one and stays within the origin of `url`."""
    location = answer.headers.get("location")
    if answer.status not in _REDIRECTS or location is None:
        return None
    try:
        target = urljoin(url, location)
        same = _origin(target) == _origin(url) and "@" not in urlsplit(target).netloc
    except ValueError:
        return None
    return target if same else None


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _proxy_of(url: str) -> str | None:
    """The address of the proxy that the environment names for `url`."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - with the first request

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
