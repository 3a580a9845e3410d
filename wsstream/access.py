"""Who may come in, and what they see: the gate that every wire asks, and the streams behind it as one caller's own.

A stream of somebody else looks exactly like one that never was, in what is said and in the way it is found. A session
of somebody else cannot even be named: each user's sessions have names of their own.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from wsstream import messages as m
from wsstream.chunklog import Attachment
from wsstream.chunks import StreamInfo, session_key
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
    CloseCode,
    ConfigError,
    Forbidden,
    LogTrimmed,
    PromptTooLong,
    RateLimited,
    RequestError,
    Unauthorized,
    UnknownStream,
)
from wsstream.flow import SendWindow
from wsstream.identity import ANYBODY, Hook, Identifier, Identity, configured, credential, is_user
from wsstream.limits import Buckets, Quotas
from wsstream.origins import Origins
from wsstream.registry import Registry
from wsstream.rejections import Clamp, Reason, Rejections
from wsstream.sessions import HistoryPage
from wsstream.streams import Stream, Streams
from wsstream.tickets import Tickets
from wsstream.wires.base import StreamsLike, Visitor, charged_address


class Guard:
    """The gate of a server: pages, credentials, tickets, and what each user may have."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        rejections: Rejections | None = None,
        *,
        host: Identifier | None = None,
    ) -> None:
        """A gate with everything open behind it.

        Args:
            config: what is set up.
            environ: may hold secrets; see `wsstream.identity.configured`.
            rejections: counts who is turned away.
            host: an application that this is part of. It has checked pages and users before anybody comes here: its
                word is taken, no other credential is, and only such quotas count as are set.

        Raises:
            ConfigError: credentials are not set up rightly, or nobody is asked for any where others come.
        """
        self.config = config
        self.streams: Streams
        """What is behind the gate; set before anybody comes."""
        self.rejections = rejections or Rejections()
        self.tickets = Tickets(
            config.ticket_lifetime, config.max_tickets_per_user, config.max_token_chars, config.max_tickets
        )
        self._host = host
        found = configured(config, environ) if host is None else []
        self._identifiers: list[Identifier] = [self.tickets, *found] if found else []
        self._hooks = [identifier for identifier in found if isinstance(identifier, Hook)]
        self._anonymous = config.allow_anonymous or not found
        if host is None:
            check_exposure(config, identifies=bool(found))
        at_home = not found and (host is not None or config.is_private)
        self.quotas = quotas = Quotas.of(config, at_home=at_home)
        # Whoever has to show a credential is no page that only has our address. Proxies pass on what they are called.
        names_checked = self._anonymous and not config.trusted_proxies
        self.origins = Origins(config.allowed_origins, names_checked=names_checked)
        self.starts = Buckets(quotas.starts, config.starts_burst)
        self.address_starts = Buckets(quotas.address_starts, max(1.0, (quotas.address_starts or 0.0) / 2))
        self.stays: set[Stay] = set()
        """Responses under way to somebody who may cease to be welcome."""
        self.lookups = Buckets(quotas.lookups, quotas.lookups or 0.0)
        self.replay = Buckets(quotas.replay, quotas.replay or 0.0)
        self.models = frozenset(part.strip() for part in (config.allowed_models or "").split(",") if part.strip())

    @property
    def identifies(self) -> bool:
        """Whether anybody is asked who they are."""
        return bool(self._identifiers)

    def look_at(self, visitor: Visitor) -> None:
        """See that no foreign page has sent ``visitor``.

        Raises:
            Forbidden: one has, or has called the server by a name that is not its own.
        """
        if self._host is not None:
            return
        look_at(visitor.headers, self.origins, self.rejections)

    async def enter(self, visitor: Visitor) -> Access:
        """The streams of ``visitor``."""
        self.look_at(visitor)
        try:
            identity = await self.identify(visitor)
        except Unauthorized:
            self.rejections.count(Reason.UNAUTHORIZED)
            raise
        if self.is_revoked(identity):
            self.rejections.count(Reason.REVOKED)
            raise Forbidden("This is not allowed any more")
        return Access(self, identity, visitor.remote)

    async def identify(self, visitor: Visitor) -> Identity:
        """Who ``visitor`` is; `ANYBODY` where nobody has to be somebody.

        Raises:
            Unauthorized: they show nothing that is good.
        """
        if self._host is not None:
            return await self._host.identify(visitor) or ANYBODY
        if "origin" not in visitor.headers and "cookie" in visitor.headers:
            # A cookie comes by itself with whatever a page provokes; only beside an origin that was checked it counts.
            headers = {name: value for name, value in visitor.headers.items() if name != "cookie"}
            visitor = visitor._replace(headers=headers)
        for identifier in self._identifiers:
            identity = await identifier.identify(visitor)
            if identity is not None:
                if identity.expires is not None and identity.expires + self.config.token_grace < time.time():
                    raise Unauthorized("The token has expired")
                return identity if identity.checked_by is not None else identity._replace(checked_by=identifier)
        shown = self._identifiers and credential(visitor, self.config.max_token_chars) is not None
        if shown or not self._anonymous:
            raise Unauthorized
        return ANYBODY

    def is_revoked(self, identity: Identity) -> bool:
        """Whether somebody who came in is not welcome any more."""
        if identity.checked_by is not None and identity.checked_by.is_revoked(identity):
            return True
        return identity is not ANYBODY and any(hook.is_revoked(identity) for hook in self._hooks)

    def refresh(self) -> None:
        """Look whether what is revoked has changed."""
        for identifier in self._identifiers:
            identifier.refresh()

    def issue_ticket(self, streams: StreamsLike, user: str | None) -> tuple[str, float]:
        """A ticket for ``user``, or for whose streams these are; and its lifetime in seconds.

        Raises:
            BadRequest: nobody can be called that.
            Forbidden: who asks may not.
            RateLimited: too many are unused.
        """
        assert isinstance(streams, Access)
        identity = streams.identity
        longest = self.config.max_user_chars
        if user is not None and not is_user(user, longest):
            self.rejections.count(Reason.PARAMETER)
            raise BadRequest(f"A user's name has 1 to {longest} printable characters")
        if user is not None and user != identity.user:
            if self._identifiers and not identity.is_application:
                self.rejections.count(Reason.FORBIDDEN)
                raise Forbidden("Only an application may ask for somebody else's ticket")
            identity = identity._replace(user=user)
        try:
            return self.tickets.issue(identity._replace(is_application=False))
        except RateLimited:
            self.rejections.count(Reason.TICKETS)
            raise


