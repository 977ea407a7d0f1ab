"""# POD110: library left at its process-local default.

**What it does.** Finds libraries for caches, rate limits, sessions, sockets and jobs that are left at (or set to) a
default which keeps their state in one process, from a table that projects extend with
`[[tool.anypod.check.local-defaults]]`.

**Why it is bad.** It works on a developer's machine and in the tests; with N replicas there are N caches, N limits
and N groups of sockets that do not know each other.

```python
from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_socketio import SocketIO

app = Flask(__name__)
limiter = Limiter(get_remote_address, app=app)  # POD110
socketio = SocketIO(app)  # POD110


@app.get("/")
@limiter.limit("5/minute")
def index():
    return "ok"
```

```python
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}  # POD110
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}  # POD110
```

**Never reported.** The same libraries with a shared store, also when the configuration names it.

```python
import os

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_socketio import SocketIO

app = Flask(__name__)
limiter = Limiter(get_remote_address, app=app, storage_uri=os.environ["REDIS_URL"])
socketio = SocketIO(app, message_queue=os.environ["REDIS_URL"])
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache"}}


@app.get("/")
@limiter.limit("5/minute")
def index():
    return "ok"
```
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anypod.check.analysis import Analysis
from anypod.check.defaults import (
    CACHE_CHANGES,
    CALLS,
    CONFIGURABLE,
    DJANGO_CACHE,
    KEYED_VALUES,
    SETTINGS,
    VALUES,
    CallRow,
)
from anypod.check.drafts import located
from anypod.check.facts import ARGS, KWARGS, Value
from anypod.check.frames import Frame
from anypod.check.memory import Verdict
from anypod.check.model import ERROR, Finding
from anypod.check.reach import External
from anypod.check.settings import of_django, settings

WHY = "Every replica has its own; nothing that one knows reaches the others."
_BY_VALUE = {row.value: row for row in VALUES}


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:  # every rule's shape  # noqa: ARG001  # every rule's shape
    """One finding for each call or setting."""
    seen: set[tuple[str, int]] = set()
    configured = {s.name for s in settings(analysis)}
    requested = {frame.function.key for frame in analysis.parents}
    rows = {row.call: row for row in (*CALLS, *_own(analysis))}
    for external in (*analysis.startup_externals, *analysis.externals):
        where = (external.frame.function.module, external.line)
        if where in seen or _is_test(external.frame):
            continue
        row = rows.get(external.dotted) or rows.get(f"*.{external.dotted.rpartition('.')[2]}")
        if row is not None and row.shared and external.frame.function.key in requested:
            continue
        if row is not None and not _is_excused(analysis, external, row, configured):
            seen.add(where)
            yield _finding(external, row.call.rpartition(".")[2], row.what, row.instead)
        elif external.dotted in CONFIGURABLE:
            what, instead = _constant_argument(analysis, external)
            if what:
                seen.add(where)
                yield _finding(external, external.dotted.rpartition(".")[2], what, instead)
    yield from _default_cache(analysis, configured)
    for setting in settings(analysis):
        value_row = None
        if setting.name in SETTINGS:
            value_row = next(
                (
                    _BY_VALUE[t]
                    for t in _constants(analysis, setting.value, setting.frame)
                    if t in _BY_VALUE
                ),
                None,
            )
        if value_row is not None and (setting.path, setting.line) not in seen:
            seen.add((setting.path, setting.line))
            yield setting.finding(
                "POD110",
                setting.name,
                f"{setting.name} = {value_row.value!r}: {value_row.what}",
                WHY,
                "data",
            )._replace(fix=f"{setting.name}: {value_row.instead}")


def _default_cache(analysis: Analysis, configured: set[str]) -> Iterator[Finding]:
    """Django's cache, changed by requests of a project whose settings name none."""
    if "CACHES" in configured or not of_django(analysis):
        return
    for external in analysis.externals:
        if (
            external.dotted.startswith(DJANGO_CACHE)
            and external.dotted.removeprefix(DJANGO_CACHE) in CACHE_CHANGES
        ):
            row = _BY_VALUE["django.core.cache.backends.locmem.LocMemCache"]
            yield _finding(
                external,
                "CACHES",
                f"no CACHES in the settings: {row.what}",
                f"CACHES: {row.instead}",
            )
            return


def _own(analysis: Analysis) -> Iterator[CallRow]:
    for row in analysis.local_defaults:
        unless = row.get("unless", "")
        yield CallRow(
            row.get("call", ""),
            tuple(unless.replace(",", " ").split()),
            row.get("what", "it is kept in this process"),
            row.get("instead", "its shared form"),
        )


def _is_test(frame: Frame) -> bool:
    return "/tests/" in f"/{frame.function.module}" or frame.function.module.rpartition("/")[
        2
    ].startswith("test_")


def _is_excused(analysis: Analysis, external: External, row: CallRow, configured: set[str]) -> bool:
    call = external.frame.function.body.calls[external.call]
    given = dict(call[KWARGS])
    for name in row.unless:
        if name in given:
            # `storage_uri="memory://"` says the default aloud.
            return not (
                set(_constants(analysis, given[name], external.frame)) & {"memory://", "mem://"}
            )
    if "**" in given and row.unless:
        return True
    if (
        row.call == "flask_limiter.Limiter"
        and {"RATELIMIT_STORAGE_URI", "RATELIMIT_STORAGE_URL"} & configured
    ):
        return True
    if row.call == "flask_socketio.SocketIO":
        return any(
            other.dotted == "flask_socketio.SocketIO().init_app"
            and any(
                k in row.unless or k == "**"
                for k, _ in other.frame.function.body.calls[other.call][KWARGS]
            )
            for other in analysis.startup_externals
        )
    return False


def _constant_argument(analysis: Analysis, external: External) -> tuple[str, str]:
    call = external.frame.function.body.calls[external.call]
    for value in (*call[ARGS], *(v for _, v in call[KWARGS])):
        for text in _constants(analysis, value, external.frame):
            if text in KEYED_VALUES:
                return KEYED_VALUES[text], "a shared backend"
            row = _BY_VALUE.get(text)
            if row is not None:
                return row.what, row.instead
    return "", ""


def _constants(analysis: Analysis, value: Value, frame: Frame) -> list[str]:
    found = []
    for one in analysis.deep(value, frame):
        if one[0] == "r":
            # What the environment may say is the configuration's business.
            if any(
                e.startswith(("os.", "decouple", "environ"))
                for e in analysis.externals_in(one, frame)
            ):
                return []
        elif one[0] == "k" and isinstance(one[1], str):
            found.append(one[1])
    return found


def _finding(external: External, name: str, what: str, instead: str) -> Finding:
    return located(
        "POD110",
        ERROR,
        external.frame,
        external.line,
        external.column,
        name,
        state=name,
        message=f"{name} is left process-local: {what}",
        why=WHY,
        purpose="data",
    )._replace(fix=instead)
