"""For applications: frames in, results out, through the daemon.

    with Client() as client:
        result = client.infer(frame, top_k=5)  # uint8 [height, width, 3]
        print(result.decoded[0]["label"], result.latency_us)

`AsyncClient` has the same methods as coroutines. docs/clients.md shows more.
"""

from piqi_runtime.client.aio import AsyncClient
from piqi_runtime.client.messages import ClientError, ConnectionLost, DaemonError, Result, TimedOut
from piqi_runtime.client.sync import Client

__all__ = ["AsyncClient", "Client", "ClientError", "ConnectionLost", "DaemonError", "Result", "TimedOut"]
