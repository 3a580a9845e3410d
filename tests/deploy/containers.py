"""Images and containers, by podman and buildah: no engine has to run, and no registry has to be reached."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.tools import attempt, run, tool

BASE = "localhost/wsstream-base"
"""Stands in for the image that the Dockerfile begins with; stays for the next time."""
IMAGE = "localhost/wsstream-check"


def podman() -> tuple[str, ...]:
    """The command, with the runtime that knows old control groups, too."""
    command = tool("podman")
    return (command, "--runtime", "runc") if shutil.which("runc") else (command,)


def need_containers() -> None:
    """Skip what needs containers where there are none."""
    for name in ("podman", "buildah", "debootstrap", "runc"):
        tool(name)
    if os.geteuid() != 0:
        pytest.skip("containers are made as root here")


def build(image: str, file: Path, ignore: Path | None = None, **arguments: str) -> str:
    """Build an image of this checkout."""
    if attempt(tool("podman"), "image", "exists", BASE).returncode:
        run(ROOT / "tests" / "deploy" / "base.sh", BASE, patience=500)
    options = ["--isolation", "chroot", "--network", "host", "--format", "docker", "--ulimit", "nofile=1024:1024"]
    options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    options += [] if ignore is None else ["--ignorefile", str(ignore)]
    run(tool("buildah"), "build", *options, "-f", file, "-t", image, ROOT, patience=500)
    return image


@contextlib.contextmanager
def container(image: str, *options: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """A container, for as long as the block."""
    name = run(*podman(), "run", "--quiet", "--detach", "--ulimit", "nproc=4096:4096", *options, image, *command)
    name = name.split()[-1]
    try:
        yield name
    finally:
        attempt(*podman(), "rm", "--force", "--time", "0", name)


def inside(name: str, script: str) -> str:
    """What a shell in a container says."""
    return run(*podman(), "exec", name, "sh", "-c", script)


def logs(name: str) -> str:
    """What a container has said."""
    return attempt(*podman(), "logs", name).stdout


def stop(name: str, seconds: int) -> int:
    """Stop a container as an engine does; the exit status of its process."""
    attempt(*podman(), "stop", "--time", str(seconds), name)
    return int(run(*podman(), "inspect", name, "--format", "{{.State.ExitCode}}"))
