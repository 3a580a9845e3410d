"""What a browser is served, and under which headers."""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Serve
from tests.native import HasPort, fetch
from wsstream import __version__, web
from wsstream.web import PAGE_HEADERS, web_root

IMPORT = re.compile(r"""^(?:import|export)\b[^;'"]*["'](\.[^"']+)["'];""", re.MULTILINE)


class Response(msgspec.Struct):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


async def get(server: HasPort, path: str, *, method: str = "GET", headers: str = "", host: str = "x") -> Response:
    """Fetch a page."""
    request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    head, _, body = (await fetch(server, request.encode())).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Response(int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body)


async def test_the_page(serve: Serve) -> None:
    """``/`` is the chat page, under headers that let it load only what this origin serves."""
    response = await get(await serve(), "/")
    assert response.status == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.body.lower().startswith(b"<!doctype html>")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_page_that_has_not_changed_is_not_sent_again(serve: Serve) -> None:
    """A browser that shows the page's ETag is told that its own is good, and gets no body."""
    server = await serve()
    first = await get(server, "/")
    again = await get(server, "/", headers=f"If-None-Match: {first.headers['etag']}\r\n")
    assert (again.status, again.body) == (304, b"")


async def test_the_page_loads_only_what_there_is(serve: Serve) -> None:
    """Every file that the page names is served by this server, and named beside the page, wherever that is."""
    server = await serve()
    page = (await get(server, "/")).body.decode()
    named = re.findall(r"""(?:src|href)=["']([^"'#]+)["']""", page)
    assert any(name.endswith(".js") for name in named)
    for name in named:
        if not name.startswith("data:"):
            assert not name.startswith("/"), name
            assert (await get(server, f"/{name}")).status == 200, name


async def test_the_example_in_one_file(serve: Serve) -> None:
    """The example is served with a policy that lets its own script run, and no other; what it imports is there."""
    server = await serve()
    response = await get(server, "/examples/vanilla.html")
    (script,) = re.findall(r'<script type="module">(.*?)</script>', response.body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    (module,) = re.findall(r'from "([^"]+)"', script)
    assert module.startswith("../")
    assert (await get(server, posixpath.normpath(posixpath.join("/examples", module)))).status == 200


async def test_every_module_is_served(serve: Serve) -> None:
    """What the page and the client import, and what those import, is all there, as JavaScript."""
    server = await serve()
    found, left = set[str](), ["/static/chat/page.js", "/static/js/wsstream.js", "/static/js/render/index.js"]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        response = await get(server, path)
        assert (response.status, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8"), path
        for name in IMPORT.findall(response.body.decode()):
            left.append(posixpath.normpath(posixpath.join(posixpath.dirname(path), name)))
    assert "/static/js/vendor/marked/marked.esm.js" in found
    assert len(found) > 20


def test_vendored_files_are_what_their_list_says() -> None:
    """Each vendored file has the checksum written down for it, and none is unlisted."""
    vendor = web_root() / "js" / "vendor"
    rows = re.findall(r"\| `(\w{64})` \| `([^`]+)` \|", (vendor / "README.md").read_text())
    listed = {name: digest for digest, name in rows}
    files = [path for path in vendor.rglob("*") if path.is_file() and path.parent != vendor]
    found = {str(path.relative_to(vendor)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == listed
    assert {"marked/LICENSE", "highlight/LICENSE"} <= listed.keys()


def test_the_page_needs_no_exception_from_its_policy() -> None:
    """No inline script, style or handler, which the policy would stop."""
    page = (web_root() / "chat" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)


@pytest.mark.parametrize("path", ["/", "/healthz", "/ws", "/nowhere", "/static/js/wsstream.js"])
async def test_every_answer_has_the_page_s_headers(serve: Serve, path: str) -> None:
    """Errors and scripts too are protected, and no other origin may read anything."""
    headers = (await get(await serve(), path, headers="Origin: https://elsewhere.example\r\n")).headers
    assert {name.lower(): value for name, value in PAGE_HEADERS.items()}.items() <= headers.items()
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "server" not in headers


async def test_health(serve: Serve) -> None:
    """``/healthz`` says in JSON how the server is: 200 while it is well, 503 while it drains."""
    server = await serve()
    response = await get(server, "/healthz")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert msgspec.json.decode(response.body) == {
        "status": "ok",
        "version": __version__,
        "connections": 0,
        "running_streams": 0,
        "retained_streams": 0,
    }
    server.registry.draining = True
    response = await get(server, "/healthz")
    assert response.status == 503
    assert msgspec.json.decode(response.body)["status"] == "draining"


async def test_a_plain_request_for_the_socket(serve: Serve) -> None:
    """``GET /ws`` without an upgrade is told what it lacks."""
    response = await get(await serve(), "/ws")
    assert response.status == 426
    assert response.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/static/js/",
        "/static/js/nothing.js",
        "/static/js/../../pyproject.toml",
        "/static/js/%2e%2e/%2e%2e/pyproject.toml",
        "/static/chat/..%2f..%2fpyproject.toml",
        "/static/js//etc/passwd",
        "/ws/deeper",
        "/static/js/%00",
    ],
)
async def test_what_is_not_there(serve: Serve, path: str) -> None:
    """Everything else is 404, however it is spelled."""
    assert (await get(await serve(), path)).status == 404


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 405), ("DELETE", 405), ("OPTIONS", 405)])
async def test_methods(serve: Serve, method: str, status: int) -> None:
    """The page can be read and nothing else."""
    response = await get(await serve(), "/", method=method)
    assert response.status == status
    assert method != "HEAD" or response.body == b""


def test_the_files_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel has the page inside; a checkout has it beside the package."""
    assert (web_root() / "js" / "wsstream.js").is_file()
    (tmp_path / "wsstream" / "_web").mkdir(parents=True)
    monkeypatch.setattr(web, "__file__", str(tmp_path / "wsstream" / "web.py"))
    assert web_root() == tmp_path / "wsstream" / "_web"
