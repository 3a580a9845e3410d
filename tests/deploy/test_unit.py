"""The systemd unit, read by systemd and run by it, with all its restrictions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import BASE, IMAGE, build, container, inside, need_containers
from tests.deploy.tools import DEPLOY, MARKS, ROOT, python, run, tool, wait_for

pytestmark = MARKS

UNIT = DEPLOY / "systemd" / "wsstream.service"
EXPOSURE = 1.5
"""Of ten, as systemd counts what a service could do; 1.4 with what is there."""
MACHINE = "localhost/wsstream-systemd-check"
ASK = """
import json, urllib.request as u
body = {"model": "demo:rate=0,tokens=50", "messages": [{"role": "user", "content": "x"}]}
where, headers = "http://127.0.0.1:8765/v1/chat/completions", {"Content-Type": "application/json"}
asked = u.Request(where, json.dumps(body).encode(), headers)
print(len(u.urlopen(asked, timeout=10).read()))
"""


def test_systemd_reads_it(tmp_path: Path) -> None:
    """There is no word in it that systemd does not know."""
    command = tool("systemd-analyze")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/wsstream/bin/python", python()))
    assert run(command, "verify", copy) == ""


def test_it_can_do_little() -> None:
    """Systemd's own count of what the service could do stays low."""
    said = run(tool("systemd-analyze"), "security", "--offline=true", UNIT)
    found = re.search(r"Overall exposure level for wsstream.service: ([\d.]+)", said)
    assert found
    assert float(found[1]) <= EXPOSURE


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of a machine with the unit."""
    need_containers()
    build(IMAGE, DEPLOY / "docker" / "Dockerfile", PYTHON=BASE)
    nothing = tmp_path_factory.mktemp("ignore") / "nothing"
    nothing.touch()
    return build(MACHINE, ROOT / "tests" / "deploy" / "systemd.containerfile", nothing, IMAGE=IMAGE, BASE=BASE)


@pytest.fixture
def machine(installed: str) -> Iterator[str]:
    """It, booted."""
    options = ("--systemd=always", "--privileged", "--network=none", "--ulimit=nofile=20000:20000")
    with container(installed, *options) as name:
        yield name


def status(machine: str) -> dict[str, str]:
    """What systemd knows of the service."""
    wanted = "ActiveState,NRestarts,MainPID,Result,ExecMainCode,ExecMainStatus,UID"
    said = inside(machine, f"systemctl show wsstream -p {wanted} 2>&1 || true")
    return dict(line.partition("=")[::2] for line in said.splitlines())


def journal(machine: str) -> str:
    """What the service has said."""
    return inside(machine, "journalctl -u wsstream --no-pager -o cat 2>&1 || true")


def serves(machine: str) -> bool:
    """Whether the server of now says that it is ready."""
    probe = "import urllib.request as u; u.urlopen('http://127.0.0.1:9765/readyz', timeout=2)"
    return "yes" in inside(machine, f'/opt/wsstream/bin/python -c "{probe}" 2>/dev/null && echo yes || true')


def test_systemd_runs_it(machine: str) -> None:
    """Under all its restrictions the service answers, reloads, comes back when killed, and drains when stopped."""
    wait_for(lambda: serves(machine), 60, lambda: journal(machine))
    asked = f"/opt/wsstream/bin/python -c '{ASK}'"
    assert int(inside(machine, asked)) > 100
    process = inside(machine, f"cat /proc/{status(machine)['MainPID']}/status")
    for line in (r"CapEff:\s0+$", r"CapBnd:\s0+$", r"NoNewPrivs:\s1$", r"Seccomp:\s2$"):
        assert re.search(line, process, re.MULTILINE), line
    assert re.search(r"^Uid:\s(\d{5})", process, re.MULTILINE), "a user of its own"
    assert "wsstream.db" in inside(machine, "ls /var/lib/private/wsstream")

    inside(machine, "systemctl reload wsstream")
    wait_for(lambda: "certificate" in journal(machine) or serves(machine), 10)
    assert status(machine)["NRestarts"] == "0"

    inside(machine, "systemctl kill --signal KILL wsstream")
    wait_for(lambda: status(machine)["NRestarts"] == "1" and serves(machine), 30, lambda: journal(machine))
    assert int(inside(machine, asked)) > 100

    inside(machine, "systemctl stop wsstream")
    assert (status(machine)["Result"], status(machine)["ExecMainStatus"]) == ("success", "0")
    assert inside(machine, "ls /var/lib/private/wsstream").split() == ["wsstream.db"], "a clean stop leaves one file"


def test_a_wrong_setting_is_not_tried_for_ever(machine: str) -> None:
    """A service whose settings are wrong fails once and says why."""
    wait_for(lambda: serves(machine), 60, lambda: journal(machine))
    inside(machine, "echo 'window = \"many\"' >> /etc/wsstream/wsstream.toml; systemctl restart wsstream || true")
    wait_for(lambda: status(machine)["ActiveState"] == "failed", 30, lambda: journal(machine))
    assert status(machine)["ExecMainStatus"] == "2"
    assert "window" in journal(machine)
