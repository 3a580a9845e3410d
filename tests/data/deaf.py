"""A process of clients that ask and then neither read nor acknowledge: ``python deaf.py PORT COUNT MODEL SESSION``.

With a SESSION all of them follow its one answer, otherwise each has its own. It says ``ready`` when all of them have
asked, and stays until its stdin is closed. Receive buffers are as small as they get: they are this side's memory.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from tests.native import UPGRADE, frame


async def ask(port: int, session: str, model: str, number: int) -> socket.socket:
    """Connect and ask; all that comes back stays where it is."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    hello = {"type": "hello", "session_id": session or f"deaf-{number}"}
    request = {"type": "chat_request", "request_id": "r", "message": "hi", "model": model}
    await loop.sock_sendall(sock, UPGRADE + b"".join(frame(1, json.dumps(m).encode()) for m in (hello, request)))
    return sock


async def main(port: int, count: int, model: str, session: str) -> None:
    """Ask with everybody, then wait."""
    socks = []
    for number in range(count):
        socks.append(await ask(port, session, model, number))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for sock in socks:
        sock.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
