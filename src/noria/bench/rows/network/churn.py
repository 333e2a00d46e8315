"""TCP connections that live for one exchange: connect, send 64 bytes, receive them, close; 50 at a time.

The load ends a connection by a reset (load.c says why).
"""

from __future__ import annotations

from typing import Any

from ...row import Load, Service
from . import echo_protocol, echo_streams

LOAD = Load(connections=50, size=64, churn=True)

ROWS: list[Any] = [
    Service(
        key="churn_protocol",
        title="connect, 64 B, close: protocol",
        serve=echo_protocol.serve,
        load=LOAD,
        floor=True,
        unit="connection",
    ),
    Service(
        key="churn_streams",
        title="connect, 64 B, close: streams",
        serve=echo_streams.serve,
        trio=echo_streams.serve_with_trio,
        load=LOAD,
        floor=True,
        unit="connection",
    ),
]
