"""Opens TCP sockets that say nothing, and waits for the other side to close them all.

``python -m tests.data.silent PORT COUNT`` prints a line when all are open, and one with how many were closed at the end
of its input, or when all are.
"""

from __future__ import annotations

import asyncio
import resource
import sys

AT_ONCE = 200
"""Connections being made at the same time."""
SPARE = 64
PATIENCE = 120.0


async def silent(port: int) -> asyncio.StreamReader:
    """One socket; its writer lives as long as it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reader.kept = writer  # type: ignore[attr-defined]
    return reader


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the server has closed it."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await reader.read() == b""
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        reader.kept.close()  # type: ignore[attr-defined]


async def main(port: int, count: int) -> None:
    """Open, tell, wait, tell."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + SPARE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    readers: list[asyncio.StreamReader] = []
    waiting: list[asyncio.Task[bool]] = []
    for begin in range(0, count, AT_ONCE):
        opened = await asyncio.gather(*(silent(port) for _ in range(begin, min(count, begin + AT_ONCE))))
        readers += opened
        waiting += [asyncio.ensure_future(closed(reader)) for reader in opened]
    print(len(readers), flush=True)
    print(sum(await asyncio.gather(*waiting)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
