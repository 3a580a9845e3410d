"""Runs the same load through several gateways and compares what a token costs.

    python compare.py --streams 200 --rate 50 --seconds 15 --peers ws_node,wsstream,fastapi_sdk --rounds 3

One upstream serves all. Every round starts each gateway in turn (A B C, A B C), so that a slow minute of the machine
hits all of them. Each gateway is a fresh process on a free port of loopback, and gets the same client.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
YARDSTICK = "ws_node"
START_SECONDS = 15.0
STOP_SECONDS = 5.0
SLACK_SECONDS = 20.0  # what a run may take beyond its nominal length before it counts as failed
Result = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """One gateway: how to start it and what to speak with it."""

    name: str
    dialect: str
    command: Callable[[int, str], list[str]]


def node_peer(name: str, transport: str) -> Peer:
    server = str(HERE / "peers/ws_node/server.mjs")
    return Peer(
        name,
        "peer",
        lambda port, url: ["node", server, "--port", str(port), "--upstream", url, "--transport", transport],
    )


def fastapi_command(port: int, url: str) -> list[str]:
    return [sys.executable, str(HERE / "peers/fastapi_sdk/server.py"), "--port", str(port), "--upstream", url]


def wsstream_command(
    extra: list[str], store: str = "memory:", checkout: str = "", interpreter: str = sys.executable
) -> Callable[[int, str], list[str]]:
    def command(port: int, url: str) -> list[str]:
        # Without the second, `-m` would look in the directory it is started in before it looks in the checkout.
        python = ["env", f"PYTHONPATH={checkout or HERE.parent}", "PYTHONSAFEPATH=1", interpreter]
        serve = [*python, "-m", "wsstream", "serve", "--port", str(port), "--provider", "openai"]
        return [*serve, "--base-url", url, "--store", store.format(port=port), *extra]

    return command


def known_peers(wsstream_args: list[str], scratch: str, before: str, python: str) -> dict[str, Peer]:
    """Every gateway by name.

    ``ws_node`` is the cheaper of its two ways to call the upstream; ``before`` is another checkout of wsstream, and
    ``wsstream_python`` this one under another interpreter.
    """
    peers = [
        node_peer("ws_node", "http"),
        node_peer("ws_node_fetch", "fetch"),
        Peer("fastapi_sdk", "peer", fastapi_command),
        Peer("wsstream", "wsstream", wsstream_command(wsstream_args)),
        Peer("before", "wsstream", wsstream_command(wsstream_args, checkout=before)),
        Peer("wsstream_python", "wsstream", wsstream_command(wsstream_args, interpreter=python)),
        Peer("before_sqlite", "wsstream", wsstream_command(wsstream_args, f"sqlite:{scratch}/{{port}}.db", before)),
        Peer("wsstream_sqlite", "wsstream", wsstream_command(wsstream_args, f"sqlite:{scratch}/{{port}}.db")),
    ]
    return {peer.name: peer for peer in peers}


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, and its children: politely, then not."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"  pid {process.pid} ignored SIGTERM for {STOP_SECONDS:g} s and was killed", file=sys.stderr)
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    environment = {**os.environ, "OPENAI_API_KEY": "x", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=HERE.parent
        )
        try:
            yield process
        finally:
            stop(process)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the process is ready; show its last words if it never is."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.05)
    words = log.read_text(errors="replace")[-2000:]
    what = "ended" if process.poll() is not None else f"not ready within {START_SECONDS:g} s"
    raise RuntimeError(f"{what}: {' '.join(map(str, process.args))}\n{words}")  # type: ignore[arg-type]


def accepts(port: int) -> bool:
    """Does somebody listen there?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_client(peer: Peer, port: int, pids: tuple[int, int], options: argparse.Namespace) -> Result:
    """One load run in a process of its own."""
    limit = options.seconds + options.spread + SLACK_SECONDS
    tokens = max(1, round(options.rate * options.seconds)) if options.rate else options.tokens
    arguments = {
        "--url": f"ws://127.0.0.1:{port}/ws",
        "--dialect": peer.dialect,
        "--streams": options.streams,
        "--rate": options.rate,
        "--tokens": tokens,
        "--spread": options.spread,
        "--timeout": limit,
        "--gateway-pid": pids[0],
        "--upstream-pid": pids[1],
    }
    command = [sys.executable, str(HERE / "clients.py")]
    for name, value in arguments.items():
        command += [name, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit + 15, check=False)
    if done.returncode:
        raise RuntimeError(f"the load client failed:\n{done.stderr[-2000:]}")
    result: Result = json.loads(done.stdout)
    return result


