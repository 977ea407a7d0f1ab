"""A disk returns to exactly what it was, whatever was done to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anypod.replicas.disk import Disk, diff, snapshot
from anypod.replicas.errors import Interrupted
from anypod.replicas.tree import copy_tree
from anypod.replicas.watch import Watch

pytestmark = pytest.mark.quick


def content(root: Path) -> dict[str, object]:
    """What is below a directory, by path."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    (path / "a" / "b").mkdir(parents=True)
    (path / "top.txt").write_text("top")
    (path / "a" / "x.txt").write_text("x")
    (path / "a" / "b" / "y.txt").write_text("y")
    (path / "link").symlink_to("a/x.txt")
    return path


@pytest.fixture
def disk(image: Path, tmp_path: Path) -> Disk:
    copy_tree(image, tmp_path / "disk")
    disk = Disk(tmp_path / "disk", origin=image, stash=tmp_path / "stash")
    disk.capture()
    return disk


def test_copying_is_given_up_between_two_files(image, tmp_path):
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        copy_tree(image, tmp_path / "disk", stop=lambda: next(answers))
    copied = [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]
    assert len(copied) == 1


def test_what_is_copied_and_what_is_not(image, tmp_path):
    for name in (".git", ".venv", "node_modules", "__pycache__", "custom-env"):
        (image / name).mkdir()
        (image / name / "file").write_text("x")
    (image / "custom-env" / "pyvenv.cfg").write_text("")
    (image / "absolute").symlink_to(image / "a")
    (image / "elsewhere").symlink_to("/etc/hostname")
    os.mkfifo(image / "pipe")
    (image / "top.txt").chmod(0o640)
    os.utime(image / "top.txt", ns=(1, 1_000_000_000))
    target = tmp_path / "copy"
    copy_tree(image, target, leave_out=[image / "a" / "b"])
    assert set(content(target)) == {"a", "a/x.txt", "absolute", "elsewhere", "link", "top.txt"}
    assert (target / "absolute").readlink() == target / "a"
    assert (target / "elsewhere").readlink() == Path("/etc/hostname")
    assert (target / "top.txt").stat().st_mtime_ns == 1_000_000_000
    assert (target / "top.txt").stat().st_mode & 0o777 == 0o640


def test_a_repository_in_the_tree_is_what_a_service_writes_to(image, tmp_path):
    """A wiki keeps its pages in one; the project's own is left out, and one that is too large."""
    for place in (image / ".git", image / "pages" / ".git"):
        (place / "refs").mkdir(parents=True)
        (place / "HEAD").write_text("ref: refs/heads/main")
    copy_tree(image, tmp_path / "copy")
    assert (tmp_path / "copy" / "pages" / ".git" / "HEAD").is_file()
    assert (tmp_path / "copy" / "pages" / ".git" / "refs").is_dir()
    assert not (tmp_path / "copy" / ".git").exists()
    (image / "pages" / ".git" / "pack").write_text("x" * 1000)
    copy_tree(image, tmp_path / "small", max_bytes=1000)
    assert (tmp_path / "small" / "pages").is_dir()
    assert not (tmp_path / "small" / "pages" / ".git").exists()


DEEDS = {
    "write": lambda root: (root / "top.txt").write_text("other"),
    "same size": lambda root: (root / "top.txt").write_text("pot"),
    "same size and time": lambda root: _rewrite_secretly(root / "top.txt", "pot"),
    "append": lambda root: _append(root / "a" / "x.txt"),
    "remove": lambda root: (root / "a" / "b" / "y.txt").unlink(),
    "remove folder": lambda root: shutil.rmtree(root / "a"),
    "replace file by folder": lambda root: _file_to_folder(root / "top.txt"),
    "replace folder by file": lambda root: _folder_to_file(root / "a"),
    "replace link": lambda root: _relink(root / "link"),
    "link by file": lambda root: ((root / "link").unlink(), (root / "link").write_text("x")),
    "new folders": lambda root: (root / "n" / "m").mkdir(parents=True),
    "rename": lambda root: (root / "a").rename(root / "z"),
    "swap": lambda root: (root / "a" / "x.txt").replace(root / "top.txt"),
    "mode": lambda root: (root / "top.txt").chmod(0o600),
    "truncate": lambda root: os.truncate(root / "top.txt", 0),
}


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")


