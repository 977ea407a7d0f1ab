"""`anypod store`: asks a store how it is, and keeps its house.

0: nothing wrong. 1: `doctor` found an error, or `ping` no answer. 2: the command could not be carried out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from anypod.errors import AnypodError, StoreError
from anypod.stores import DRIVERS, Store, open_store, redact
from anypod.stores import doctor as surgery

EXAMPLES: Final = """\
examples:
  anypod store ping redis://127.0.0.1:6379
  anypod store doctor sqlite:////var/lib/shop/state.db
  anypod store stats postgresql://shop@db/shop --json
  anypod store migrate postgresql://owner@db/shop     before a deploy, from every replica at once if need be

exit codes: 0 nothing wrong, 1 an error was found, 2 it could not be looked at"""

MARKS: Final = {"error": "✗", "warning": "!", "fine": "✓"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="anypod store",
        description="Asks a store how it is, and keeps its house.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = found.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, line) in ACTIONS.items():
        action = actions.add_parser(name, help=line, description=line)
        action.add_argument("url", metavar="URL", help="where the store is")
        action.add_argument("--json", action="store_true", help="the answer as JSON")
    return found


def main(argv: Sequence[str]) -> int:
    """Run `anypod store` with these arguments and return its exit code."""
    options = parser().parse_args(list(argv))
    try:
        return ACTIONS[options.action][0](options)
    except StoreError as failure:
        return _refused(options, failure, 1)
    except AnypodError as failure:
        return _refused(options, failure, 2)


def _refused(options: argparse.Namespace, failure: AnypodError, code: int) -> int:
    if options.json:
        _print({"url": redact(options.url), "error": str(failure)})
    else:
        print(f"anypod store {options.action}: {failure}", file=sys.stderr)
    return code


def _print(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, indent=1, ensure_ascii=False))


def _ping(options: argparse.Namespace) -> int:
    with open_store(options.url) as store:
        seconds = surgery.ping(store)
        if options.json:
            _print({"url": store.url, "seconds": seconds})
        else:
            print(f"{store.url} answers in {seconds * 1000:.2g} ms")
    return 0


def _stats(options: argparse.Namespace) -> int:
    with open_store(options.url) as store:
        numbers = surgery.statistics(store)
        if options.json:
            _print({"url": store.url, **numbers})
        else:
            width = max(map(len, numbers), default=0)
            for name, value in numbers.items():
                print(f"{name:<{width}}  {'unknown' if value is None else value}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    with open_store(options.url) as store:
        findings = list(surgery.examine(store))
        if options.json:
            listed = [
                {"level": one.level.value, "what": one.what, "remedy": one.remedy}
                for one in findings
            ]
            _print({"url": store.url, "findings": listed})
        else:
            _tell(store, findings)
    return int(any(one.level is surgery.Level.ERROR for one in findings))


def _tell(store: Store, findings: Sequence[surgery.Finding]) -> None:
    print(store.url)
    for one in findings:
        print(f"  {MARKS[one.level.value]} {one.what}")
        if one.remedy:
            print(f"      {one.remedy}")
    errors = sum(one.level is surgery.Level.ERROR for one in findings)
    warnings = sum(one.level is surgery.Level.WARNING for one in findings)
    print(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _reap(options: argparse.Namespace) -> int:
    with open_store(options.url) as store:
        gone = surgery.reap(store)
        if options.json:
            _print({"url": store.url, "reaped": gone})
        elif gone is None:
            print(f"{store.url} deletes what has expired by itself")
        else:
            print(f"{_count(gone, 'expired record')} deleted")
    return 0


def _migrate(options: argparse.Namespace) -> int:
    with open_store(options.url) as store:
        scheme = options.url.partition("://")[0].lower()
        migrate = getattr(import_module(DRIVERS[scheme][0]), "migrate", None)
        done = "nothing to migrate" if migrate is None else str(migrate(options.url))
        if options.json:
            _print({"url": store.url, "migration": None if migrate is None else done})
        else:
            print(f"{store.url}: {done}")
    return 0


ACTIONS: Final[dict[str, tuple[Callable[[argparse.Namespace], int], str]]] = {
    "ping": (_ping, "does it answer, and how fast"),
    "stats": (_stats, "numbers: records, bytes, clients"),
    "doctor": (_doctor, "what is wrong with it, and what to do"),
    "reap": (_reap, "delete what has expired, now"),
    "migrate": (_migrate, "bring its schema to this version; safe from every replica at once"),
}
