"""The meaning of an HTTP answer to spans: taken, come again later, or not all will ever be taken.

The receiver's trouble is not the spans' fault: they wait for every error but a 4xx that is about this very request,
also where OTLP's specification would let them go.
"""

from __future__ import annotations

from http import HTTPStatus

from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.http_client import HttpAnswer, retry_after_seconds

__all__ = ["rejection_of"]

_TOO_LARGE = 413
_TRY_LATER = {408, 425, 429}
_TO_BE_SET = {
    401: "it wants to know who asks: set {credentials}",
    403: "it doesn't allow this: check {credentials}",
    404: "it has no such address: check {endpoint}",
    405: "it is no receiver of spans: check {endpoint}",
    407: "the proxy wants to know who asks: set user and password in HTTP_PROXY or HTTPS_PROXY",
}
"""Errors that last until somebody changes a setting; they are not the spans' fault, which wait for it."""


def rejection_of(
    answer: HttpAnswer, *, receiver: str, endpoint: str, credentials: str, reason: str
) -> Rejection | None:
    """The rejection that an answer means; None for a 2xx: all is taken, as far as the status says.

    Args:
        answer: The receiver's answer.
        receiver: The receiver, for people.
        endpoint: The setting that names its address.
        credentials: The setting that holds the credentials.
        reason: The reason that the body gives, one line; may be empty.

    Raises:
        OutputUnavailable: It may be taken later.
    """
    status = answer.status
    if 200 <= status < 300:
        return None
    sentence = f"{receiver} answers {status} {_phrase(status)}"
    retry_after = retry_after_seconds(answer.headers.get("retry-after"))
    if advice := _TO_BE_SET.get(status):
        # The body is left out: it may repeat the credentials.
        advice = advice.format(credentials=credentials, endpoint=endpoint)
        raise OutputUnavailable(f"{sentence}; {advice}.", retry_after=retry_after)
    if 300 <= status < 400:
        raise OutputUnavailable(f"{sentence}: it is elsewhere; set {endpoint} to its own address.")
    sentence = f"{sentence}: {reason}" if reason else sentence
    if status in _TRY_LATER or not 400 <= status < 500:
        raise OutputUnavailable(f"{sentence.rstrip('.')}.", retry_after=retry_after)
    return Rejection(f"{sentence.rstrip('.')}.", is_doubtful=status != _TOO_LARGE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no status of HTTP's own)"
