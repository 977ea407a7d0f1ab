"""The primitive that replaces a state, in three lines of the reader's framework."""

from __future__ import annotations

_STATE = "state = State.from_env()  # from anypod import State"

# Purpose -> (where it is made, where it is used); `{a}` is "a" in async code.
_SNIPPETS = {
    "counter": ('{name} = state.counter("{name}")', "value = {await_}{name}.{a}increment()"),
    "data": ('{name} = state.map("{name}")', "{await_}{name}.{a}update(key, lambda old: …)"),
    "cache": ('{name} = state.cache("{name}", ttl=300.0)', "value = {await_}{name}.{a}get_or_load(key, load)"),
    "session": ('{name} = state.session("{name}")', "session = {await_}{name}.{a}create(user=user_id)"),
    "connections": (
        "publish(message)      # to a broker that every replica subscribes to",
        "forward(message)      # each replica, to the sockets that it holds itself",
    ),
    "queue": (
        "enqueue(job)          # into a broker or a table that every replica reads",
        'with state.idempotency("{name}").claim(job.id) as attempt: …',
    ),
    "idempotency": (
        'with state.idempotency("{name}").claim(key, fingerprint) as attempt:',
        "    … attempt.complete(result)  # a retry gets the same result, and nothing happens twice",
    ),
}  # fmt: skip
_WHOLE = {
    "file": (
        "write to a database or an object store; or mount a volume that every replica sees and list it:",
        "[tool.anypod.check]",
        'shared-paths = ["/var/uploads"]',
    ),
    "lock": (
        "let the database decide: UPDATE … WHERE, a unique constraint, SELECT … FOR UPDATE",
        "or one atomic command of the store: state.counter(…), state.map(…).update(…)",
    ),
    "secret": (
        'app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]  # one value for every replica',
    ),
    "identity": ("key = hashlib.sha256(value).hexdigest()  # the same on every replica",),
    "update": (
        "UPDATE … SET n = n + 1                 # the database adds: one statement, no value read before",
        "or a condition in the same statement:  UPDATE … WHERE status <> 'done'",
    ),
    "atomic": (
        "one command instead of two: INCR, SET … NX, HINCRBY, a script, or WATCH/MULTI",
        'or: state.counter("…").increment(), state.map("…").update(key, change)',
    ),
    "schedule": (
        "run it once, outside the replicas: a CronJob, or one worker deployment",
        'or claim each run: with state.idempotency("job").claim(period) as attempt: …',
    ),
    "flask-session": (
        "from anypod.web.flask import AnypodSessionInterface",
        "app.session_interface = AnypodSessionInterface(State.from_env())",
        'flask.session["user_id"] = user_id',
    ),
}


def replacement(purpose: str, name: str, framework: str, *, is_async: bool) -> str:
    """At most three lines that replace a state called `name`."""
    if purpose == "session" and framework == "flask":
        purpose = "flask-session"
    if purpose in _WHOLE:
        return "\n".join(_WHOLE[purpose])
    identifier = "".join(c if c.isalnum() else "_" for c in name).strip("_") or "shared"
    values = {
        "name": identifier,
        "await_": "await " if is_async else "",
        "a": "a" if is_async else "",
    }
    return "\n".join([_STATE, *(line.format(**values) for line in _SNIPPETS[purpose])])
