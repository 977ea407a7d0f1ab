"""What a proof has found so far: differences that tell the same are one, and only confirmed ones count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from anypod.prove import verdict as verdicts
from anypod.prove.events import (
    Contended,
    Divergence,
    Found,
    FoundStale,
    Listener,
    NotRetrySafe,
    Stale,
)
from anypod.prove.explain import CONFIRMATIONS


@dataclass(slots=True)
class Findings:
    """Keeps what is found, and tells the listener what is new.

    Attributes:
        listen: hears of it.
        warn: hears what does not count.
    """

    listen: Listener
    warn: Callable[[str], None]
    divergences: list[Divergence] = field(default_factory=list)
    unconfirmed: list[Divergence] = field(default_factory=list)
    stale: list[Stale] = field(default_factory=list)
    not_retry_safe: list[NotRetrySafe] = field(default_factory=list)
    contended: list[Contended] = field(default_factory=list)

    def add(self, finding: Divergence | Stale | Contended | NotRetrySafe | None) -> None:
        """Keep a finding; nothing is no finding."""
        match finding:
            case Divergence():
                self._diverged(finding)
            case Stale():
                same = (finding.route, finding.cache, finding.seconds)
                if all((s.route, s.cache, s.seconds) != same for s in self.stale):
                    self.stale.append(finding)
                    self.listen(FoundStale(finding))
            case Contended():
                self.contended.append(finding)
            case NotRetrySafe():
                self.not_retry_safe.append(finding)

    def _diverged(self, divergence: Divergence) -> None:
        """Report a divergence, or add its schedule to the one that tells the same."""
        if divergence.confirmed < CONFIRMATIONS:
            self.unconfirmed.append(divergence)
            self.warn(
                f"{divergence.route} differed in {divergence.confirmed} of {CONFIRMATIONS} replays "
                f"({divergence.schedule}): not counted"
            )
            return
        for at, known in enumerate(self.divergences):
            if verdicts.same(known, divergence):
                self.divergences[at] = verdicts.merged(known, divergence)
                return
        self.divergences.append(divergence)
        self.listen(Found(divergence))
