"""The HTTP side of a service: `/metrics`, `/healthz`, `/readyz`, and what the service adds."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Callable, Iterable

import fastapi
import uvicorn
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_schemas.errors import SettingError

__all__ = ["HttpServer", "is_closing", "make_app"]

_KEPT_ALIVE = 75
"""Seconds that an idle connection stays open: longer than a scraper rests, and than clients and load balancers (60)
keep theirs. Else both could end it in the same moment, and a request would meet a reset."""


def make_app(
    service: str,
    health: Health,
    families: Callable[[], Iterable[Metric]],
    routers: Iterable[fastapi.APIRouter] = (),
    may_show: Callable[[], bool] = lambda: True,
) -> fastapi.FastAPI:
    """The web application of one service.

    `families` gives all of its metrics, as they are now; `may_show` tells whether numbers that belong to the log
    may be shown now, `families` leaves them out if not.
    """
    exposition, one_scrape = Exposition(), threading.Lock()
    app = fastapi.FastAPI(title=f"hypervisor-telemetry {service}")

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: fastapi.Request) -> fastapi.Response:
        accept = request.headers.get("accept", "")
        with one_scrape:
            might_show = may_show()
            text, content_type = exposition.write(families(), accept)
            if might_show and not may_show():
                # The process may have been frozen in the middle, and the numbers be old by now.
                text, content_type = exposition.write(families(), accept)
        headers = {"vary": "accept, accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            text = gzip.compress(text, 1, mtime=0)
            headers["content-encoding"] = "gzip"
        return fastapi.Response(text, media_type=content_type, headers=headers)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> fastapi.Response:
        if health.is_alive:
            return fastapi.Response("ok\n", media_type="text/plain")
        return fastapi.Response(
            "stalled: the consumer loop has not turned for 30 s\n", 503, media_type="text/plain"
        )

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> fastapi.Response:
        troubles = health.troubles
        state = "degraded" if troubles else "ok" if health.is_ready else "restoring"
        body = "\n".join([state, *troubles]) + "\n"
        return fastapi.Response(body, 200 if health.is_ready else 503, media_type="text/plain")

    for router in routers:
        app.include_router(router)
    return app


def is_closing(app: fastapi.FastAPI) -> bool:
    """Whether its server is about to end: an answer without an end has to end, too."""
    asked: Callable[[], bool] | None = getattr(app.state, "is_closing", None)
    return asked is not None and asked()


class HttpServer:
    """Serves an application from a thread, bound when this returns; `url` is where.

    Raises:
        SettingError: The address can't be bound.
    """

    def __init__(self, app: fastapi.FastAPI, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise SettingError(
                "--port", f"{port} on {host} can't be used ({error}); choose another, 0 for any free one."
            ) from None
        # Its connections have it from here: asyncio sets it only where a socket names its protocol, and this one's
        # doesn't. Else the body of an answer waits for the client to acknowledge the head, for 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_keep_alive=_KEPT_ALIVE,
                timeout_graceful_shutdown=2,
            )
        )
        app.state.is_closing = lambda: self._server.should_exit
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Finish the requests under way (2 s at most) and let go of the port."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        with contextlib.suppress(OSError):
            self._socket.close()
