"""Posts of spans to one address of HTTP: connections kept alive, one try, no redirect."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from hypervisor_consumers.saga_spans.sinks.otlp_settings import TlsFiles
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from hypervisor_schemas.http_client import HttpAnswer, HttpClient, NoAnswer, NotTrusted, reason_of

__all__ = ["HttpPoster", "tls_context"]

_MAX_ANSWER_BYTES = 64 * 1024
"""The rest of an answer is not read: the reason stands in the first few hundred bytes."""


class HttpPoster:
    """Posts to one address.

    Args:
        url: The address, without user and password.
        receiver: The receiver, for people.
        headers: Sent with every request, by names in lower case.
        timeout_seconds: For connecting and for the answer together.
        tls: For an address of https.

    Raises:
        SettingError: The proxy that the environment names is no address.
    """

    def __init__(
        self,
        url: str,
        *,
        receiver: str,
        headers: Mapping[str, str],
        timeout_seconds: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url = url
        self._receiver = receiver
        self._http = HttpClient(
            timeout_seconds=timeout_seconds,
            headers=headers,
            keep_alive=True,
            tls=tls,
        )
        self._http.prepare(url)

    def post(self, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """Send, with these headers besides (in lower case), and wait for the answer; its body is cut.

        Raises:
            OutputUnavailable: There was none, or not in time.
        """
        try:
            return self._http.request(
                "POST", self._url, body=body, headers=headers, max_bytes=_MAX_ANSWER_BYTES, cut=True
            )
        except NotTrusted as error:
            raise OutputUnavailable(
                f"{self._receiver} can't be trusted or doesn't trust this client: {error}. "
                "The variables OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY and _CLIENT_CERTIFICATE name the files."
            ) from None
        except NoAnswer as error:
            raise OutputUnavailable(f"{self._receiver} can't be reached: {error}.") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


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
            setting, f"can't be used: {reason_of(error)}. Give PEM files without a password."
        ) from None
    return context
