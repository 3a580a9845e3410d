"""``python -m wsstream.testing.upstream``: a provider that fails on demand, to try a server against by hand."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence

from wsstream.testing.upstream.faults import FAULTS, Load, serving
from wsstream.testing.upstream.server import Upstream


def make_parser() -> argparse.ArgumentParser:
    """The parser, with all faults in its help."""
    faults = "\n".join(f"  {name:14} {(fault.__doc__ or '').splitlines()[0]}" for name, fault in FAULTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m wsstream.testing.upstream",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A fake provider that speaks chat completions, Responses and Messages.\n"
        "A request may say otherwise by its model: fake:rate=R,tokens=N,fault=NAME,at=N",
        epilog=f"faults:\n{faults}",
    )
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second; 0 is as fast as they are read")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--fault", choices=FAULTS, default="none", metavar="NAME", help="how answers go wrong")
    parser.add_argument("--at", type=int, default=3, help="tokens before that")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 picks a free one")
    return parser


async def serve(load: Load, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    upstream = Upstream(serving(load))
    await upstream.start(port)
    print(f"upstream is ready: {upstream.url} (Anthropic's: {upstream.root})", flush=True)
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()
    await upstream.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    given = make_parser().parse_args(arguments)
    asyncio.run(serve(Load(given.rate, given.tokens, given.fault, given.at), given.port))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
