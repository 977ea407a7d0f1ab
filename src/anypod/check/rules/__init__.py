"""The rules. One file is one rule; its docstring is its page, and the page is its test.

In a page every Python block is a module, complete enough to be checked; a line that must be reported ends in a
comment with the rule's code. Blocks after "Never reported" must be clean.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType

from anypod.check.analysis import Analysis
from anypod.check.memory import Verdict
from anypod.check.model import Finding

TITLES = {
    "POD101": "module global changed on a request path",
    "POD102": "in-memory cache without expiry, assumed shared",
    "POD103": "sessions, tokens or user data in process memory",
    "POD104": "state on an application, class or singleton object, or in os.environ",
    "POD105": "local file or embedded database written on a request path",
    "POD106": "in-process coordination of what spans replicas",
    "POD107": "not idempotent, though clients retry it",
    "POD108": "read, modify, write on a shared store",
    "POD109": "secret or identity that every process makes for itself",
    "POD110": "library left at its process-local default",
}

Find = Callable[[Analysis, list[Verdict]], Iterable[Finding]]


def load(code: str) -> ModuleType:
    """The rule's module."""
    return importlib.import_module(f"anypod.check.rules.{code.lower()}")


def available() -> list[str]:
    """The codes of every rule, in order."""
    return list(TITLES)


def page(code: str) -> str:
    """The rule's documentation in Markdown."""
    return (load(code).__doc__ or "").strip()
