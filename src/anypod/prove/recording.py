"""A recording: requests that somebody made, with their answers, written as a workload.

Whoever sees the traffic (the recording front, a test client's hook, a HAR file) adds one exchange after
the other. What comes out is a `.http` file that means the same on another run:

- values that the service gave out are taken from the answer that gave them (`recording_values`);
- each cookie jar is a client of its own, told from the cookies that it sends;
- secrets are in a file beside it that is kept out of version control, never in the workload;
- each request carries the status that it was answered with, so that a run which cannot repeat it is
  known: the state that it needs was made by something else than these requests.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from anypod.prove.client import Client
from anypod.prove.model import Request, Response
from anypod.prove.recording_body import Body, rewrite_body, rewrite_target
from anypod.prove.recording_values import Place, Secrets, Values
from anypod.prove.workload import WEBSOCKET
from anypod.prove.workload_read import ENVIRONMENT, METHODS, PRIVATE

__all__ = ["Pending", "Recording", "Written", "is_asset"]

MOST = 2000  # requests; a longer recording would take hours to prove
_ASSET = re.compile(
    r"\.(?:css|js|mjs|map|png|jpe?g|gif|svg|ico|webp|avif|woff2?|ttf|otf|eot|mp4|webm)$",
    re.IGNORECASE,
)
_ASSET_TYPE = re.compile(r"^(?:image|font|video|audio)/|^text/css|javascript")
# What a browser or a library adds by itself, and what belongs to the connection.
_LEFT_OUT = re.compile(
    r"^(?:user-agent|accept-encoding|accept-language|connection|content-length|cookie|transfer-encoding"
    r"|keep-alive|te|trailer|upgrade|proxy-.*|sec-.*|dnt|priority|pragma|cache-control|via|forwarded"
    r"|upgrade-insecure-requests|if-modified-since|if-unmodified-since|referer|expect|traceparent"
    r"|tracestate|x-real-ip|x-forwarded-(?:for|port|server|prefix))$"
)
_TEST_HOSTS = frozenset({"testserver", "test", "localhost"})


@dataclass(slots=True)
class _Line:
    """One recorded request, ready to be written."""

    method: str
    title: str
    target: str
    headers: list[tuple[str, str]]
    body: Body
    client: str
    status: int | None
    name: str = ""
    named: bool = False  # another request takes a value from its answer


@dataclass(slots=True)
class Pending:
    """A request that was seen and is not answered yet.

    Attributes:
        cookies: the Cookie header that the service should see: without what this recording does not
            know and should not repeat.
    """

    cookies: str
    _line: _Line
    _request: Request
    _client: Client


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a recording.

    Attributes:
        path: of the workload; None when there was nothing to write.
        requests: how many are in it.
        clients: how many users they are of.
        bound: how many values are taken from answers.
        secrets: how many are in the file beside it.
        notes: what was left out, and why, for people.
    """

    path: Path | None
    requests: int
    clients: int
    bound: int
    secrets: int
    notes: tuple[str, ...]

    @property
    def told(self) -> str:
        """What it holds, in words."""
        parts = [
            _count(self.requests, "request"),
            _count(self.clients, "client"),
            f"{_count(self.bound, 'value')} taken from answers",
        ]
        if self.secrets:
            parts.append(f"{_count(self.secrets, 'secret')} kept beside it")
        return ", ".join(parts)


