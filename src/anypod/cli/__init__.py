"""The `anypod` command: finds the subcommand, imports only that one, and ends with its exit code.

`anypod check` must start as fast as Python itself does and load no database client, so nothing here
imports a room before its name was typed.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

COMMANDS = {
    "check": "find state in the source that breaks with a second replica",
    "prove": "run the service as replicas and show which request got a different answer",
    "store": "ask a store how it is: ping, stats, doctor, reap, migrate",
    "demo": "check and prove two small shops, one broken, one fixed",
}

EXAMPLES = """\
examples:
  anypod demo
  anypod check src
  anypod prove shop:app --workload shop.http

`anypod COMMAND --help` tells the rest."""


def usage() -> str:
    """The text of `anypod --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "usage: anypod COMMAND [ARGUMENT ...]\n\n"
        "Makes a Python web service answer the same from any pod.\n\n"
        f"commands:\n{rows}\n\n{EXAMPLES}"
    )


def run() -> NoReturn:
    """Be the process `anypod`: run `main`, and leave with its exit code.

    A check of a small file is over in milliseconds, a fifth of them spent on collecting garbage and on taking
    Python down in good order. Nothing is open then, so it does neither.
    """
    if sys.argv[1:2] != ["check"]:
        sys.exit(main())
    gc.disable()
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        # Who was to read it has gone, as in `main`.
        code = 0
    except OSError as error:
        # A disk that is full.
        sys.stderr.write(f"anypod: cannot write: {error.strerror}\n")
        code = 2
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `anypod` with these arguments (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in {"-V", "--version"}:
        from importlib.metadata import version

        print(f"anypod {version('anypod')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean `anypod {near[0]}`?" if near else "; `anypod --help` lists them"
        print(f"anypod: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    try:
        return _run(name, rest)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone; what was asked for has been delivered.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("anypod: interrupted", file=sys.stderr)
        return 130


def _run(name: str, rest: Sequence[str]) -> int:
    try:
        module = importlib.import_module(f"anypod.cli.{name}")
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "anypod":
            raise
        print(
            f"anypod: `anypod {name}` needs {missing.name!r}, which is not installed: "
            f"pip install 'anypod[{name}]'",
            file=sys.stderr,
        )
        return 2
    return int(module.main(rest))
