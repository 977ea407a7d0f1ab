"""Flask: server-side sessions, Idempotency-Key and health checks, each one line in an application.

app.session_interface = AnypodSessionInterface(state)      # `flask.session`, on every pod

@app.post("/orders")
@idempotent(state)                                         # a retry gets the first answer
def place_order(): ...

Health(app, state)                                         # /livez, /readyz
"""

from __future__ import annotations

from anypod.web.flask.health import Health
from anypod.web.flask.idempotent import idempotent, nothing_happened
from anypod.web.flask.sessions import AnypodSessionInterface, FlaskSession, logout, rotate

__all__ = [
    "AnypodSessionInterface",
    "FlaskSession",
    "Health",
    "idempotent",
    "logout",
    "nothing_happened",
    "rotate",
]
