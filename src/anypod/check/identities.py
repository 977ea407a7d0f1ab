"""What differs from process to process: generated secrets, hashes, pids, host names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anypod.check import words
from anypod.check.analysis import Analysis
from anypod.check.facts import (
    ARGS,
    CALL_COL,
    CALL_LINE,
    CALLEE,
    EFFECT_LINE,
    GENERATOR,
    KEY,
    KWARGS,
    NEW,
    OP,
    Module,
    Value,
)
from anypod.check.frames import Frame
from anypod.check.model import ERROR, WARNING
from anypod.check.settings import NOT_PRODUCTION, settings

_GENERATORS = frozenset(
    {
        "os.urandom", "secrets.token_hex", "secrets.token_bytes", "secrets.token_urlsafe", "uuid.uuid4", "uuid.uuid1",
        "cryptography.fernet.Fernet.generate_key", "random.randbytes", "random.choices", "secrets.choice", "random.choice",
        "nacl.utils.random", "Crypto.Random.get_random_bytes", "django.core.management.utils.get_random_secret_key",
        "random.getrandbits", "secrets.randbits", "base64.b64encode",
        "cryptography.hazmat.primitives.asymmetric.rsa.generate_private_key",
    }
)  # fmt: skip
_SECRET = frozenset(
    {
        "secret",
        "key",
        "salt",
        "signing",
        "jwt",
        "fernet",
        "pepper",
        "hmac",
        "signer",
        "serializer",
        "cipher",
    }
)
_NOT_SECRET = frozenset({"instance", "worker", "node", "request", "run", "boot", "build", "cache"})
_SIGNERS = frozenset(
    {
        "cryptography.fernet.Fernet", "itsdangerous.URLSafeTimedSerializer", "itsdangerous.URLSafeSerializer",
        "itsdangerous.TimestampSigner", "itsdangerous.Signer", "starlette.middleware.sessions.SessionMiddleware",
    }
)  # fmt: skip
_IDENTITIES = frozenset(
    {"os.getpid", "socket.gethostname", "platform.node", "uuid.getnode", "threading.get_ident"}
)
_KEYED = frozenset(
    {"get", "set", "setex", "hset", "hget", "incr", "delete", "exists", "expire", "add", "set_etag"}
)


_LEAVING = frozenset(
    "etag shard bucket partition slot node route assign assigned variant experiment rollout key cache id".split()  # noqa: SIM905
)


# Methods that keep what they are given.
_KEEPERS = frozenset({"set", "write", "write_text", "write_bytes", "save", "store", "setdefault"})
_KEEPING = frozenset({"write", "save", "store", "persist"})


# Path, line, column, frame, name, value.
_Candidate = tuple[str, int, int, Frame, str, Value]


class Identity(NamedTuple):
    """Something that only one process knows."""

    path: str
    line: int
    column: int
    frame: Frame
    state: str
    message: str
    purpose: str
    severity: str = ERROR


def secrets(analysis: Analysis) -> Iterator[Identity]:
    """Secrets that each process makes for itself at start-up."""
    if not analysis.entries:
        return
    seen: set[tuple[str, int]] = set()
    handlers = {e.function.module for e in analysis.entries}
    for path, line, column, frame, name, value in _candidates(analysis):
        signs = _is_secret_name(name)
        # Beside the handlers, which tell it to others.
        names = path in handlers and not frame.function.qualname and _is_own_name(name)
        if (path, line) in seen or not (signs or names):
            continue
        maker = next(
            (
                e
                for e in _makers(analysis, value, frame)
                if e in _GENERATORS and e != "base64.b64encode"
            ),
            "",
        )
        if not maker or _is_stored(analysis, value, frame):
            continue
        seen.add((path, line))
        yield Identity(
            path,
            line,
            column,
            frame,
            name,
            f"{name} is made by {maker.rpartition('.')[2]} in every process: "
            + ("what one replica signs, no other accepts" if signs else "each replica is another"),
            "secret",
        )


def _makers(analysis: Analysis, value: Value, frame: Frame, depth: int = 2) -> Iterator[str]:
    """What makes a value, also in checked functions that only make it: one with a condition may know an earlier one."""
    yield from analysis.externals_in(value, frame)
    if not depth:
        return
    for one in analysis.deep(value, frame):
        if one[0] == "r":
            for callee in analysis.resolver.callees(frame, one[1]):
                if callee[0] == "F":
                    child = analysis.resolver.child(frame, one[1], callee)
                    body = child.function.body
                    if not body.tests and not child.function.flags & GENERATOR:
                        for returned in body.returns:
                            if not _is_stored(analysis, returned, child):
                                yield from _makers(analysis, returned, child, depth - 1)


def _is_stored(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """`if not key: key = token_hex(); settings.set("key", key)`: made once, and kept."""
    made = {
        one
        for one in analysis.deep(value, frame)
        if one[0] == "r"
        and any(
            c[0] == "E" and c[1] in _GENERATORS for c in analysis.resolver.callees(frame, one[1])
        )
    }
    return any(
        call[CALLEE][0] == "a"
        and (call[CALLEE][2] in _KEEPERS or words.words(call[CALLEE][2]) & _KEEPING)
        and any(one in made for given in call[ARGS] for one in analysis.deep(given, frame))
        for call in frame.function.body.calls
    )


def _is_secret_name(name: str) -> bool:
    spoken = words.words(name)
    return "secret" in spoken or (bool(spoken & _SECRET) and not spoken & _NOT_SECRET)


def _is_own_name(name: str) -> bool:
    """`node_identifier`: who the service says it is."""
    spoken = words.words(name)
    return bool(spoken & {"identifier", "identity"}) and not spoken & (_NOT_SECRET - {"node"})


def _candidates(analysis: Analysis) -> Iterator[_Candidate]:
    for setting in settings(analysis):
        yield setting.path, setting.line, 0, setting.frame, setting.name, setting.value
    for module in analysis.project.modules.values():
        if not (
            module.is_test or "/migrations/" in f"/{module.path}" or "/versions/" in module.path
        ):
            yield from _in_module(analysis, module)
    for external in analysis.startup_externals:
        call = external.frame.function.body.calls[external.call]
        given = [(k, v) for k, v in call[KWARGS] if _is_secret_name(k)]
        if external.dotted in _SIGNERS and call[ARGS]:
            given.append((f"{external.dotted.rpartition('.')[2]} key", call[ARGS][0]))
        for name, value in given:
            yield (
                external.frame.function.module,
                call[CALL_LINE],
                call[CALL_COL],
                external.frame,
                name,
                value,
            )


def _in_module(analysis: Analysis, module: Module) -> Iterator[_Candidate]:
    frame = analysis.resolver.module_frame(module.path)
    late = False
    for name, entries in module.symbols.items():
        for value, line, function in entries:
            if value[0] == "m":
                late = late or value[1].startswith(("tornado", "traitlets"))
            elif not function and value[0] not in "lc":
                yield module.path, line, 0, frame, name, value
    if late:
        yield from _set_late(analysis, module)
    for cls in module.classes.values():
        if words.words(cls.name) & NOT_PRODUCTION:
            continue
        owner = analysis.resolver.frame(module.functions[cls.owner], startup=True)
        for name, bindings in cls.attributes.items():
            for value, line in bindings:
                yield module.path, line, 0, owner, name, value


def _set_late(analysis: Analysis, module: Module) -> Iterator[_Candidate]:
    """Settings of an application that its framework starts: `settings["cookie_secret"] = …`, `@default("secret")`."""
    for function in module.functions.values():
        calls = module.functions[function.owner].body.calls if function.decorators else ()
        given = [
            str(argument[1])
            for d in function.decorators
            if d[0] == "r" and calls[d[1]][CALLEE][-1] == "default"
            for argument in calls[d[1]][ARGS][:1]
            if argument[0] == "k"
        ]
        name = next(filter(_is_secret_name, given), "")
        if not name and b"_secret" not in function.raw:
            continue
        frame = analysis.resolver.frame(function, startup=True)
        for value in function.body.returns if name else ():
            if value[0] == "r":
                call = function.body.calls[value[1]]
                yield module.path, call[CALL_LINE], call[CALL_COL], frame, name, value
        for effect in function.body.effects:
            if effect[OP] == "set" and effect[KEY] == ("k", "cookie_secret"):
                yield module.path, effect[EFFECT_LINE], 0, frame, "cookie_secret", effect[NEW]


def keys(analysis: Analysis) -> Iterator[Identity]:
    """`hash()`, pids and host names in keys that leave the process."""
    seen: set[tuple[str, int]] = set()
    for external in analysis.externals:
        frame = external.frame
        where = (frame.function.module, external.line)
        if external.dotted.rpartition(".")[2] not in _KEYED or external.dotted.startswith(
            ("request", "builtins.")
        ):
            continue
        call = frame.function.body.calls[external.call]
        if where in seen or not call[ARGS]:
            continue
        found = _identity_in(analysis, call[ARGS][0], frame)
        if found:
            seen.add(where)
            yield _key(frame, external.line, external.column, found)
    yield from _etags(analysis, seen)


def _etags(analysis: Analysis, seen: set[tuple[str, int]]) -> Iterator[Identity]:
    """`response.headers["ETag"] = str(hash(body))`, shard = hash(user) % n, `return hash(x)`."""
    for frame in analysis.parents:
        if frame.function.name in {"__hash__", "__eq__"}:
            continue
        body = frame.function.body
        values = [(e[3], e[4], e[5]) for e in body.effects if e[0] == "set"]
        for value, line, column in values:
            where = (frame.function.module, line)
            if where not in seen and _identity_in(analysis, value, frame) == "hash":
                seen.add(where)
                yield _key(frame, line, column, "hash")
        for index, call in enumerate(body.calls):
            if call[CALLEE] != ("n", "hash") or not call[ARGS]:
                continue
            where = (frame.function.module, call[CALL_LINE])
            if where in seen or not any(_uses(analysis, v, index, frame) for v in body.returns):
                continue
            seen.add(where)
            # Returned is not sent: within one process a hash may be a key.
            leaves = words.words(frame.function.name) & _LEAVING
            found = _key(frame, call[CALL_LINE], call[CALL_COL], "hash")
            yield found if leaves else found._replace(severity=WARNING)


def _uses(analysis: Analysis, value: Value, index: int, frame: Frame) -> bool:
    return any(one == ("r", index) for one in analysis.deep(value, frame))


def _key(frame: Frame, line: int, column: int, name: str) -> Identity:
    reason = (
        "differs from process to process (PYTHONHASHSEED)"
        if name == "hash"
        else "names this process only"
    )
    return Identity(
        frame.function.module,
        line,
        column,
        frame,
        f"{name}()",
        f"{name}() {reason}: another replica does not find what is kept under it",
        "identity",
    )


def _identity_in(analysis: Analysis, value: Value, frame: Frame) -> str:
    for dotted in analysis.externals_in(value, frame):
        if dotted == "builtins.hash" or dotted in _IDENTITIES:
            return dotted.rpartition(".")[2]
    return ""