def _rewrite_secretly(path: Path, text: str) -> None:
    info = path.stat()
    path.write_text(text)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _file_to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def _folder_to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def _relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("top.txt")


@given(st.lists(st.sampled_from(sorted(DEEDS)), min_size=1, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_restoring(image, disk, deeds):
    before = content(disk.path)
    for deed in deeds:
        try:
            DEEDS[deed](disk.path)
        except OSError:
            continue  # an earlier deed removed what this one needs
    disk.restore()
    assert content(disk.path) == before == content(image)
    assert disk.changes(image) == ()


@pytest.mark.parametrize("deed", DEEDS)
def test_a_snapshot_sees_it(disk, deed):
    before = snapshot(disk.path)
    DEEDS[deed](disk.path)
    assert diff(before, snapshot(disk.path, before))


def test_a_servers_own_file_is_no_change_of_the_applications(disk, image):
    (disk.path / "tmp").mkdir()
    disk.capture()
    (disk.path / "tmp" / "wgunicorn-a1").touch()
    (disk.path / "tmp" / "notes").touch()
    assert [change.name for change in disk.changes(image)] == ["$TMPDIR/notes"]


def test_an_old_file_rewritten_under_its_old_time_is_seen(disk):
    path = disk.path / "top.txt"
    os.utime(path, ns=(0, 0))
    disk.capture()
    before = snapshot(disk.path)
    assert not before["top.txt"].content  # too old to be hashed
    _rewrite_secretly(path, "t0p")
    while path.stat().st_ctime_ns == before["top.txt"].ctime:  # one tick of the file system's clock
        _rewrite_secretly(path, "t0p")
    assert diff(before, snapshot(disk.path, before)) == ["top.txt"]
    disk.restore()
    assert path.read_text() == "top"


def test_what_was_captured_beyond_the_origin_comes_back(image, disk):
    (disk.path / "made.txt").write_text("made")
    (disk.path / "top.txt").write_text("changed before")
    disk.capture()
    (disk.path / "made.txt").unlink()
    (disk.path / "top.txt").write_text("changed after")
    disk.restore()
    assert (disk.path / "made.txt").read_text() == "made"
    assert (disk.path / "top.txt").read_text() == "changed before"
    assert (image / "top.txt").read_text() == "top"


def test_nothing_is_copied_again_when_nothing_changed(disk):
    inodes = {name: entry.inode for name, entry in snapshot(disk.path).items()}
    (disk.path / "new").write_text("x")
    disk.restore()
    assert {name: entry.inode for name, entry in snapshot(disk.path).items()} == inodes


def test_a_watch_misses_nothing(tmp_path):
    root = (tmp_path, tmp_path.stat().st_ino)
    watch = Watch()
    watch.begin()
    watch.cover([root])
    watch.begin()
    sure = not watch.may_have_changed()  # elsewhere than on Linux it is never sure
    (tmp_path / "x").write_text("x")
    assert watch.may_have_changed()
    watch.begin()
    assert watch.may_have_changed() is not sure
    folder = tmp_path / "folder"
    for _ in range(3):  # a directory made anew, perhaps with the inode of the former one
        folder.mkdir()
        watch.begin()
        watch.cover([root, (folder, folder.stat().st_ino)])
        assert watch.may_have_changed()
        watch.begin()
        (folder / "inside").write_text("x")
        assert watch.may_have_changed()
        shutil.rmtree(folder)
        watch.begin()
        watch.cover([root])
    folder.mkdir()
    watch.begin()
    watch.cover([root, (folder, folder.stat().st_ino)])
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    watch.begin()
    watch.cover([root, (folder, folder.stat().st_ino)])
    watch.begin()
    (folder / "inside").write_text("x")
    assert watch.may_have_changed()
    watch.close()
    assert watch.may_have_changed()
