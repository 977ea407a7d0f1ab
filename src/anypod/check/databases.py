"""Embedded databases whose file the code names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import finding as drafted
from anypod.check.drafts import located
from anypod.check.facts import ARGS, KWARGS, Value
from anypod.check.files import CONFIGURED, dotted_in, is_configured, is_temporary, texts_in
from anypod.check.frames import walk
from anypod.check.model import ERROR, Finding
from anypod.check.reach import External
from anypod.check.settings import settings, updates

_EMBEDDED = {
    "sqlite3.connect": 0, "aiosqlite.connect": 0, "shelve.open": 0, "dbm.open": 0, "tinydb.TinyDB": 0,
    "diskcache.Cache": 0, "diskcache.FanoutCache": 0, "lmdb.open": 0, "plyvel.DB": 0, "duckdb.connect": 0,
    "sqlitedict.SqliteDict": 0, "pickledb.load": 0, "peewee.SqliteDatabase": 0, "whoosh.index.create_in": 0,
    "playhouse.sqlite_ext.SqliteExtDatabase": 0, "dataset.connect": 0, "databases.Database": 0,
    "sqlalchemy.create_engine": 0, "sqlmodel.create_engine": 0, "sqlalchemy.ext.asyncio.create_async_engine": 0,
}  # fmt: skip
# The same, named by a keyword.
_NAMED = {
    "tortoise.Tortoise.init": "db_url", "tortoise.contrib.fastapi.register_tortoise": "db_url",
    "tortoise.contrib.fastapi.RegisterTortoise": "db_url", "tortoise.contrib.quart.register_tortoise": "db_url",
    "tortoise.contrib.starlette.register_tortoise": "db_url", "tortoise.contrib.sanic.register_tortoise": "db_url",
    "piccolo.engine.sqlite.SQLiteEngine": "path",
}  # fmt: skip
# Vector stores: read-only ones come with the image.
_VECTORS = {
    "chromadb.PersistentClient": "path", "qdrant_client.QdrantClient": "path", "lancedb.connect": "uri",
    "langchain.vectorstores.Chroma": "persist_directory", "langchain_chroma.Chroma": "persist_directory",
    "langchain_community.vectorstores.Chroma": "persist_directory",
}  # fmt: skip
_ADDING = frozenset(
    {
        "add_documents", "aadd_documents", "add_texts", "aadd_texts", "upsert", "upload_points", "upload_collection",
        "delete_collection", "create_collection", "add",
    }
)  # fmt: skip
_URLS = frozenset(
    {
        "dataset.connect", "databases.Database", "sqlalchemy.create_engine", "sqlmodel.create_engine",
        "sqlalchemy.ext.asyncio.create_async_engine", *(name for name, key in _NAMED.items() if key == "db_url"),
    }
)  # fmt: skip
_COMPLETE = r"^[\w:/.+~ -]*\w[\w-]*(\.\w+|$)$"


def embedded_databases(analysis: Analysis, why: str) -> Iterable[Finding]:
    """Embedded databases that the code names and requests use."""
    if not analysis.entries:
        return
    seen: set[tuple[str, int]] = set()
    found: dict[str, Finding] = {}
    for external in (*analysis.externals, *analysis.startup_externals):
        path = _path(analysis, external)
        if path is None:
            continue
        where = (external.frame.function.module, external.line)
        if where in seen:
            continue
        seen.add(where)
        one = _embedded(analysis, external, path, why)
        if one is None:
            continue
        first = found.setdefault(one.state, one)
        if first is not one:
            found[one.state] = first._replace(sites=(*first.sites, *one.sites))
    yield from found.values()
    yield from _configured_databases(analysis, why)


def _path(analysis: Analysis, external: External) -> Value | None:
    """What says where the database is, when the call opens one."""
    call = external.frame.function.body.calls[external.call]
    at = _EMBEDDED.get(external.dotted)
    if at is not None:
        return call[ARGS][at] if len(call[ARGS]) > at else None
    keyword = _NAMED.get(external.dotted)
    if keyword is None:
        keyword = _VECTORS.get(external.dotted)
        if keyword is None or not _is_added_to(analysis, external):
            return None
    return next((value for name, value in call[KWARGS] if name == keyword), None)


def _is_added_to(analysis: Analysis, external: External) -> bool:
    """Whether requests add to what a call opens."""
    kept = f"{external.dotted}()."
    return any(
        other.dotted.startswith(kept) and other.dotted.rpartition(".")[2] in _ADDING
        for other in analysis.externals
    )


def _embedded(analysis: Analysis, external: External, path: Value, why: str) -> Finding | None:
    frame = external.frame
    if is_temporary(analysis, path, frame) or is_configured(analysis, path, frame):
        return None
    if any(d.startswith(("os.environ", "os.getenv")) for d in dotted_in(analysis, path, frame)):
        return None
    texts = texts_in(analysis, path, frame)
    constant = analysis.resolver.constant(path, frame)
    if isinstance(constant, str):
        texts.append(constant)
    if external.dotted in _URLS and not any(t.startswith("sqlite") for t in texts):
        return None
    if not texts or any(":memory:" in t or t in {"sqlite://", ""} for t in texts):
        return None
    if external.dotted.startswith(("sqlite3", "aiosqlite")) and any("mode=ro" in t for t in texts):
        return None
    name = next((t for t in texts if re.match(_COMPLETE, t)), "")
    if not name:
        # Only a part of the name is fixed: the rest is configuration.
        return None
    opener = external.dotted.rpartition(".")[2]
    message = f"{opener} opens {name!r} on this pod's own disk"
    state = f"embedded database {name!r}"
    place = ("POD105", ERROR, frame, external.line, external.column, opener)
    if frame in analysis.parents:
        return drafted(
            analysis, *place, state=state, message=message, why=why, purpose="file", access="file"
        )
    return located(*place, state=state, message=message, why=why, purpose="file")


def _configured_databases(analysis: Analysis, why: str) -> Iterable[Finding]:
    """`SQLALCHEMY_DATABASE_URI = "sqlite:///x.db"` and Django's `DATABASES`, written as constants."""
    for setting in settings(analysis):
        text = ""
        if (
            setting.name in {"SQLALCHEMY_DATABASE_URI", "DATABASE_URL", "DATABASE_URI"}
            and setting.value[0] == "k"
        ):
            text = str(setting.value[1])
            if not text.startswith("sqlite:///") or ":memory:" in text or "mode=memory" in text:
                continue
        elif setting.name == "DATABASES":
            texts = [str(v[1]) for v in walk(setting.value) if v[0] == "k"]
            frame = setting.frame
            if "django.db.backends.sqlite3" not in texts or any(":memory:" in t for t in texts):
                continue
            given = (setting.value, *updates(frame, setting.name))
            if any(d.startswith(CONFIGURED) for v in given for d in dotted_in(analysis, v, frame)):
                continue
            text = "django.db.backends.sqlite3"
        if text:
            yield setting.finding(
                "POD105",
                f"embedded database {text!r}",
                f"{setting.name} puts the database on this pod's own disk",
                why,
                "file",
            )