@dataclass(slots=True)
class Recording:
    """Collects exchanges; `write` makes the workload.

    Args:
        path: of the workload file.
        source: who recorded it, for the first line.
    """

    path: Path
    source: str
    _lines: list[_Line] = field(default_factory=list)
    _clients: dict[str, Client] = field(default_factory=dict)
    _last: list[str] = field(default_factory=list)  # clients, the latest last
    _given: set[tuple[str, str]] = field(default_factory=set)  # cookies that answers have set
    _values: Values = field(default_factory=Values)
    _secrets: Secrets = field(default_factory=lambda: Secrets(""))
    _names: Counter[str] = field(default_factory=Counter)
    _left_out: Counter[str] = field(default_factory=Counter)
    _websockets: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Secrets are named after the file, so that recordings in one folder keep theirs apart."""
        self._secrets = Secrets(re.sub(r"\W+", "_", self.path.stem).strip("_") or "recorded")

    def __len__(self) -> int:
        return sum(line.status is not None for line in self._lines)

    def leave_out(self, why: str, number: int = 1) -> None:
        """Count what was seen and cannot be in a workload."""
        self._left_out[why] += number

    def leave_out_websocket(self, path: str) -> None:
        """Note a websocket that was opened; the workload names it, and its proof as not tried."""
        self._websockets[path.partition("?")[0]] = None
        self.leave_out(f"the websocket {path}: websockets are not compared yet")

    def leave_out_stream(self, pending: Pending, path: str) -> None:
        """Drop a request whose answer went on while later ones were answered: alone it may not end."""
        self._lines.remove(pending._line)  # noqa: SLF001  # the two are one idea
        self.leave_out(f"the stream {path}: streams are not compared yet beside other requests")

    def add(self, request: Request, response: Response, *, client: str | None = None) -> None:
        """Add an exchange whose answer is known already; see `begin` and `end`."""
        pending = self.begin(request, client=client)
        if pending is not None:
            self.end(pending, response)

    def begin(
        self,
        request: Request,
        *,
        client: str | None = None,
        more: tuple[tuple[str, str], ...] = (),
    ) -> Pending | None:
        """Note a request, in the order in which requests are to be sent.

        Args:
            request: as it was sent, its Cookie header included.
            client: who sent it, if that is known; else it is told from the cookies.
            more: headers to write as they are, which were not sent and a server needs.

        Returns:
            What to end it with; None when it cannot be in a workload.
        """
        if request.method not in METHODS:
            self.leave_out(f"{request.method} requests: the format has no such method")
            return None
        if len(self._lines) >= MOST:
            self.leave_out(f"requests after the first {MOST}")
            return None
        sent = _cookies(request)
        known = {name: value for name, value in sent.items() if (name, value) in self._given}
        own = {
            n: v for n, v in sent.items() if n not in known and not self._secrets.is_cookie(n, v)
        }
        for name in sent.keys() - known.keys() - own.keys():
            self.leave_out(f"values of the cookie {name}, which no recorded answer set")
        name = self._owner(request, known) if client is None else client
        jar = self._clients.setdefault(name, Client())
        if name in self._last:
            self._last.remove(name)
        self._last.append(name)
        line = self._line(request, name, own)
        line.headers += more
        self._lines.append(line)
        cookies = "; ".join(f"{name}={value}" for name, value in {**known, **own}.items())
        return Pending(cookies, line, request, jar)

    def end(self, pending: Pending, response: Response) -> None:
        """Note the answer to a request."""
        line, request = pending._line, pending._request  # noqa: SLF001  # the two are one idea
        if is_asset(request, response):
            self.leave_out("files (styles, scripts, images)")
            self._lines.remove(line)
            return
        line.status = response.status
        if line.status == 304 and not any(n.lower().startswith("if-") for n, _ in line.headers):
            line.status = 200  # the browser asked whether its copy was good; the workload does not
        pending._client.take(request, response)  # noqa: SLF001  # as above
        for name, value in response.headers:
            if name == "set-cookie":
                pair = value.partition(";")[0]
                self._given.add((pair.partition("=")[0].strip(), pair.partition("=")[2].strip()))
        self._values.learn(line, request, response)

    def _owner(self, request: Request, known: dict[str, str]) -> str:
        """The client whose jar would have sent these cookies, the latest first; else a new one."""
        nearest, most = "", 0
        for name in reversed(self._last):
            held = self._clients[name].would_send(request)
            if held == known:
                return name
            common = len(held.items() & known.items())
            if common > most:
                nearest, most = name, common
        if nearest:
            return nearest
        return f"client{len(self._clients) + 1}" if self._clients else "default"

    def _line(self, request: Request, client: str, own: dict[str, str]) -> _Line:
        path = request.target.partition("?")[0]
        title = f"{request.method} {path}"
        headers: list[tuple[str, str]] = []
        scheme = _header(request, "x-forwarded-proto")
        for name, value in request.headers:
            kind = name.lower()
            if _LEFT_OUT.match(kind) and not (kind == "referer" and scheme == "https"):
                continue
            if (kind == "host" and value in _TEST_HOSTS) or (kind == "accept" and value == "*/*"):
                continue
            if (kind == "origin" and request.method in {"GET", "HEAD"}) or not _is_plain(value):
                continue
            written = self._rewrite(Place("header", kind), value)
            if kind in {"if-none-match", "if-match"} and written == value:
                continue  # the tag of an answer that is not in the recording
            headers.append((name, written))
        if own:
            headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in own.items())))
        target = self._values.target(request.target) or rewrite_target(
            request.target, self._rewrite
        )
        body = rewrite_body(request, self._rewrite)
        self._values.chose(request)
        return _Line(request.method, title, target, headers, body, client, None, self._name(title))

    def _rewrite(self, place: Place, value: str) -> str:
        """What stands for a value in the workload: a reference, a secret's name, or the value."""
        return self._values.reference(place, value) or self._secrets.hidden(place, value) or value

    def _name(self, title: str) -> str:
        words = re.sub(r"[^A-Za-z]+", "_", title.lower()).strip("_")[:40].strip("_") or "request"
        self._names[words] += 1
        return words if self._names[words] == 1 else f"{words}_{self._names[words]}"

    def write(self) -> Written:
        """Write the workload, its secrets and its binary bodies.

        Raises:
            OSError: a file cannot be written.
        """
        lines = [line for line in self._lines if line.status is not None]
        for _ in range(len(self._lines) - len(lines)):
            self.leave_out("requests that had no answer yet")
        notes = tuple(
            f"left out: {number} × {why}" for why, number in sorted(self._left_out.items())
        )
        clients = list(dict.fromkeys(line.client for line in lines))
        if not lines:
            return Written(None, 0, 0, 0, 0, notes)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        bodies = self.path.with_name(f"{self.path.stem}-bodies")
        texts = [
            f"# {self.source}\n# Secrets are in {PRIVATE}, which is not for version control.\n"
        ]
        if not self._secrets.values:
            texts = [f"# {self.source}\n"]
        texts[0] += "".join(f"{WEBSOCKET}{path}\n" for path in self._websockets)
        for number, line in enumerate(lines, 1):
            texts.append(self._text(line, clients, bodies / f"{number}.bin"))
        _keep_secrets(self.path.with_name(PRIVATE), self._secrets)
        _replace(self.path, "\n".join(texts).encode(), 0o644)
        return Written(
            self.path,
            len(lines),
            len(clients),
            self._values.bound,
            len(self._secrets.values),
            notes,
        )

    def _text(self, line: _Line, clients: list[str], file: Path) -> str:
        head = [f"### {line.title}"]
        if line.named:
            head.append(f"# @name {line.name}")
        if line.client != clients[0]:
            head.append(f"# @client {_client_name(line.client, clients)}")
        head.append(f"# @status {line.status}")
        head.append(f"{line.method} {line.target}")
        head += [f"{name}: {value}" for name, value in line.headers]
        text = "\n".join(head) + "\n"
        if line.body.text:
            return f"{text}\n{line.body.text}\n"
        if line.body.raw:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(line.body.raw)
            return f"{text}\n< ./{file.parent.name}/{file.name}\n"
        return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _client_name(client: str, clients: list[str]) -> str:
    return client if re.fullmatch(r"client\d+", client) else f"client{clients.index(client) + 1}"


