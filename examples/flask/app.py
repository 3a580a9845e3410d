"""wsstream beside Flask: a WSGI application cannot hold many streams, so a sidecar does, and Flask says who may read.

    pip install wsstream flask
    python -m wsstream --port 8766 &                              # the sidecar; only this machine reaches it
    SECRET=$(openssl rand -hex 32) flask --app app run

A page fetches a ticket with its login, and shows it with every request for a stream. Here Flask passes streams on,
which holds a thread for each; in production let nginx do that: `auth_request` to /check, and `proxy_pass` to the
sidecar. Whatever passes a stream on must neither buffer nor compress it, and must wait longer than 15 seconds.
"""

import http.client
import json
import os
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

from flask import Flask, Response, abort, request
from itsdangerous import BadData, URLSafeTimedSerializer

app = Flask(__name__)
SIDECAR = urlsplit(os.environ.get("SIDECAR", "http://127.0.0.1:8766"))
TICKETS = URLSafeTimedSerializer(os.environ.get("SECRET") or secrets.token_hex(32), salt="ticket")
LIFE = 300
PASSED_ON = ("Content-Type", "Cache-Control", "X-Accel-Buffering", "X-Wsstream-Stream-Id")


@app.post("/ticket")
def ticket() -> dict[str, str]:
    """For whoever is logged in. Where a real application would look into its session, this one believes a name."""
    return {"ticket": TICKETS.dumps(request.get_json()["name"])}


@app.get("/check")
def user() -> str:
    """Whose ticket this is."""
    try:
        return str(TICKETS.loads(request.headers.get("Authorization", "").removeprefix("Bearer "), max_age=LIFE))
    except BadData:
        abort(401)


@app.post("/chat")
def ask() -> Response:
    """An answer as events. The session is the user's, whatever the page says."""
    return passed_on("POST", "/api/chat/stream", {"message": request.get_json()["message"], "session_id": session()})


@app.get("/chat/<stream_id>")
def resume(stream_id: str) -> Response:
    """The same from behind `Last-Event-ID`, if it is the user's own."""
    with sidecar("GET", f"/api/sessions/{session()}/streams") as response:
        if stream_id not in [stream["stream_id"] for stream in json.load(response)["streams"]]:
            abort(404)
    return passed_on("GET", f"/api/streams/{stream_id}")


def session() -> str:
    return "flask-" + user().encode().hex()


def sidecar(method: str, path: str, body: object = None) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json", "Last-Event-ID": request.headers.get("Last-Event-ID", "0")}
    connection = http.client.HTTPConnection(SIDECAR.hostname or "", SIDECAR.port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse()


def passed_on(method: str, path: str, body: object = None) -> Response:
    response = sidecar(method, path, body)

    def pieces() -> Iterator[bytes]:
        with response:  # closed too when the reader leaves; then the sidecar's orphan policy has the say
            while piece := response.read1(65536):
                yield piece

    headers = {name: value for name in PASSED_ON if (value := response.getheader(name)) is not None}
    return Response(pieces(), response.status, headers)