def run_peer(peer: Peer, upstream: subprocess.Popen[bytes], url: str, options: argparse.Namespace) -> Result:
    """Start one gateway, load it, end it."""
    port = free_port()
    log = options.logs / f"{peer.name}.log"
    with running(peer.command(port, url), log) as gateway:
        wait_for(lambda: accepts(port), gateway, log)
        result = run_client(peer, port, (gateway.pid, upstream.pid), options)
        if result["errors"]:
            print(f"  {peer.name}: {result['errors']}\n{log.read_text(errors='replace')[-1000:]}", file=sys.stderr)
        return {"peer": peer.name, **result}


def run_rounds(peers: list[Peer], options: argparse.Namespace) -> list[Result]:
    """All rounds, the peers interleaved. A peer that fails costs its own line, not the others' results."""
    results = []
    log = options.logs / "upstream.log"
    with running([sys.executable, str(HERE / "upstream.py"), "--tick", str(options.tick)], log) as upstream:
        wait_for(lambda: b"listening" in log.read_bytes(), upstream, log)
        url = f"http://127.0.0.1:{log.read_text().rpartition(':')[2].strip()}/v1"
        for number in range(1, options.rounds + 1):
            for peer in peers:
                try:
                    result = run_peer(peer, upstream, url, options)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    result = {"peer": peer.name, "tokens": 0, "errors": {str(error): 1}}
                    print(f"round {number} {peer.name}: {error}", file=sys.stderr)
                results.append({"round": number, **result})
                print(f"round {number} {one_line(result)}", flush=True)
    return results


def one_line(result: Result) -> str:
    """What one run gave, for those who watch."""
    if "cpu_us_per_token" not in result:
        return f"{result['peer']:14} failed"
    cpu = {name: figures["total"] for name, figures in result["cpu_us_per_token"].items()}
    steady = "" if result["steady"] else ", NOT STEADY"
    return (
        f"{result['peer']:14} {cpu['gateway']:7.2f} us/token"
        f" (upstream {cpu['upstream']:.2f}, client {cpu['client']:.2f}),"
        f" {result['tokens_per_second']:.0f} tokens/s, {result['tokens_per_frame']:g} tokens/frame,"
        f" other load {result['other_load_cores']:g} cores{steady}"
    )


def look_up(result: Result, path: str) -> float:
    """``look_up(r, "latency_ms.p50")``."""
    value: Any = result
    for name in path.split("."):
        value = value[name]
    return float(value)


def median_of(results: list[Result], path: str) -> float:
    return statistics.median(look_up(result, path) for result in results)


def ratios(results: list[Result], peer: str) -> list[float]:
    """Cost relative to the yardstick, round by round: neighbours in time see the same machine."""
    cost = "cpu_us_per_token.gateway.total"
    yardstick = {result["round"]: look_up(result, cost) for result in results if result["peer"] == YARDSTICK}
    mine = [result for result in results if result["peer"] == peer and yardstick.get(result["round"])]
    return [look_up(result, cost) / yardstick[result["round"]] for result in mine]