def _cookies(request: Request) -> dict[str, str]:
    written = "; ".join(value for name, value in request.headers if name.lower() == "cookie")
    pairs = (pair.partition("=") for pair in written.split(";") if "=" in pair)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable() and "{{" not in value


def _header(request: Request, name: str) -> str:
    return next((v.lower() for n, v in request.headers if n.lower() == name), "")


def is_asset(request: Request, response: Response) -> bool:
    """Whether a request only fetches a file that pages are made of."""
    if request.method not in {"GET", "HEAD"}:
        return False
    path = request.target.partition("?")[0]
    if path == "/favicon.ico":
        return True
    kind = response.header("content-type") or ""
    return _ASSET.search(path) is not None and (
        response.status == 304 or _ASSET_TYPE.search(kind) is not None
    )


def _keep_secrets(path: Path, secrets: Secrets) -> None:
    """Put the secrets into the file beside the workload, and leave those of other workloads there."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = {}
    everything = found if isinstance(found, dict) else {}
    kept = everything.get(ENVIRONMENT)
    others = {
        name: value
        for name, value in (kept if isinstance(kept, dict) else {}).items()
        if not secrets.is_own(name)
    }
    everything[ENVIRONMENT] = {**others, **secrets.values}
    if secrets.values or kept:
        text = json.dumps(everything, indent=2, ensure_ascii=False) + "\n"
        _replace(path, text.encode(), 0o600)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file as a whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(name).chmod(mode)
    Path(name).replace(path)
