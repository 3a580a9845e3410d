"""Asks one question and prints the answer as it comes, across lost connections.

    python clients/python/chat.py "Why is the sky blue?"

WSSTREAM_URL names a server that is not on this machine's port 8765.
"""

import asyncio
import os
import sys

from wsstream.client import connect
from wsstream.errors import WsstreamError

URL = os.environ.get("WSSTREAM_URL", "ws://127.0.0.1:8765/ws")


async def main(question: str) -> int:
    try:
        async with connect(URL) as client:
            stream = await client.chat(question)
            async for text in stream:
                print(text, end="", flush=True)
    except WsstreamError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    if stream.outcome is not None:
        print(f"\n-- {stream.outcome.tokens_per_second:.0f} tokens/s, resumed {stream.resumes} times", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(" ".join(sys.argv[1:]) or "What can you do?")))
