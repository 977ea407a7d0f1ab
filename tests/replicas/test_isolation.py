"""What leaves the isolation is seen, and another machine is never reached."""

from __future__ import annotations

import pytest

from anypod.replicas import Application, RemoteHost, World

WRITER = """
    import contextlib, pathlib, os, sqlite3, subprocess, shutil
    from flask import Flask, jsonify
    app = Flask(__name__)
    OUT = pathlib.Path({out!r})

    @app.get("/<what>")
    def do(what):
        if what == "open":
            (OUT / "open").write_text("x")
        elif what == "append":
            open(OUT / "append", "a").close()
        elif what == "mkdir":
            (OUT / "mkdir").mkdir()
        elif what == "rename":
            pathlib.Path("mine").write_text("x")
            with contextlib.suppress(OSError):  # the disk may be a mount of its own
                os.rename("mine", OUT / "rename")
        elif what == "remove":
            (OUT / "remove").unlink(missing_ok=True)
        elif what == "sqlite":
            sqlite3.connect(OUT / "sqlite").close()
        elif what == "link":
            pathlib.Path("leads-out").symlink_to(OUT)
            pathlib.Path("leads-out", "link").write_text("x")
        elif what == "fd":
            folder = os.open(OUT, os.O_RDONLY)
            os.mkdir("fd", dir_fd=folder)
            os.close(folder)
        elif what == "inside":
            pathlib.Path("inside").write_text("x")
            sqlite3.connect("inside.db").close()
            sqlite3.connect(":memory:").close()
            sqlite3.connect("file:shared?mode=memory&cache=shared", uri=True).close()
            pathlib.Path("a").mkdir()
            shutil.rmtree("a")
            open("/dev/null", "w").close()
            (OUT / "read").read_text()
        return jsonify(True)
"""


@pytest.mark.parametrize(
    "what", ["open", "append", "mkdir", "rename", "remove", "sqlite", "link", "fd"]
)
def test_a_write_elsewhere_is_told(worlds, get, tmp_path, what):
    out = tmp_path / "outside"
    out.mkdir()
    (out / "remove").write_text("x")
    replica = worlds(WRITER.format(out=str(out)), slots=1).start(0)
    assert get(replica, f"/{what}")
    told = (f"not isolated: {out / what}",)
    assert replica.escapes() == told
    replica.kill()
    assert replica.escapes() == told


def test_writes_inside_and_reads_anywhere_are_not(worlds, get, tmp_path):
    out = tmp_path / "outside"
    out.mkdir()
    (out / "read").write_text("x")
    replica = worlds(WRITER.format(out=str(out)), slots=1).start(0)
    assert get(replica, "/inside")
    assert replica.escapes() == ()


def test_a_write_at_import_is_every_replicas(worlds, tmp_path):
    out = tmp_path / "at-import"
    world = worlds(f"open({str(out)!r}, 'w').close()\ndef app(environ, start_response): ...\n")
    assert world.start(0).escapes() == (f"not isolated: {out}",)
    assert world.start(0).escapes() == (f"not isolated: {out}",)


REACHES = """
    import asyncio, http.client, socket
    from flask import Flask, jsonify, request
    app = Flask(__name__)

    @app.get("/<how>/<host>")
    def reach(how, host):
        try:
            if how == "connect":
                with socket.socket() as sock:
                    sock.settimeout(0.2)
                    sock.connect((host, 9))
            elif how == "http":
                http.client.HTTPConnection(host, 9, timeout=0.2).request("GET", "/")
            elif how == "resolve":
                socket.getaddrinfo(host, 80)
            elif how == "asyncio":
                asyncio.run(asyncio.wait_for(asyncio.open_connection(host, 9), 0.5))
            elif how == "udp":
                with socket.socket(type=socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"x", (host, 9))
        except PermissionError as error:
            return jsonify(str(error))
        except OSError as error:
            return jsonify("went through")
        return jsonify("went through")
"""


@pytest.mark.parametrize(
    ("how", "host"),
    [
        ("connect", "192.0.2.1"),
        ("http", "db.example"),
        ("resolve", "db.example"),
        ("asyncio", "192.0.2.1"),
        ("udp", "192.0.2.1"),
    ],
)
def test_another_machine_is_refused_and_told(worlds, get, how, host):
    replica = worlds(REACHES, slots=1).start(0)
    assert f"--allow-host {host}" in get(replica, f"/{how}/{host}")
    assert replica.escapes() == (f"reached for {host}",)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "0.0.0.0"])
def test_this_machine_is_not(worlds, get, host):
    replica = worlds(REACHES, slots=1).start(0)
    assert get(replica, f"/connect/{host}") == "went through"
    assert replica.escapes() == ()


def test_an_allowed_host_is_reached(worlds, get):
    replica = worlds(REACHES, slots=1, allow_hosts=["db.example"]).start(0)
    assert get(replica, "/resolve/db.example") == "went through"
    assert "--allow-host" in get(replica, "/resolve/other.example")


def test_a_remote_host_in_the_environment_stops_everything(tree, env):
    env["DATABASE_URL"] = "postgresql://shop:hunter2@db.internal/shop"
    with pytest.raises(RemoteHost, match=r"DATABASE_URL names db\.internal") as caught:
        World(Application("service:app", tree, env), slots=1)
    assert "--allow-host db.internal" in str(caught.value)
    assert "hunter2" not in str(caught.value)