COLUMNS = {
    "us/token": ("cpu_us_per_token.gateway.total", ".2f"),
    "user": ("cpu_us_per_token.gateway.user", ".2f"),
    "sys": ("cpu_us_per_token.gateway.sys", ".2f"),
    "p50 ms": ("latency_ms.p50", ".2f"),
    "p95 ms": ("latency_ms.p95", ".2f"),
    "p99 ms": ("latency_ms.p99", ".2f"),
    "TTFT p50": ("ttft_ms.p50", ".1f"),
    "TTFT p99": ("ttft_ms.p99", ".1f"),
    "tokens/s": ("tokens_per_second", ".0f"),
    "tok/frame": ("tokens_per_frame", ".2f"),
    "RSS MiB": ("rss_mib", ".0f"),
}


def table(results: list[Result], names: list[str]) -> str:
    """Medians over the rounds, one line per peer."""
    rows = [["peer", *COLUMNS, "us/token min-max", f"x {YARDSTICK}", "errors"]]
    for name in names:
        mine = [result for result in results if result["peer"] == name]
        good = [result for result in mine if "cpu_us_per_token" in result]
        errors = str(sum(sum(result["errors"].values()) for result in mine))
        if not good:
            rows.append([name, *["-"] * (len(COLUMNS) + 2), errors])
            continue
        costs = [look_up(result, "cpu_us_per_token.gateway.total") for result in good]
        relative = ratios(good + [result for result in results if result["peer"] == YARDSTICK != name], name)
        figures = [format(median_of(good, path), style) for path, style in COLUMNS.values()]
        ratio = f"{statistics.median(relative):.2f}" if relative else "-"
        rows.append([name, *figures, f"{min(costs):.2f}-{max(costs):.2f}", ratio, errors])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write_json(path: Path, options: argparse.Namespace, results: list[Result]) -> None:
    """Every figure of every run, for those who want to look closer."""
    load = {
        name: getattr(options, name) for name in ("streams", "rate", "seconds", "tokens", "rounds", "spread", "tick")
    }
    path.write_text(json.dumps({"load": load, "cores": os.cpu_count(), "runs": results}, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50, help="tokens a second of each stream; 0 = unpaced")
    parser.add_argument("--seconds", type=float, default=15, help="length of each stream")
    parser.add_argument("--tokens", type=int, default=2000, help="length of each stream when unpaced")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers",
        default="ws_node,wsstream,fastapi_sdk",
        help="also ws_node_fetch wsstream_sqlite before before_sqlite",
    )
    parser.add_argument("--spread", type=float, default=0, help="seconds over which the streams start; 0 = all at once")
    parser.add_argument(
        "--tick", type=float, default=0, help="seconds whose tokens the upstream sends together; 0 = each for itself"
    )
    parser.add_argument("--wsstream-args", default="", help="more options for wsstream serve, in one string")
    parser.add_argument("--before", default="", metavar="CHECKOUT", help="the wsstream that is the peer `before`")
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="the interpreter of the peer `wsstream_python`"
    )
    parser.add_argument("--json", type=Path, help="write every figure of every run here")
    return parser.parse_args()


def leave(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that every started process is ended."""
    raise SystemExit(143)


def main() -> None:
    options = parse_options()
    names = options.peers.split(",")
    if any(name.startswith("ws_node") for name in names) and not (HERE / "peers/ws_node/node_modules").is_dir():
        raise SystemExit("run `npm ci` in benchmarks/peers/ws_node first")
    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="wsstream-bench-") as logs:
        peers = known_peers(options.wsstream_args.split(), logs, options.before, options.python)
        if unknown := [name for name in names if name not in peers]:
            raise SystemExit(f"unknown peer {unknown[0]!r}; there are {', '.join(peers)}")
        options.logs = Path(logs)
        results = run_rounds([peers[name] for name in names], options)
    print(f"\nMedians of {options.rounds} rounds, {options.streams} streams of {options.rate:g} tokens/s")
    print(table(results, names))
    if options.json:
        write_json(options.json, options, results)


if __name__ == "__main__":
    main()
