"""The image, built and run as compose runs it: by buildah and podman, on a base that is made here."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.containers import BASE, IMAGE, build, container, inside, logs, need_containers, podman, stop
from tests.deploy.tools import DEPLOY, MARKS, attempt, python, run, tool, wait_for

yaml = pytest.importorskip("yaml")
pytestmark = MARKS

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "docker" / "compose.yml"
METRICS = (
    """python -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:9765/metrics").read().decode())'"""
)
SIZE = 130
"""Mebibytes that the environment in the image may have: it was 105 with Python 3.11's wheels."""


def test_the_dockerfile_is_well_written() -> None:
    """Hadolint has nothing to say."""
    assert run(tool("hadolint"), DOCKERFILE) == ""


def test_compose_is_compose() -> None:
    """The file is one by the schema of the Compose specification."""
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout."""
    need_containers()
    return build(IMAGE, DOCKERFILE, PYTHON=BASE)


@pytest.fixture
def volume() -> Iterator[str]:
    """An empty volume."""
    name = run(*podman(), "volume", "create").strip()
    yield name
    run(*podman(), "volume", "rm", "--force", name)


def as_composed(volume: str) -> tuple[str, ...]:
    """What compose says of the server, as podman is told."""
    said: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["wsstream"]
    options = ["--read-only"] if said["read_only"] else []
    options += [f"--tmpfs={path}" for path in said["tmpfs"]]
    options += [f"--cap-drop={right}" for right in said["cap_drop"]]
    options += [f"--security-opt={option.removesuffix(':true')}" for option in said["security_opt"]]
    options += [f"--env={name}={value}" for name, value in said["environment"].items() if value is not None]
    options += [f"--publish=127.0.0.1::{port.rpartition(':')[2]}" for port in said["ports"]]
    options += [f"--volume={volume}:{place.partition(':')[2]}" for place in said["volumes"]]
    files = said["ulimits"]["nofile"]
    return (*options, f"--memory={said['mem_limit']}", f"--ulimit=nofile={files}:{files}")


def healthy(name: str) -> bool:
    """Whether the image's own health check is content."""
    return attempt(*podman(), "healthcheck", "run", name).returncode == 0


def address(name: str, port: int = 8765) -> str:
    """Where a port of a container's server is from outside."""
    return f"http://{run(*podman(), 'port', name, str(port)).strip()}"


def fetch(url: str, body: dict[str, Any] | None = None) -> bytes:
    """What is there."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def ask(tokens: int) -> dict[str, Any]:
    """A question, and how much is to be said."""
    return {"model": f"demo:rate=0,tokens={tokens}", "messages": [{"role": "user", "content": "x"}]}


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Somebody who reads a long answer, for as long as the block."""
    body = json.dumps({**ask(0), "model": "demo:rate=20,tokens=5000", "stream": True}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.readline().startswith(b"data:")
        yield


def test_it_serves_as_compose_has_it(image: str, volume: str) -> None:
    """Without rights, on a file system to read only, it serves page and answers, and knows its bound on memory."""
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        assert b"<!doctype html" in fetch(f"{address(name)}/").lower()[:200]
        assert b"content" in fetch(f"{address(name)}/v1/chat/completions", ask(20))
        assert inside(name, "id -u; id -g").split() == ["10001", "10001"]
        assert inside(name, "tr '\\0' ' ' < /proc/1/cmdline").strip() == "python -m wsstream"
        assert inside(name, "touch /opt/x /etc/x 2>/dev/null || echo no").strip() == "no"
        inside(name, "touch /data/x /tmp/x")
        assert "wsstream_memory_limit_bytes 1.073741824e+09" in inside(name, METRICS)


def test_the_programs_beside_the_server_reach_it(image: str, volume: str) -> None:
    """From the machine that compose publishes it to, one can chat, load it with as many as usual, and watch it."""
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        wire = f"{address(name).replace('http', 'ws')}/ws"
        assert run(python(), *f"-m wsstream chat --url {wire} --model demo:rate=0,tokens=30 x".split()).strip()
        said = run(python(), *f"-m wsstream bench --url {wire} --rate 5 --seconds 4 --quiet".split())
        assert "100 complete, 0 failed" in said
        watched = run(python(), *f"-m wsstream top --once --url {address(name, 9765)}/metrics".split())
        assert ": ready" in watched
        assert ": ready" in inside(name, "python -m wsstream top --once")


def test_no_page_comes_in_by_a_name_of_its_own(image: str, volume: str) -> None:
    """As compose has it, whoever calls by a foreign name is refused, with an origin and without, and others are not."""
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        models = f"{address(name)}/v1/models"
        port = address(name).rpartition(":")[2]
        for host in ("localhost", "127.0.0.1", "wsstream"):
            assert status(models, Host=f"{host}:{port}", Origin=f"http://{host}:{port}") == 200
        evil = f"evil.example:{port}"
        assert status(models, Host=evil) == status(models, Host=evil, Origin=f"http://{evil}") == 403


def status(url: str, **headers: str) -> int:
    """What somebody with these headers is told."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_it_leaves_in_time_and_comes_back(image: str, volume: str) -> None:
    """Told to stop while it answers, it drains and ends with 0 in time, and the next one has its answers."""
    grace = int(yaml.safe_load(COMPOSE.read_text())["services"]["wsstream"]["stop_grace_period"].rstrip("s"))
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        fetch(f"{address(name)}/v1/chat/completions", ask(20))
        with reading(f"{address(name)}/v1/chat/completions"):
            assert stop(name, grace) == 0, logs(name)
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        assert json.loads(fetch(f"{address(name)}/healthz"))["retained_streams"] == 2


def test_a_server_that_hangs_is_unhealthy(image: str, volume: str) -> None:
    """The health check finds a process that is there and does nothing."""
    with container(image, *as_composed(volume)) as name:
        wait_for(lambda: healthy(name), 30, lambda: logs(name))
        run(*podman(), "kill", "--signal", "STOP", name)
        assert not healthy(name)
        run(*podman(), "kill", "--signal", "CONT", name)
        wait_for(lambda: healthy(name), 30, lambda: logs(name))


def test_an_image_alone_says_what_it_wants(image: str) -> None:
    """Run with nothing, it does not let in everybody: it ends with 2 and says what to set."""
    done = attempt(*podman(), "run", "--rm", "--ulimit", "nproc=4096:4096", "--ulimit", "nofile=1024:1024", image)
    assert done.returncode == 2
    assert "--allow-anonymous" in done.stdout


def test_no_tool_of_the_build_is_left(image: str, volume: str) -> None:
    """The environment has no installer, its sources are not there, and it is not larger than it need be."""
    with container(image, *as_composed(volume)) as name:
        assert inside(name, "ls /opt/wsstream/bin | grep -E '^(pip|wheel|hatch)' || true") == ""
        assert inside(name, "ls -d /src 2>/dev/null || true") == ""
        assert int(inside(name, "du -sm /opt/wsstream").split()[0]) < SIZE
