"""What `anypod prove` runs: APP, a command, or replicas that run already, and what they need around them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path

from anypod.errors import ConfigurationError
from anypod.prove.schedules import ROUTED, TRIED, Kind
from anypod.replicas import Application, address_of
from anypod.replicas.outside import is_state, told

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def add(parser: argparse.ArgumentParser) -> None:
    """The options that say what runs."""
    parser.add_argument(
        "--command",
        metavar="CMD",
        default="",
        help="start replicas by this instead of APP; it binds 127.0.0.1:$PORT",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        action="append",
        default=[],
        help="a replica that runs already, on this machine; at least two: requests are only routed",
    )
    parser.add_argument(
        "--env-file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="lines of NAME=value for the service's environment; may be repeated",
    )
    parser.add_argument(
        "--setup",
        metavar="CMD",
        action="append",
        default=[],
        help="run once before the replicas are made, as a migration is; may be repeated",
    )
    parser.add_argument(
        "--reset",
        metavar="STATE",
        action="append",
        default=[],
        help="put this back before each run: sqlite:///PATH, postgresql://…, mysql://…, redis://…/N, a file, a "
        "folder; or a command that does it; may be repeated",
    )
    parser.add_argument(
        "--with",
        metavar="CMD",
        action="append",
        default=[],
        dest="companions",
        help="run beside the replicas, as a worker of a queue does; may be repeated",
    )
    parser.add_argument(
        "--ready",
        metavar="PATH",
        default="",
        help="a replica is ready when this is answered with 2xx or 3xx",
    )


def application(arguments: argparse.Namespace) -> Application:
    """What the command line wants to be run.

    Raises:
        ConfigurationError: it is not clear what, or an `--env-file` cannot be read.
        BadTarget: a URL is not of this machine.
    """
    given = [
        name
        for name, value in (
            ("APP", arguments.app),
            ("--command", arguments.command),
            ("--url", arguments.url),
        )
        if value
    ]
    if len(given) != 1:
        what = " and ".join(given) if given else "nothing"
        raise ConfigurationError(f"expected one of APP, --command and --url, got {what}")
    if arguments.url:
        _check_urls(arguments)
    if arguments.ready and not arguments.ready.startswith("/"):
        raise ConfigurationError(f"--ready {arguments.ready}: expected a path that starts with '/'")
    env = dict(os.environ)
    for path in arguments.env_file:
        env.update(read_env(path))
    return Application(
        arguments.app or "",
        Path.cwd(),
        env,
        command=arguments.command,
        ready=arguments.ready,
        setup=tuple(arguments.setup),
        reset=tuple(text for text in arguments.reset if not is_state(text)),
        outside=tuple(text for text in arguments.reset if is_state(text)),
        companions=tuple(arguments.companions),
        urls=tuple(arguments.url),
    )


def _check_urls(arguments: argparse.Namespace) -> None:
    addresses = [address_of(url) for url in arguments.url]
    if len(set(addresses)) < 2:
        raise ConfigurationError("--url names one replica; name another one with a second --url")
    for option in ("setup", "companions", "ready", "record"):
        if getattr(arguments, option):
            name = {"companions": "with"}.get(option, option)
            raise ConfigurationError(f"--{name} needs replicas that are started: APP or --command")


def schedules(application: Application, asked: Collection[Kind]) -> frozenset[Kind]:
    """What to try: what was asked for, else everything that is possible.

    Raises:
        ConfigurationError: something was asked for that is not possible.
    """
    if not application.urls:
        return frozenset(asked) or frozenset(TRIED)
    for kind in asked:
        if kind not in ROUTED:
            raise ConfigurationError(
                f"--schedule {kind}: it starts and kills replicas, and those of --url are not ours; "
                "name APP or --command"
            )
    return frozenset(asked) or ROUTED


def again(arguments: argparse.Namespace) -> str:
    """The same service on another command line."""
    parts = [arguments.app] if arguments.app else ["--command", arguments.command]
    for option in ("setup", "reset", "companions", "env_file"):
        name = {"companions": "with", "env_file": "env-file"}.get(option, option)
        for value in getattr(arguments, option):
            parts += [f"--{name}", told(str(value)) if option == "reset" else str(value)]
    if arguments.ready:
        parts += ["--ready", arguments.ready]
    return shlex.join(parts)


def read_env(path: Path) -> dict[str, str]:
    r"""The variables of a file of `NAME=value` lines.

    Quotes are taken off; in double quotes `\n`, `\t`, `\"` and `\\` are read as usual, and nothing is
    expanded. What follows ` #` outside quotes is a comment.

    Raises:
        ConfigurationError: it cannot be read, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as failed:
        reason = getattr(failed, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"--env-file {path}: cannot be read: {reason}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        value = None if match is None else _value(match[2])
        if match is None or value is None:
            raise ConfigurationError(f"{path}:{number}: expected NAME=value")
        found[match[1]] = value
    return found


def _value(text: str) -> str | None:
    """A value without its quotes; None when they do not end."""
    if text[:1] not in {"'", '"'}:
        return re.split(r"\s+#|^#", text, maxsplit=1)[0].strip()
    quote = text[0]
    body = r"(?:[^\"\\]|\\.)*" if quote == '"' else r"[^\']*"
    match = re.fullmatch(rf"{quote}({body}){quote}\s*(?:#.*)?", text)
    if match is None:
        return None
    if quote == "'":
        return match[1]
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), match[1])