def look_at(headers: Mapping[str, str], origins: Origins, rejections: Rejections) -> None:
    """See that no foreign page has sent a request with these headers; count it if one has.

    Raises:
        Forbidden: one has, or has called the server by a name that is not its own.
    """
    for check, reason in ((origins.check_host, Reason.HOST), (origins.check, Reason.ORIGIN)):
        try:
            check(headers)
        except Forbidden:
            rejections.count(reason)
            raise


class Stay:
    """A response to somebody, under way: it ends when they are not welcome any more."""

    __slots__ = ("_end", "_guard", "_timer", "identity")

    def __init__(self, guard: Guard, access: Access, end: Callable[[RequestError], None]) -> None:
        self.identity = access.identity
        self._guard = guard
        self._end = end
        self._timer: asyncio.TimerHandle | None = None
        guard.stays.add(self)
        if access.valid_until is not None:
            patience = access.valid_until + guard.config.token_grace - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, patience), self._on_expired)

    def _on_expired(self) -> None:
        self._show_out(Reason.EXPIRED, Unauthorized("The token has run out", recoverable=True))

    def revoke(self) -> None:
        """They are not welcome."""
        self._show_out(Reason.REVOKED, Forbidden("This is not allowed any more"))

    def _show_out(self, reason: Reason, error: RequestError) -> None:
        self.leave()
        self._guard.rejections.count(reason)
        self._end(error)

    def leave(self) -> None:
        """The response has ended. Idempotent."""
        self._guard.stays.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Access:
    """All streams as one caller sees them: `wsstream.wires.base.StreamsLike`."""

    __slots__ = ("_guard", "_key", "_streams", "_where", "identity", "user", "valid_until")

    def __init__(self, guard: Guard, identity: Identity, remote: str) -> None:
        self._guard = guard
        self._streams = guard.streams
        self._where = charged_address(remote)
        self._key = identity.user or "@" + self._where
        """Whose account is charged: nobody in particular is whoever comes from the same address."""
        self.identity = identity
        self.user = identity.user
        expires = identity.expires
        self.valid_until: float | None = None if expires is None else time.monotonic() + (expires - time.time())

    def session_key(self, session_id: str) -> str:
        """The name of this caller's session among everybody's."""
        return session_key(self.user, session_id)

    # -- starting

    def start(self, session_id: str, asked: m.ChatRequested, client_id: str | None = None) -> Stream:
        """Begin an answer, or attach to the one that this caller's same request began.

        Raises:
            MalformedMessage: its name, or the session's, is longer than this server takes.
            BadRequest: it asks for more than this server gives.
            RateLimited: they have begun too many.
        """
        guard = self._guard
        m.check_names(guard.config.max_name_chars, session_id=session_id, request_id=asked.request_id)
        if self._streams.is_known(session_id, asked.request_id, self.user):
            return self._streams.start(session_id, asked, self.user)
        try:
            clamped = within_limits(asked, guard.config, guard.models)
        except BadRequest:
            guard.rejections.count(Reason.PARAMETER)
            raise
        self._check(guard.starts, self._key, Reason.STARTS_PER_USER, "Too many requests")
        self._check(guard.address_starts, self._where, Reason.STARTS_PER_ADDRESS, "Too many requests from here")
        try:
            stream = self._streams.start(session_id, clamped, self.user, guard.quotas.running, client_id)
        except PromptTooLong:
            guard.rejections.count(Reason.PARAMETER)
            raise
        if clamped is not asked:
            guard.rejections.clamp(Clamp.TOKENS)
        stream.digest = m.digest_of(asked)  # of what was asked, however much of it is given
        guard.starts.take(self._key)
        guard.address_starts.take(self._where)
        return stream

    def _check(self, buckets: Buckets, key: str, reason: Reason, text: str) -> None:
        wait = buckets.wait(key)
        if wait > 0:
            self._guard.rejections.count(reason)
            raise RateLimited(text, retry_after=round(wait, 3))

    def is_known(self, session_id: str, request_id: str) -> bool:
        """Whether this caller's `start` would begin nothing."""
        return self._streams.is_known(session_id, request_id, self.user)

    def while_welcome(self, end: Callable[[RequestError], None]) -> Callable[[], None]:
        """Have ``end`` called when the token has run out, its grace too, or was revoked; the answer takes that back."""
        if self.identity is ANYBODY:
            return lambda: None
        return Stay(self._guard, self, end).leave

    # -- finding

    def get(self, stream_id: str) -> Stream:
        """The stream of that id, if it is this caller's.

        Raises:
            UnknownStream: there is none, or it is somebody else's.
            LogTrimmed: it is no longer kept.
            RateLimited: they have asked for too many that there are not.
        """
        try:
            return self._streams.get(stream_id, self.user)
        except (UnknownStream, LogTrimmed):
            self._check(self._guard.lookups, self._key, Reason.LOOKUPS, "Too many unknown streams")
            self._guard.lookups.take(self._key)
            raise

    def resume(self, stream_id: str) -> Stream:
        """As `get`, for somebody who is going to read what was there before."""
        if self._guard.is_revoked(self.identity):
            self._guard.rejections.count(Reason.REVOKED)
            raise Forbidden("This is not allowed any more")
        stream = self.get(stream_id)
        self._check(self._guard.replay, self._key, Reason.REPLAY, "Too much was read again")
        return stream

    def of_session(self, session_id: str) -> Sequence[Stream]:
        """The streams of this caller's session."""
        return self._streams.of_session(session_id, self.user)

    def running_in(self, session_id: str) -> list[StreamInfo]:
        """Those of them that run."""
        return self._streams.running_in(session_id, self.user)

    # -- following; whoever has a stream was given it by `get`

    def attach(self, stream: Any, window: SendWindow, wake: Any) -> Attachment:
        """A new viewer. What it will read again is charged; who owes is refused the next time."""
        totals = stream.log.totals
        again = totals[-1] - totals[min(window.sent, len(totals) - 1)]
        if again > 0:
            self._guard.replay.take(self._key, again)
        return self._streams.attach(stream, window, wake)

    def cancel(self, stream: Any) -> None:
        """Stop the answer for everybody."""
        self._streams.cancel(stream)

    def delete(self, stream: Any, deleted: Callable[[], None]) -> None:
        """Forget an answer's log, and stop it where it runs."""
        self._streams.delete(stream, deleted)

    def load(self, stream: Any) -> Future[Any] | None:
        """See that the stream's chunks are in memory."""
        return self._streams.load(stream)

    # -- sessions

    async def history(self, session_id: str) -> tuple[list[m.HistoryMessage], str | None]:
        """What was said in this caller's session, and its title."""
        return await self._streams.history(session_id, self.user)

    async def page(self, session_id: str, before: str | None = None, limit: int | None = None) -> HistoryPage:
        """A page of it."""
        return await self._streams.page(session_id, before, limit, self.user)

    def rename_session(self, session_id: str, title: str, told: Callable[[bool], None]) -> None:
        """Give it a title."""
        self._streams.rename_session(session_id, title, told, self.user)

    def delete_session(self, session_id: str, deleted: Callable[[], None]) -> None:
        """Forget it."""
        self._streams.delete_session(session_id, deleted, self.user)


