"""Fixtures for every test: real servers (`tests/servers.py`)."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

# A shell starts what it puts into the background with Ctrl-C ignored, and programs inherit that. The tests
# that interrupt one must not depend on how the tests themselves were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test modules are imported by path, so the folder of the shared ones is made known here.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.mysql_servers import mysql_server, new_mysql_url  # noqa: F401  # after the path; pytest finds fixtures by name
from tests.postgres_servers import (  # noqa: F401
    new_postgres_url,
    postgres_server,
    postgres_url,
)
from tests.servers import (  # noqa: F401
    redis_cluster,
    redis_server,
    redis_url,
    redis_watched,
    valkey_server,
    valkey_url,
)
