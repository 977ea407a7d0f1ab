"""All pods find their copy of the project at one path, as they do in production."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from anypod.replicas import Application, World, place

TELLS = """
    import os, tempfile
    from pathlib import Path
    from flask import Flask, jsonify, request

    app = Flask(__name__)

    @app.get("/where")
    def where():
        return jsonify([os.getcwd(), __file__, tempfile.gettempdir(), str(Path.home()), os.environ["PWD"]])

    @app.get("/keep")
    def keep():
        kept = Path("kept").absolute()
        kept.write_text("x")
        return jsonify(str(kept))

    @app.get("/there")
    def there():
        return jsonify(os.path.exists(request.args["path"]))
"""

ENTERS = """
import os, sys
from pathlib import Path
from anypod.replicas.place import enter
slot = Path(sys.argv[1])
os.chdir(slot / "disk")
os.environ["HOME"] = str(slot / "home")
place = enter(slot)
print(place.name, Path.cwd().relative_to(place), os.environ["HOME"] == str(place / "home"))
Path("made").write_text("x")
try:
    Path("closed").read_text()
    print("opened")
except PermissionError:
    print("closed")
"""


def _can_mount(tmp_path: Path) -> bool:
    """Whether this machine lets this user mount; asked of a process of its own."""
    (tmp_path / "probe/slot-0/disk").mkdir(parents=True)
    return _entered(tmp_path / "probe/slot-0")[0].startswith("pod ")


def _entered(slot: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ENTERS, str(slot)], capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


def test_pods_have_their_copies_at_one_path_and_do_not_see_each_others(worlds, get, tmp_path):
    world = worlds(TELLS)
    one, two = world.start(0), world.start(1)
    here, there = get(one, "/where"), get(two, "/where")
    kept = get(one, "/keep")
    assert get(one, f"/there?path={kept}") is True
    if _can_mount(tmp_path):
        assert here == there
        assert get(two, f"/there?path={kept}") is False
    else:
        assert all(theirs != ours for ours, theirs in zip(here, there, strict=True))


def test_what_is_written_there_is_in_the_slots_directory(tmp_path):
    slot = tmp_path / "slot-3"
    (slot / "disk").mkdir(parents=True)
    (slot / "disk" / "closed").touch(mode=0o000)
    told, opened = _entered(slot)
    name = "pod" if told.startswith("pod ") else "slot-3"
    assert told == f"{name} disk True"
    assert opened == ("opened" if os.geteuid() == 0 else "closed")
    assert (slot / "disk" / "made").read_text() == "x"
    assert not (tmp_path / "pod" / "disk").exists()


def test_a_process_that_did_not_enter_leaves_nothing(tmp_path):
    place.leave(tmp_path / "slot-0")
    assert list(tmp_path.iterdir()) == []


def test_commands_see_the_same_place_as_well(tree, env, get, tmp_path):
    (tree / "service.py").write_text(textwrap.dedent(TELLS))
    command = f"{sys.executable} -m flask --app service run --port $PORT"
    with World(Application("", tree, env, command=command), slots=2) as world:
        kept = get(world.start(0), "/keep")
        other = world.start(1)
        if _can_mount(tmp_path):
            assert get(other, "/keep") == kept
        else:
            assert get(other, f"/there?path={kept}") is True
