"""wsstream beside Django 5 in one ASGI server: Django's sessions decide who may chat.

    pip install wsstream "django>=5" uvicorn
    SECRET=$(openssl rand -hex 32) python -c "import app; app.prepare()"     # tables, and a user: ann, with $PASSWORD
    SECRET=... uvicorn app:app

Then log in at http://127.0.0.1:8000/login, and connect to /chat/ws.
"""

import os
import secrets
from http.cookies import SimpleCookie
from importlib import import_module

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope

settings.configure(
    SECRET_KEY=os.environ.get("SECRET") or secrets.token_hex(32),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "site.db")}},
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
)
django.setup()

from django.contrib.auth import aauthenticate, aget_user, alogin, get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.urls import path  # noqa: E402

from wsstream.asgi import WsstreamApp  # noqa: E402
from wsstream.config import Config  # noqa: E402


async def login(request: HttpRequest) -> HttpResponse:
    user = await aauthenticate(request, username=request.POST.get("name"), password=request.POST.get("password"))
    if user is not None:
        await alogin(request, user)
        return HttpResponse("Welcome. The chat is at /chat/ws")
    return HttpResponse(FORM % get_token(request), status=200 if request.method == "GET" else 403)


FORM = """<form method="post"><input type="hidden" name="csrfmiddlewaretoken" value="%s">
<input name="name"> <input name="password" type="password"> <button>Log in</button></form>"""
urlpatterns = [path("login", login)]


async def who(scope: Scope) -> str | None:
    """Asked before anybody comes in: the user of Django's session, as its middleware would find it."""
    cookies = SimpleCookie(dict(scope["headers"]).get(b"cookie", b"").decode("latin-1"))
    key = cookies.get(settings.SESSION_COOKIE_NAME)
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key.value if key else None)
    user = await aget_user(request)
    return f"user-{user.pk}" if user.is_authenticated else None


chat = WsstreamApp(Config(store=os.environ.get("WSSTREAM_STORE", "sqlite:chat.db")), gate=who)


app = Starlette(routes=[Mount("/chat", chat), Mount("/", get_asgi_application())], lifespan=lambda _: chat.running())


def prepare() -> None:
    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("ann", password=os.environ["PASSWORD"])
