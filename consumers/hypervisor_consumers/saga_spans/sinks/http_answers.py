"""What an answer of HTTP to spans means: taken, come again later, or not all will ever be taken. Pure.

A receiver's trouble is not the spans': everything but a 4xx that speaks of this very request makes them wait, also
where OTLP's specification would let them go.
"""

from __future__ import annotations

from http import HTTPStatus

from hypervisor_consumers.saga_spans.sinks.bisect_rejects import NotAll
from hypervisor_consumers.saga_spans.sinks.http_post import Answer, retry_after
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["refusal"]

_TOO_LARGE = 413
_COME_AGAIN = {408, 425, 429}
_TO_BE_SET = {
    401: "it wants to know who asks: set {credentials}",
    403: "it doesn't allow this: check {credentials}",
    404: "it has no such address: check {endpoint}",
    405: "it is no receiver of spans: check {endpoint}",
    407: "the proxy wants to know who asks: set user and password in HTTP_PROXY or HTTPS_PROXY",
}
"""Not the spans' fault, and not over until somebody sets something: they wait for that."""


def refusal(
    answer: Answer, *, receiver: str, endpoint: str, credentials: str, reason: str, now: float
) -> NotAll | None:
    """None: it is a 2xx, all is taken as far as the status says.

    Args:
        answer: What came back.
        receiver: Its address, for people.
        endpoint: The setting that names it.
        credentials: The setting that holds them.
        reason: What the body says, one line; may be empty.
        now: Seconds since 1970.

    Raises:
        OutputUnavailable: It may be taken later.
    """
    status = answer.status
    if 200 <= status < 300:
        return None
    says = f"{receiver} answers {status} {_phrase(status)}"
    if advice := _TO_BE_SET.get(status):
        # The body is left out: it may repeat the credentials.
        advice = advice.format(credentials=credentials, endpoint=endpoint)
        raise OutputUnavailable(f"{says}; {advice}.", retry_after=_wait(answer, now))
    if 300 <= status < 400:
        raise OutputUnavailable(f"{says}: it is elsewhere; set {endpoint} to its own address.")
    says = f"{says}: {reason}" if reason else says
    if status in _COME_AGAIN or not 400 <= status < 500:
        raise OutputUnavailable(f"{says.rstrip('.')}.", retry_after=_wait(answer, now))
    return NotAll(f"{says.rstrip('.')}.", is_doubtful=status != _TOO_LARGE)


def _wait(answer: Answer, now: float) -> float | None:
    return retry_after(answer.headers.get("retry-after"), now)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no status of HTTP's own)"
