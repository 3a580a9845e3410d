"""wsstream inside FastAPI: the application's own login decides who may chat.

    pip install wsstream fastapi itsdangerous
    SECRET=$(openssl rand -hex 32) uvicorn app:app

Then open http://127.0.0.1:8000/. The answers come from the demo provider, or from OpenAI with OPENAI_API_KEY set.
"""

import os
import secrets
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import Scope

from wsstream.asgi import WsstreamApp
from wsstream.config import Config


async def who(scope: Scope) -> str | None:
    """Asked before anybody comes in: whom the session's cookie names. The middleware has checked its signature."""
    user = scope["session"].get("user")
    return user if isinstance(user, str) else None


chat = WsstreamApp(Config(store=os.environ.get("WSSTREAM_STORE", "sqlite:chat.db")), gate=who)


# A mounted application is not told when its server starts and ends, so the host tells it.
app = FastAPI(lifespan=lambda _: chat.running())
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SECRET") or secrets.token_hex(32))
app.mount("/chat", chat)


@app.post("/login")
async def login(request: Request) -> RedirectResponse:
    """Where a real application would check a password."""
    request.session["user"] = parse_qs((await request.body()).decode())["name"][0]
    return RedirectResponse("/", status_code=303)


@app.get("/")
async def page(request: Request) -> HTMLResponse:
    """A login, and behind it a chat in ten lines."""
    return HTMLResponse(CHAT if "user" in request.session else LOGIN)


LOGIN = (
    '<form method="post" action="/login"><input name="name" placeholder="Your name"> <button>Come in</button></form>'
)
CHAT = """<!doctype html><form id="ask"><input id="text" autofocus> <button>Ask</button></form><pre id="out"></pre>
<script type="module">
import { StreamClient } from "/chat/static/js/index.js";
const client = new StreamClient(new URL("/chat/ws", location.href.replace(/^http/, "ws")));
client.connect();
ask.onsubmit = async (event) => {
  event.preventDefault();
  out.textContent = "";
  for await (const text of client.chat(document.querySelector("#text").value)) out.textContent += text;
};
</script>"""
