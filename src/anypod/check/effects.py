"""What external calls do to stores and to the world: inserts, increments, charges, mails, files, locks.

Only dotted names, arguments and SQL texts are known here, so this is a vocabulary: what is not in it is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from anypod.check import words
from anypod.check.analysis import Analysis
from anypod.check.facts import ARGS, CALL_CONTEXT, CALL_LINE, KWARGS, Value
from anypod.check.frames import Frame
from anypod.check.reach import External

# Compiled when first needed: most code has no SQL, and the start must be quick.
_SQL = r"(?is)^\s*(?:WITH\b.*?\)\s*)?(INSERT|UPDATE|DELETE|REPLACE|SELECT)\b"
_SQL_ADDS = r"(?is)\bSET\b.*?\b(\w+)\s*=\s*(?:\w+\.)?\1\s*[-+|]"
_SQL_TOGGLES = r"(?is)\bSET\b.*?\b(\w+)\s*=\s*NOT\s+\1\b"
_UPSERT = r"(?i)ON\s+CONFLICT|ON\s+DUPLICATE|INSERT\s+OR\s+|WHERE\s+NOT\s+EXISTS|MERGE\s+INTO"

_SQL_CALLS = frozenset(
    {"execute", "executemany", "fetch", "fetchrow", "fetchval", "text", "raw", "exec"}
)
_REDIS_ADDS = frozenset(
    "incr incrby incrbyfloat decr decrby hincrby hincrbyfloat lpush rpush zincrby xadd".split()  # noqa: SIM905
)
_MONEY = frozenset(
    """charge charges refund refunds payment payments payout payouts payintent paymentintent transfer transfers
    capture invoice invoices stripe braintree paypal adyen razorpay""".split()  # noqa: SIM905
)
_MONEY_VERBS = frozenset(
    """create charge refund capture pay payout transfer send sale submit process credit debit
    process_payment charge_card issue_refund make_payment""".split()  # noqa: SIM905
)
_MAIL = frozenset(
    """send_mail sendmail send_message send_email send_sms send_push_notification notify_customer send_mass_mail
    send_templated_mail mail_send""".split()  # noqa: SIM905
)
_HTTP_CLIENTS = (
    "requests.post", "requests.put", "requests.patch", "requests.Session().post", "httpx.post", "httpx.Client().post",
    "httpx.AsyncClient().post", "aiohttp.ClientSession().post", "requests.request", "httpx.put",
    "httpx.patch", "urllib.request.urlopen",
)  # fmt: skip
_KEYS = frozenset(
    {"idempotency_key", "idempotency", "request_id", "dedupe", "dedup", "transaction_id"}
)
_DATABASES = frozenset(
    "session db dbsession database databases transaction tx uow conn connection sess s".split()  # noqa: SIM905
)
_DIAGNOSTIC = frozenset(
    "audit log logs event events activity activities metric metrics trail analytics visit view impression".split()  # noqa: SIM905
)


def arguments(external: External) -> tuple[Value, ...]:
    """Everything that a call is given."""
    call = external.frame.function.body.calls[external.call]
    return (*call[ARGS], *(v for _, v in call[KWARGS]))


def sql_of(analysis: Analysis, external: External) -> str:
    """The SQL text that a call runs, when it is written there."""
    if external.dotted.rpartition(".")[2] not in _SQL_CALLS:
        return ""
    for argument in arguments(external)[:1]:
        for one in analysis.deep(argument, external.frame, 20):
            if one[0] == "k" and isinstance(one[1], str) and re.match(_SQL, one[1]):
                return one[1]
            if one[0] in {"n", "a"}:
                text = analysis.resolver.constant(one, external.frame)
                if isinstance(text, str) and re.match(_SQL, text):
                    return text
    return ""


def kind_of(analysis: Analysis, external: External) -> str:
    """insert, increment, toggle, charge, mail, post, or "" for what is not judged."""
    dotted = external.dotted
    last = dotted.rpartition(".")[2]
    if "unittest" in dotted or dotted.startswith(("logging.", "builtins.")):
        return ""
    sql = sql_of(analysis, external)
    if sql:
        return _sql_kind(sql)
    if last in _REDIS_ADDS and _is_redis(dotted):
        return "increment"
    if is_insert(analysis, external):
        return "" if _is_diagnostic(analysis, external) else "insert"
    if has_key(analysis, external):
        return ""
    if _is_money(dotted, last):
        return "charge"
    if last in _MAIL:
        return "mail"
    if dotted.startswith(_HTTP_CLIENTS):
        return "post"
    return ""


def _sql_kind(sql: str) -> str:
    if re.search(_UPSERT, sql):
        return ""
    verb = re.match(_SQL, sql)
    if verb is None:
        return ""
    if verb[1].upper() == "INSERT":
        table = re.search(r"INTO\s+[\"`]?(\w+)", sql, re.IGNORECASE)
        return "" if table and words.words(table[1]) & _DIAGNOSTIC else "insert"
    if verb[1].upper() == "UPDATE":
        where = sql.upper().partition("WHERE")[2]
        # `… WHERE status <> 'done'`: the statement itself decides, once.
        if re.search(r"<>|!=|STATUS|STATE|IS NULL|IS NOT|CANCELL?ED|PROCESSED|NOT IN|>=|<=", where):
            return ""
        if re.search(_SQL_ADDS, sql):
            return "increment"
        if re.search(_SQL_TOGGLES, sql):
            return "toggle"
    return ""


def inserted_table(sql: str) -> str:
    """The table that a plain INSERT adds a row to; "" for one that settles conflicts, and for other statements."""
    found = re.match(r"(?is)\s*INSERT\s+INTO\s+[\"`\[]?(\w+)", sql)
    return "" if found is None or re.search(_UPSERT, sql) else found[1]


def _is_redis(dotted: str) -> bool:
    lowered = dotted.lower()
    return (
        "redis" in lowered
        or "valkey" in lowered
        or "?.r." in lowered
        or "cache" in lowered
        or "kv" in lowered
    )


def is_insert(analysis: Analysis, external: External) -> bool:
    """Whether a call adds a row or document that did not exist."""
    dotted = external.dotted
    last = dotted.rpartition(".")[2]
    if last in {"add", "add_all"}:
        given = arguments(external)
        if not given:
            return False
        return is_session(dotted) and any(
            _is_new_row(analysis, one, external.frame) for one in given
        )
    if last in {"create", "bulk_create", "acreate"} and (
        ".objects." in dotted or ".query." in dotted
    ):
        return True
    if last in {"insert_one", "insert_many"}:
        return True
    return last == "insert" and (
        ".table" in dotted or "collection" in dotted or "db" in words.words(dotted)
    )


def is_session(dotted: str) -> bool:
    """Whether a dotted name looks like a database session."""
    if "flask.session" in dotted:
        return False
    spoken = {w for part in re.split(r"[.()?]+", dotted) for w in words.words(part)}
    return bool(spoken & _DATABASES) or "sqlalchemy" in dotted.lower() or "sqlmodel" in dotted


def _is_new_row(analysis: Analysis, value: Value, frame: Frame) -> bool:
    for one in analysis.deep(value, frame, 30):
        if one[0] != "r":
            continue
        for callee in analysis.resolver.callees(frame, one[1]):
            if callee[0] == "C":
                return True
            if callee[0] in "EX":
                last = str(callee[1] if callee[0] == "E" else callee[2]).rpartition(".")[2]
                if last[:1].isupper() and last not in {"Decimal", "Path"}:
                    return True
    return False


def _is_diagnostic(analysis: Analysis, external: External) -> bool:
    names: set[str] = set()
    for argument in arguments(external):
        for one in analysis.deep(argument, external.frame, 12):
            if one[0] == "r":
                for callee in analysis.resolver.callees(external.frame, one[1]):
                    names.add(
                        callee[1][1]
                        if callee[0] == "C"
                        else str(callee[1] if callee[0] == "E" else "")
                    )
    names.update(external.dotted.split("."))
    return words.any_of({n.rpartition(".")[2] for n in names}, _DIAGNOSTIC)


def has_key(analysis: Analysis, external: External) -> bool:
    """Whether a call carries an idempotency key."""
    call = external.frame.function.body.calls[external.call]
    if any(name in _KEYS for name, _ in call[KWARGS]):
        return True
    for value in arguments(external):
        for one in analysis.deep(value, external.frame, 80):
            if one[0] == "k" and isinstance(one[1], str) and "idempot" in one[1].lower():
                return True
    return False


def _is_money(dotted: str, last: str) -> bool:
    vocabulary = {w for part in re.split(r"[.()]+", dotted) for w in words.words(part)}
    return bool(vocabulary & _MONEY) and (
        last in _MONEY_VERBS
        or any(last.startswith(f"{v}_") for v in ("charge", "refund", "create", "send", "pay"))
    )


# Conditions that make an effect happen once

_NOT_ABOUT_STATE = frozenset(
    """valid validate validates authenticated permission permissions perm perms owner author role roles admin
    staff superuser anonymous user method form methods debug user_id owner_id author_id is_valid current_user
    authorized authorised auth password token token_type""".split()  # noqa: SIM905
)


def surrounding(
    analysis: Analysis, frame: Frame, context: int
) -> Iterator[tuple[str, Value, Frame]]:
    """Conditions around a site, in its function and at the calls that lead there."""
    for kind, value in analysis.conditions(frame, context):
        yield kind, value, frame
    current = frame
    for _ in range(6):
        parent = analysis.parents.get(current)
        if parent is None:
            return
        above, line = parent
        for call in above.function.body.calls:
            if call[CALL_LINE] == line:
                for kind, value in analysis.conditions(above, call[CALL_CONTEXT]):
                    yield kind, value, above
                break
        current = above


def is_guarded(analysis: Analysis, frame: Frame, context: int, *, inserts: bool) -> bool:
    """Whether a condition on stored data (or a claim) decides that an effect happens only once."""
    for kind, value, where in surrounding(analysis, frame, context):
        if kind == "with":
            if _is_claim(analysis, value, where):
                return True
        elif kind in {"if", "else"} and _decides(analysis, kind, value, where, inserts=inserts):
            return True
    return False


def _is_claim(analysis: Analysis, value: Value, frame: Frame) -> bool:
    text = " ".join(analysis.externals_in(value, frame)).lower()
    text += " ".join(analysis.names_of(value, frame)).lower()
    return "claim" in text or "idempot" in text


def _decides(analysis: Analysis, kind: str, value: Value, frame: Frame, *, inserts: bool) -> bool:
    tag: str = value[0]
    if tag == "s":
        options = frame.function.body.slots[value[1]]
        if all(o[0] in {"o", "u"} for o in options):
            return any(_decides(analysis, kind, o, frame, inserts=inserts) for o in options)
    if tag == "u":
        return any(_decides(analysis, kind, v, frame, inserts=inserts) for v in value[1])
    if words.any_of(analysis.names_of(value, frame, arguments=False), _NOT_ABOUT_STATE):
        return False
    if tag == "o" and value[1] == "Not":
        inner = value[2][0]
        if inner[0] in {"s", "r"} and not _is_attribute(inner, frame):
            # `if not found: …` inserts what is missing; `if not found: raise` decides nothing.
            return (kind == "if" and inserts) or _is_conditional_update(analysis, inner, frame)
        return True
    if tag == "o" and value[1] in {"Is", "IsNot"} and value[2][-1] == ("k", None):
        if _is_attribute(value[2][0], frame) or _is_conditional_update(
            analysis, value[2][0], frame
        ):
            return True
        absent = (value[1] == "Is") == (kind == "if")
        return absent and inserts
    if tag == "o":
        return _looks_at_data(analysis, value, frame)
    if tag in {"s", "r"} and not _is_attribute(value, frame):
        # `if found: return` before an insert; `if stored.set(nx=True): …`.
        return kind == "else" or _is_conditional_update(analysis, value, frame)
    return tag in {"a", "i"}


def _is_attribute(value: Value, frame: Frame) -> bool:
    if value[0] == "s":
        return any(o[0] == "a" for o in frame.function.body.slots[value[1]])
    return bool(value[0] == "a")


def _is_conditional_update(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value is the outcome of an atomic command: UPDATE … RETURNING, SET NX, get_or_create."""
    for dotted in analysis.externals_in(value, frame):
        last = dotted.rpartition(".")[2]
        if last in {
            "update",
            "returning",
            "setnx",
            "get_or_create",
            "sadd",
            "hsetnx",
            "delete",
            "getdel",
        }:
            return True
        if last == "set" and _is_redis(dotted):
            return True
    return False


def _looks_at_data(analysis: Analysis, value: Value, frame: Frame) -> bool:
    return any(one[0] in {"a", "r", "i"} for one in analysis.deep(value, frame))
