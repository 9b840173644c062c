"""What a receiver of OTLP that took a request says besides."""

from __future__ import annotations

import logging

from hypervisor_consumers.saga_spans.sinks.bisect_rejects import NotAll
from hypervisor_consumers.saga_spans.sinks.otlp_messages import partial_success
from hypervisor_consumers.saga_spans.sinks.sanitize import in_one_line
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["partly"]


def partly(body: bytes, receiver: str, limited: RateLimitedLog) -> NotAll | None:
    """None: it has taken all. What it only mentions, and an answer that isn't OTLP's, is logged.

    The specification has a partial success end the matter, with nothing sent again. Which spans were refused it
    doesn't say, so halves are sent: ids are computed, and what comes twice is the same span.
    """
    partial = partial_success(body)
    if partial is None:
        message = "%s answers, but not as OTLP does; its spans count as taken. Is it a receiver of OTLP?"
        limited.log(logging.WARNING, "strange", message, receiver)
        return None
    message = in_one_line(partial.error_message)
    if partial.rejected_spans > 0:
        return NotAll(f"{receiver} refuses it: {message or 'it says no more'}", partial.rejected_spans)
    if message:
        limited.log(logging.WARNING, "message", "%s says: %s", receiver, message)
    return None
