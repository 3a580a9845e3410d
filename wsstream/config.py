"""Everything that can be set, in one frozen `Config`.

Each field is a flag (``--heartbeat-interval``), a variable (``WSSTREAM_HEARTBEAT_INTERVAL``) and a key of the TOML file
(``heartbeat_interval``). Flags win over variables, variables over the file, the file over the default.
"""

from __future__ import annotations

import ipaddress
import tomllib
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePath
from traceback import extract_tb
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from wsstream.chunks import (
    MAX_KEPT_ARGUMENTS,
    MAX_KEPT_CALLS,
    MAX_KEPT_REASONING,
    MAX_NAME_CHARS,
    MAX_PAGE,
    MAX_TITLE_CHARS,
    PAGE,
    PAGE_BYTES,
)
from wsstream.errors import ConfigError
from wsstream.protocol import ServerSettings

ENV_PREFIX = "WSSTREAM_"

OTHER_VARIABLES = {
    "WSSTREAM_CONFIG",
    *("WSSTREAM_TOKEN", "WSSTREAM_TOKENS", "WSSTREAM_JWT_KEY", "WSSTREAM_JWT_PREVIOUS_KEY"),
}
"""Variables that are no settings: where these are, and secrets, for which there are no flags."""

KUBERNETES_PREFIXES = ("WSSTREAM_SERVICE_", "WSSTREAM_PORT_")
"""What Kubernetes adds to the environment for a service of the name wsstream."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A server's settings. Times are seconds, sizes bytes."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 picks a free one")] = 8765
    provider: Annotated[
        str | None,
        Meta(
            description="a name of docs/providers.md or module:attribute; openai when OPENAI_API_KEY is set, else demo"
        ),
    ] = None
    model: Annotated[str | None, Meta(description="model to use where a request names none")] = None
    base_url: Annotated[str | None, Meta(description="where the provider is, if not where its name says")] = None
    prefill: Annotated[
        str,
        Meta(
            pattern=r"^(auto|off|(assistant|prefix|vllm)(:.+)?)$",
            description="how a model is given its answer so far: auto, off or STYLE[:MODELS], see docs/providers.md",
        ),
    ] = "auto"
    store: Annotated[str, Meta(description="where logs live: sqlite:PATH or memory:")] = "sqlite:wsstream.db"
    durability: Annotated[
        Literal["process", "power"], Meta(description="what stored chunks survive: the end of the process, or of power")
    ] = "process"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="how much to log")] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="how to log, to stderr")] = "text"
    metrics_host: Annotated[str, Meta(description="address of /metrics")] = "127.0.0.1"
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(description="port of /metrics; 1000 above the port where none is given, 0 for no metrics"),
    ] = None
    metrics_names: Annotated[
        Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._, -]*$")] | None,
        Meta(description="public names, by commas, that the metrics' port may be called by"),
    ] = None
    tls_cert: Annotated[str | None, Meta(description="a certificate chain in PEM; TLS then, and none without")] = None
    tls_key: Annotated[str | None, Meta(description="its key in PEM, where that is another file")] = None
    trusted_proxies: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9a-fA-F:./, ]*$")] | None,
        Meta(description="addresses and CIDRs, by commas, whose word on where clients are is believed"),
    ] = None
    proxy_header: Annotated[
        Literal["x-forwarded", "forwarded"],
        Meta(description="what these write: X-Forwarded-For and -Proto, or Forwarded; the other may be a client's"),
    ] = "x-forwarded"

    window: Annotated[Count, Meta(description="chunks in flight per viewer where the client asks for no other")] = 50
    window_bytes: Annotated[Bytes, Meta(description="bytes in flight per viewer")] = 256 * 1024
    max_window: Annotated[Count, Meta(description="the widest chunk window a client may ask for")] = 1000
    max_window_bytes: Annotated[Bytes, Meta(description="the widest byte window a client may ask for")] = 1024 * 1024
    adaptive_window: Annotated[bool, Meta(description="move windows by ack rate and round trip")] = False
    high_water: Annotated[Count, Meta(description="chunks beyond the slowest viewer at which a provider waits")] = 1000
    low_water: Annotated[Count, Meta(description="and at which it is read on")] = 500

    max_running_streams: Annotated[Count, Meta(description="answers running at once")] = 1000
    max_queued: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)] | None,
        Meta(description="requests that wait for a place; where not set, a tenth of max_running_streams"),
    ] = None
    max_streams: Annotated[Count, Meta(description="running streams one connection may follow")] = 16
    max_connections: Annotated[Count, Meta(description="WebSockets open at once; as many HTTP calls")] = 10_000
    max_message_bytes: Annotated[Bytes, Meta(description="the largest message read from a client")] = 64 * 1024
    max_fragments: Annotated[Count, Meta(description="frames that one message may come in")] = 64
    max_ui_message_bytes: Annotated[
        Bytes, Meta(description="the same of the AI SDK's socket, whose clients say the whole conversation each time")
    ] = 4 * 1024 * 1024
    max_early_bytes: Annotated[
        Bytes, Meta(description="messages that are kept while it is decided whether their sender comes in")
    ] = 256 * 1024
    max_early_messages: Annotated[
        Count, Meta(description="how many of the AI SDK's socket; of the native wire message_burst")
    ] = 32
    max_control_bytes: Annotated[
        Bytes, Meta(description="answers, other than chunks, kept for a client that does not read them")
    ] = 64 * 1024
    max_list_bytes: Annotated[Bytes, Meta(description="bytes of lists of streams that one read may ask for")] = (
        1024 * 1024
    )
    max_history_questions: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description="unanswered questions for a history, of one connection")
    ] = 1
    max_history_messages: Annotated[
        Annotated[int, Meta(ge=PAGE, le=MAX_PAGE)],
        Meta(description=f"messages that a page of a history may be asked to have; {MAX_PAGE} at most"),
    ] = MAX_PAGE
    max_history_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=PAGE_BYTES)], Meta(description=f"bytes of such a page; {PAGE_BYTES} at most")
    ] = PAGE_BYTES
    max_kept_reasoning: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_KEPT_REASONING)],
        Meta(description=f"characters of an answer's reasoning that its session keeps; {MAX_KEPT_REASONING} at most"),
    ] = MAX_KEPT_REASONING
    max_kept_calls: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_KEPT_CALLS)],
        Meta(description=f"and of its calls of tools; {MAX_KEPT_CALLS} at most"),
    ] = MAX_KEPT_CALLS
    max_kept_arguments: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_KEPT_ARGUMENTS)],
        Meta(description=f"and characters of their arguments, all together; {MAX_KEPT_ARGUMENTS} at most"),
    ] = MAX_KEPT_ARGUMENTS
    max_posted_messages: Annotated[Count, Meta(description="native messages in one POST")] = 1024
    max_head_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)], Meta(description="the largest head of an HTTP request")
    ] = 16 * 1024
    max_body_bytes: Annotated[Bytes, Meta(description="the largest HTTP request body")] = 1024 * 1024
    max_ticket_body_bytes: Annotated[Bytes, Meta(description="and of one that asks for a ticket")] = 4096
    max_name_chars: Annotated[
        Annotated[int, Meta(ge=64, le=MAX_NAME_CHARS)],
        Meta(description=f"the longest name of a session, or of a request; {MAX_NAME_CHARS} at most"),
    ] = MAX_NAME_CHARS
    max_title_chars: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_TITLE_CHARS)],
        Meta(description=f"the longest title of a session; {MAX_TITLE_CHARS} at most"),
    ] = MAX_TITLE_CHARS
    max_prompt_chars: Annotated[Count, Meta(description="the longest newest message, and system prompt")] = 10_000
    max_stream_chunks: Annotated[Count, Meta(description="the longest answer, in chunks")] = 1_000_000
    max_stream_seconds: Annotated[Seconds, Meta(description="the longest answer, without waits for viewers")] = 1800.0
    max_stream_bytes: Annotated[Bytes, Meta(description="the longest answer, in bytes kept")] = 256 * 1024 * 1024
    max_line_chars: Annotated[
        Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)],
        Meta(description="the longest tool call or data that a provider sends in one piece"),
    ] = 1024 * 1024
    max_delta_chars: Annotated[
        Annotated[int, Meta(ge=64, le=16 * 1024)],
        Meta(description="characters at which any other piece is cut; 16384 at most"),
    ] = 16 * 1024

    max_event_bytes: Annotated[
        Annotated[int, Meta(ge=64 * 1024, le=2**30)], Meta(description="the largest event of a provider")
    ] = 4 * 1024 * 1024
    max_response_head_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)],
        Meta(description="the largest head of a provider's response"),
    ] = 64 * 1024
    max_tool_calls: Annotated[Count, Meta(description="calls of tools in one answer")] = 128

    message_rate: Annotated[
        float, Meta(ge=0, le=1_000_000, description="messages a second from one connection, for long; 0: no limit")
    ] = 50.0
    message_burst: Annotated[Count, Meta(description="and at once, beside four for each of max_streams")] = 100
    max_malformed: Annotated[
        Count, Meta(description="malformed messages in a row, at which a connection is closed")
    ] = 3
    starts_per_minute: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="answers a user may begin; 10 unless at home")
    ] = None
    starts_burst: Annotated[Count, Meta(description="and at once")] = 5
    starts_per_address: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="answers a minute from one address; 60 unless at home")
    ] = None
    max_running_per_user: Annotated[
        Count | None, Meta(description="answers of one user running at once; 4 unless at home")
    ] = None
    max_connections_per_user: Annotated[Count | None, Meta(description="WebSockets of one user; 8 unless at home")] = (
        None
    )
    max_connections_per_address: Annotated[
        Count | None, Meta(description="WebSockets from one address; as many HTTP calls; 64 unless at home")
    ] = None
    max_greeting_per_address: Annotated[
        Count | None, Meta(description="of those, without a hello yet; 16 unless at home")
    ] = None
    lookups_per_minute: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="unknown streams a user may ask for; 10 unless at home"),
    ] = None
    replay_per_minute: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="bytes of answers a user may have again; 33554432 unless at home"),
    ] = None
    max_messages: Annotated[Count, Meta(description="messages in one request")] = 1000
    max_fallbacks: Annotated[
        Annotated[int, Meta(ge=0, le=100)], Meta(description="providers that the fallback of one request may name")
    ] = 8
    max_output_tokens: Annotated[
        Count | None, Meta(description="tokens an answer may have; given to the provider with every request")
    ] = None
    allowed_models: Annotated[
        str | None, Meta(description="models that requests may name, with commas; any where not set")
    ] = None
    viewer_stall: Annotated[
        Seconds | None,
        Meta(description="without any ack, after which a viewer is closed with 4429; never where not set"),
    ] = None

    tokens_file: Annotated[str | None, Meta(description="a TOML file of tokens, see docs/security.md")] = None
    jwt_key_file: Annotated[str | None, Meta(description="the key that signed tokens are checked with")] = None
    jwt_previous_key_file: Annotated[str | None, Meta(description="the key before, during a change of keys")] = None
    jwt_algorithm: Annotated[
        Literal["HS256", "EdDSA", "RS256"], Meta(description="the only algorithm of signed tokens")
    ] = "HS256"
    jwt_audience: Annotated[str | None, Meta(description="the aud that signed tokens must have")] = None
    jwt_issuer: Annotated[str | None, Meta(description="the iss that signed tokens must have")] = None
    identity_hook: Annotated[str | None, Meta(description="module:attribute that says who somebody is")] = None
    allow_anonymous: Annotated[bool, Meta(description="let in whoever shows no credential")] = False
    allowed_origins: Annotated[
        str | None, Meta(description="pages that may connect beside the server's own, with commas")
    ] = None
    max_tickets: Annotated[Count, Meta(description="unused tickets at once")] = 100_000
    max_tickets_per_user: Annotated[Count, Meta(description="of those, one user's")] = 16
    ticket_lifetime: Annotated[float, Meta(gt=0, le=30, description="a ticket can be used")] = 30.0
    token_grace: Annotated[Seconds, Meta(description="a connection goes on when its token has run out")] = 60.0
    max_token_chars: Annotated[
        Annotated[int, Meta(ge=64, le=64 * 1024)], Meta(description="the longest token, or ticket, that is looked at")
    ] = 4096
    max_user_chars: Annotated[
        Annotated[int, Meta(ge=1, le=256)], Meta(description="the longest name of a user; 256 at most")
    ] = 256

    hello_timeout: Annotated[Seconds, Meta(description="for a connection's first message, and to decide on it")] = 10.0
    request_timeout: Annotated[
        Seconds, Meta(description="for the head of an HTTP request, and once more for its body")
    ] = 10.0
    body_timeout: Annotated[
        Seconds, Meta(description="for a request's body to be told 408; beyond request_timeout it is only cut off")
    ] = 8.0
    response_stall: Annotated[
        Seconds, Meta(description="a client may take nothing of a response over HTTP, before it is left")
    ] = 60.0
    long_poll_timeout: Annotated[
        Seconds, Meta(description="a long poll of a durable stream waits; proxies cut off what is silent for 30")
    ] = 20.0
    heartbeat_interval: Annotated[Seconds, Meta(description="between heartbeats")] = 10.0
    heartbeat_timeout: Annotated[Seconds, Meta(description="of silence, after which a peer is dead")] = 25.0
    first_token_timeout: Annotated[Seconds, Meta(description="for a provider's first token")] = 30.0
    chunk_timeout: Annotated[Seconds, Meta(description="between a provider's tokens")] = 30.0
    retries: Annotated[int, Meta(ge=0, le=100, description="further tries of a provider whose failure may pass")] = 3
    retry_base: Annotated[Seconds, Meta(description="the back-off before the second try at most, doubled for each")] = (
        1.0
    )
    retry_cap: Annotated[Seconds, Meta(description="and at most for any")] = 60.0
    retry_budget: Annotated[
        Seconds, Meta(description="without progress, after which a provider is not tried again")
    ] = 60.0
    on_interrupt: Annotated[
        Literal["fail", "continue", "restart"],
        Meta(description="what becomes of an answer that breaks off after its first chunk"),
    ] = "continue"
    fallback: Annotated[
        str | None, Meta(description="whom to turn to when a provider fails: provider[:model], separated by spaces")
    ] = None
    on_orphan: Annotated[
        Literal["continue", "stop_after", "pause"], Meta(description="what becomes of an answer without any viewer")
    ] = "stop_after"
    orphan_grace: Annotated[Seconds, Meta(description="an answer goes on without any viewer")] = 60.0
    max_pause_seconds: Annotated[
        Seconds, Meta(description="an answer without any viewer is paused at most, where it is, before it is stopped")
    ] = 3600.0
    retention: Annotated[float, Meta(gt=0, le=10 * 366 * 86_400, description="an ended stream can be resumed")] = (
        86_400.0
    )
    max_retained: Annotated[Count, Meta(description="ended streams kept at once, the newest")] = 100_000
    max_retained_bytes: Annotated[Bytes, Meta(description="bytes of ended streams kept at once")] = 1024**3
    max_memory_bytes: Annotated[Bytes, Meta(description="bytes of ended streams kept in memory")] = 256 * 1024 * 1024
    memory_limit: Annotated[
        Bytes | None, Meta(description="memory the process may take, where that is less than its group or machine has")
    ] = None
    memory_refuse_at: Annotated[Share, Meta(description="share of memory from which nothing new is begun")] = 0.85
    memory_shed_at: Annotated[Share, Meta(description="share of memory from which connections are shed")] = 0.92
    durable_writes: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="whether clients may write durable streams; auto: where only this machine can connect"),
    ] = "auto"
    max_feeds: Annotated[Count, Meta(description="durable streams of clients at once")] = 1000
    max_feeds_per_user: Annotated[Count | None, Meta(description="of those, one user's; 100 unless at home")] = None
    feed_creates_per_minute: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="durable streams a user may make, half of them at once; 60 unless at home"),
    ] = None
    max_feed_bytes: Annotated[Bytes, Meta(description="the longest of them, in bytes kept")] = 16 * 1024 * 1024
    max_feeds_bytes: Annotated[Bytes, Meta(description="bytes of all of them, which are in memory too")] = (
        256 * 1024 * 1024
    )
    max_feeds_bytes_per_user: Annotated[
        Bytes | None, Meta(description="bytes of one user's; 67108864 unless at home")
    ] = None
    max_feed_name_chars: Annotated[
        Annotated[int, Meta(ge=1, le=4096)], Meta(description="the longest name of a durable stream of clients")
    ] = 512
    max_feed_type_chars: Annotated[
        Annotated[int, Meta(ge=32, le=4096)], Meta(description="the longest Content-Type of one")
    ] = 512
    max_writer_chars: Annotated[
        Annotated[int, Meta(ge=1, le=1024)], Meta(description="the longest Producer-Id, and Stream-Seq")
    ] = 128
    max_writers: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description="producers that a durable stream remembers, the latest")
    ] = 100
    max_read_bytes: Annotated[
        Bytes, Meta(description="bytes of a durable stream, a client's or an answer's, that one read gives")
    ] = 1024 * 1024
    drain_timeout: Annotated[
        Annotated[float, Meta(gt=0, le=3600)], Meta(description="running answers get to end after SIGTERM")
    ] = 10.0
    wake_interval: Annotated[
        Annotated[float, Meta(ge=0, le=0.01)] | None,
        Meta(
            description="between two looks at the sockets under load, 0 for as soon as anything comes; where not set"
            " 0.0004, with a durable store 0.0008, and 0 in another's application"
        ),
    ] = None
    listeners: Annotated[int, Meta(ge=1, le=64, description="listening sockets, to accept storms quickly")] = 16

    def __post_init__(self) -> None:
        """Check what no single field can.

        Raises:
            ConfigError: two fields contradict each other.
        """
        if self.heartbeat_timeout < 2 * self.heartbeat_interval:
            raise ConfigError("heartbeat_timeout must be at least twice heartbeat_interval")
        if self.memory_refuse_at > self.memory_shed_at:
            raise ConfigError("memory_refuse_at must not be above memory_shed_at")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls_key is of no use without tls_cert")
        if self.low_water > self.high_water:
            raise ConfigError("low_water must not be above high_water")
        if self.window > self.max_window:
            raise ConfigError("window must not be above max_window")
        if self.window_bytes > self.max_window_bytes:
            raise ConfigError("window_bytes must not be above max_window_bytes")

    @property
    def may_write_feeds(self) -> bool:
        """Whether clients may write durable streams."""
        return self.durable_writes == "on" or (self.durable_writes == "auto" and self.is_private)

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def protocol(self) -> ServerSettings:
        """The part that the protocol core works with."""
        names = [field.name for field in msgspec.structs.fields(ServerSettings)]
        return ServerSettings(**{name: getattr(self, name) for name in names if hasattr(self, name)})


class Setting(msgspec.Struct, frozen=True):
    """One field, for those who make flags or documentation of them."""

    name: str
    type: Any
    default: Any
    description: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return ENV_PREFIX + self.name.upper()


def settings() -> list[Setting]:
    """All fields of `Config`, in their order."""
    hints = get_type_hints(Config, include_extras=True)
    return [
        Setting(field.name, hints[field.name], field.default, _description(hints[field.name]))
        for field in msgspec.structs.fields(Config)
    ]


def _description(hint: Any) -> str:
    return next((part.description for part in hint.__metadata__ if part.description), "")


def load_config(flags: Mapping[str, Any], environ: Mapping[str, str], file: str | None = None) -> Config:
    """The configuration that these three sources make together.

    Args:
        flags: values by field name; None means not given.
        environ: the process's variables.
        file: path of a TOML file.

    Raises:
        ConfigError: a value is wrong; the message names the flag, variable or key.
    """
    values: dict[str, Any] = {}
    known = {setting.name: setting for setting in settings()}
    for key, value in _read_file(file).items():
        if key not in known:
            raise ConfigError(f"{file}: {key}: there is no such setting")
        values[key] = _convert(value, known[key], f"{file}: {key}")
    for setting in known.values():
        text = environ.get(setting.variable)
        if text and not _is_service_link(setting, text):
            values[setting.name] = _convert(text, setting, setting.variable)
    for name, value in flags.items():
        if value is not None:
            values[name] = _convert(value, known[name], known[name].flag)
    return Config(**values)


def _is_service_link(setting: Setting, text: str) -> bool:
    """Whether Kubernetes, and not the operator, has set a variable: to a service of the name wsstream."""
    return setting.name == "port" and text.startswith(("tcp://", "udp://"))


def load_attribute(path: str, setting: str) -> Any:
    """What ``module:attribute`` names; ``setting`` is who names it.

    Raises:
        ConfigError: it cannot be imported, whatever its module does when it is.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        problem = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is somebody else's module
        problem = f"{type(error).__name__}: {error}{_place(error)}"
    raise ConfigError(f"{setting}: {path!r} cannot be imported: {problem}")


def _place(error: BaseException) -> str:
    """Where in a module an error was raised; a SyntaxError says that itself."""
    frame = extract_tb(error.__traceback__)[-1]
    return "" if isinstance(error, SyntaxError) else f" ({PurePath(frame.filename).name}, line {frame.lineno})"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: misspelt ones, most likely.

    What Kubernetes sets for a service of the name wsstream is not among them.
    """
    known = {setting.variable for setting in settings()} | OTHER_VARIABLES
    return sorted(
        name
        for name in environ
        if name.startswith(ENV_PREFIX) and name not in known and not name.startswith(KUBERNETES_PREFIXES)
    )


def _read_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path}: {error}") from error


def _convert(value: Any, setting: Setting, source: str) -> Any:
    try:
        return msgspec.convert(value, type=setting.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_wanted(setting, str(error))}, got {value!r}") from error


def _wanted(setting: Setting, problem: str) -> str:
    """What is wrong with a value. Of flags and variables msgspec says that they are text; not what may be chosen."""
    choices = typing.get_args(setting.type.__origin__)
    if problem.startswith("Invalid enum"):
        return "Expected one of " + ", ".join(map(str, choices))
    return problem.partition(", got")[0]