PATROL = 30.0
"""Seconds between looks at who is still welcome."""


class Patrol:
    """Ends the connections of those who are not welcome any more, and the responses to them."""

    def __init__(self, guard: Guard, registry: Registry) -> None:
        self._guard = guard
        self._registry = registry
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Go round every `PATROL` seconds, where anybody is somebody."""
        if self._guard.identifies:
            self._timer = asyncio.get_running_loop().call_later(PATROL, self._go_round)

    def _go_round(self) -> None:
        self.begin()
        self._guard.refresh()
        for member in self._registry:
            access = member.access
            if isinstance(access, Access) and self._guard.is_revoked(access.identity):
                self._guard.rejections.count(Reason.REVOKED)
                member.close(CloseCode.FORBIDDEN, "not allowed any more")
        for stay in list(self._guard.stays):
            if self._guard.is_revoked(stay.identity):
                stay.revoke()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def within_limits(asked: m.ChatRequested, config: Config, models: frozenset[str]) -> m.ChatRequested:
    """``asked`` with no more tokens than may be.

    Raises:
        BadRequest: it has too many messages or fallbacks, or names a model that is not allowed.
    """
    wish = asked.config or m.ChatConfig()
    if asked.messages is not None and len(asked.messages) > config.max_messages:
        raise BadRequest(f"A request has at most {config.max_messages} messages")
    if len(wish.fallback or ()) > config.max_fallbacks:
        raise BadRequest(f"config.fallback: a request names at most {config.max_fallbacks}")
    model = wish.model or asked.model
    if models and model is not None and model not in models:
        raise BadRequest("config.model: this server does not offer it")
    ceiling = config.max_output_tokens
    if ceiling is None or (wish.max_tokens or ceiling + 1) <= ceiling:
        return asked
    return msgspec.structs.replace(asked, config=msgspec.structs.replace(wish, max_tokens=ceiling))


def check_exposure(config: Config, *, identifies: bool) -> None:
    """See that a server which others reach asks who they are, unless it was told not to.

    Raises:
        ConfigError: it would not.
    """
    if not identifies and not config.allow_anonymous and not config.is_private:
        raise ConfigError(
            f"host {config.host} can be reached by others, and nobody is asked who they are: "
            "set --tokens-file, --jwt-key-file or --identity-hook (docs/security.md), or --allow-anonymous"
        )
