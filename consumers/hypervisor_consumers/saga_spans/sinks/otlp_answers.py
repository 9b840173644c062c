"""Answers of OTLP receivers that took a request, or a part of it."""

from __future__ import annotations

import logging

from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection
from hypervisor_consumers.saga_spans.sinks.otlp_messages import parse_partial_success
from hypervisor_schemas.printable import printable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["partial_rejection"]


def partial_rejection(body: bytes, receiver: str, limited: RateLimitedLog) -> Rejection | None:
    """The rejection in the answer to a request that was taken; None where all of it was.

    A message without rejected spans, and an answer that isn't OTLP's, is logged. The specification has a partial
    success end the matter, with nothing sent again. It doesn't say which spans were refused, so halves are sent:
    ids are computed, and a span that comes twice is the same span.
    """
    partial = parse_partial_success(body)
    if partial is None:
        message = "%s answers, but not as OTLP does; its spans count as taken. Is it a receiver of OTLP?"
        limited.log(logging.WARNING, "strange", message, receiver)
        return None
    message = printable(partial.error_message, 300, as_line=True)
    if partial.rejected_spans > 0:
        return Rejection(f"{receiver} refuses it: {message or 'it says no more'}", partial.rejected_spans)
    if message:
        limited.log(logging.WARNING, "message", "%s says: %s", receiver, message)
    return None
