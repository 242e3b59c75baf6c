"""A FastAPI app that goes straight to one route: the smaller evil, kept where it can be deleted.

FastAPI's dispatch (three middlewares that have nothing to do, and a router of one route) takes 33
of the 153 microseconds that a review takes before TLS, and what is asked for over TLS, three
quarters of an idiomatic endpoint that answers a constant, is out of reach with it. The route is
there all the same: `FastAPI` in the place of `Direct` changes nothing but the time.
docs/decisions/0004 has the figures.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Direct(FastAPI):
    """FastAPI, and a `POST` route that needs none of its dispatch.

    Args:
        path: of the route.
        endpoint: an ASGI app, which answers.
        options: of FastAPI.
    """

    def __init__(self, path: str, endpoint: ASGIApp, **options: Any) -> None:
        super().__init__(**options)
        self._path = path
        self._endpoint = endpoint
        self.router.routes.append(Route(path, endpoint, methods=["POST"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI has it."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == self._path:
            await self._endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
