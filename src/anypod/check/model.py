"""The nouns of a check: a finding, its sites and chain, a route, a problem, a result.

Named tuples rather than dataclasses: importing `dataclasses` would cost a third of the start of `anypod check`.
"""

from __future__ import annotations

from typing import NamedTuple

ERROR, WARNING = "error", "warning"


class Site(NamedTuple):
    """One place in the source."""

    path: str
    line: int
    column: int
    text: str = ""
    """What happens there, in a few words."""


class Step(NamedTuple):
    """One link of a chain: `name` is entered, or the write happens, at this line."""

    path: str
    line: int
    name: str


class Finding(NamedTuple):
    """Something that breaks with a second replica."""

    rule: str
    path: str
    line: int
    column: int
    state: str
    """The state's name: `shop.sessions`."""
    message: str
    severity: str
    chain: tuple[Step, ...]
    """From the handler through the calls to the write."""
    sites: tuple[Site, ...]
    """Every place that belongs to the finding, the reported one first."""
    definition: Site | None
    why: str
    fix: str
    """What to write instead, in the reader's framework."""
    access: str = ""
    """How the code gets at the state: direct, method, alias, imported, parameter, attribute, class, …"""

    @property
    def depth(self) -> int:
        """How many calls lie between the handler and the write."""
        return max(0, len(self.chain) - 2)


class Route(NamedTuple):
    """A handler and the kind of state that it depends on."""

    kind: str
    methods: tuple[str, ...]
    path: str
    handler: str
    file: str
    line: int
    state: str
    """stateless, shared or local"""
    states: tuple[str, ...]


class Problem(NamedTuple):
    """A file that could not be checked, or something about the run that the reader must know."""

    path: str
    line: int
    message: str


class Fix(NamedTuple):
    """A change that can be made without judgement: a suppression that covers nothing goes."""

    path: str
    line: int
    rules: tuple[str, ...]
    """What the comment names …"""
    reason: str
    """… and says: a comment that does not is another one."""
    keep: tuple[str, ...]
    """The rules that the comment goes on to name; none: the comment goes."""


class Result(NamedTuple):
    """What a check found."""

    findings: tuple[Finding, ...]
    routes: tuple[Route, ...]
    problems: tuple[Problem, ...]
    suppressed: int
    files: int
    lines: int
    fixes: tuple[Fix, ...] = ()
    unread: int = 0
    """How many of the files could not be checked."""

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(f.severity == ERROR for f in self.findings)
