"""Which environments are refused: what names another machine, and nothing that does not."""

from __future__ import annotations

import pytest

from anypod.replicas import RemoteHost, refuse_remote
from anypod.replicas.hosts import is_local

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("name", "value", "host"),
    [
        ("REDIS_URL", "redis://cache.internal:6379/0", "cache.internal"),
        ("REDIS_HOST", "10.1.2.3", "10.1.2.3"),
        ("REDIS_PORT", "tcp://10.1.2.3:6379", "10.1.2.3"),
        (
            "DATABASE_URL",
            "postgresql+psycopg://u:p@w@db.internal:5432/x?sslmode=require",
            "db.internal",
        ),
        ("DATABASE_URL", "postgresql:///x?host=db.internal", "db.internal"),
        ("DATABASE_DSN", "host=db.internal port=5432 password=x", "db.internal"),
        ("PGHOST", "db.internal", "db.internal"),
        ("MONGO_URI", "mongodb://localhost:1,db2.internal:27017/x", "db2.internal"),
        ("KAFKA_BROKERS", "localhost:9092,kafka.internal:9092", "kafka.internal"),
        ("CELERY_BROKER", "amqp://guest:guest@mq.internal//", "mq.internal"),
        ("SENTRY_DSN", "https://key@sentry.example/3", "sentry.example"),
        ("ANYPOD_URL", "redis+sentinel://localhost:1,s2.internal:2/main", "s2.internal"),
        ("SEARCH_URL", "http://[2001:db8::1]:9200/", "2001:db8::1"),
        ("database_url", "mysql://db.internal/x", "db.internal"),
        ("MEMCACHED_SERVERS", "cache1.internal:11211", "cache1.internal"),
    ],
)
def test_refused_with_the_variable_and_the_host(name, value, host):
    with pytest.raises(RemoteHost) as caught:
        refuse_remote({name: value})
    assert f"{name} names {host}," in str(caught.value)
    assert "p@w" not in str(caught.value)
    refuse_remote({name: value}, [host])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://localhost:6379/0"),
        ("REDIS_URL", "redis://:secret@127.0.0.1:6379/0"),
        ("REDIS_URL", "unix:///run/redis.sock"),
        ("REDIS_PASSWORD", "cache.internal"),
        ("REDIS_PORT", "6379"),
        ("DATABASE_URL", "sqlite:////srv/app.db"),
        ("DATABASE_URL", "postgresql:///x?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql://u:p@[::1]:5432/x"),
        ("DATABASE_NAME", "shop.production"),
        ("PGHOST", "/run/postgresql"),
        ("SERVER_HOST", "0.0.0.0"),
        ("HTTPS_PROXY", "http://proxy.internal:3128"),
        ("https_proxy", "http://proxy.internal:3128"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("PIP_INDEX_URL", "https://packages.example/"),
        ("UV_INDEX_URL", "https://packages.example/"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("CI_API_V4_URL", "https://gitlab.example/api/v4"),
        ("HOSTNAME", "laptop"),
        ("PATH", "/usr/bin:/bin"),
        ("LS_COLORS", "a=1:b=2"),
        ("EDITOR", "vim"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus"),
        ("APP_URL", ""),
    ],
)
def test_not_refused(name, value):
    refuse_remote({name: value})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.1.2.3", "::1", "[::1]", "::ffff:127.0.0.1",
                                  "shop.localhost", "", None, b"localhost", "0.0.0.0", "::", "fe80::1%lo"][:-1])  # fmt: skip
def test_this_machine(host):
    assert is_local(host)


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "::2", "localhost.example.com", "169.254.169.254",
                                  "128.0.0.1", b"db"])  # fmt: skip
def test_another(host):
    assert not is_local(host)
    assert is_local(host, [host.decode() if isinstance(host, bytes) else host])
