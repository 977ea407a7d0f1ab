"""A proof on the console: the plan, progress while it runs, each difference as a person would tell it.

Reads well at 80 columns, without colour, and in a pipe: then there is no live progress, and nothing
depends on colour. Text of the service (targets, values, logs) is never read as markup.
"""

from __future__ import annotations

import contextlib
import os
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from anypod.prove import events
from anypod.prove.events import Divergence, Outcome, Stale, Told, Verdict
from anypod.prove.schedules import Kind
from anypod.report.words import (
    answered,
    contended,
    count,
    cut,
    duration,
    evidence,
    instead,
    marks,
    sent,
    short,
    why,
)

LONGEST = 400
MOST_ROUTES = 12  # routes that were not exercised; the reports in files have them all
WIDEST = 120  # columns; beyond it an arrow is too far from what it points from
BESIDE = 36  # columns for the number, the pod, the status and a mark beside a request


class ConsoleReport:
    """Listens to a proof and tells it.

    Args:
        console: where to.
        quiet: only differences and the last line.

    Attributes:
        failure: why what was to be told could not be written, as on a full disk; else empty.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(highlight=False, soft_wrap=False)
        self._quiet = quiet
        self._live: Progress | None = None
        self._is_gone = False
        self.failure = ""

    def __call__(self, event: events.Event) -> None:
        """Tell one event; a reader that has gone, or a disk that is full, does not end the proof."""
        if self._is_gone:
            return
        try:
            self._tell(event)
        except OSError as failed:
            self.failure = failed.strerror or str(failed)
            _let_go()
        except SystemExit:  # so Rich ends a program whose reader has gone
            _let_go()
        else:
            return
        self._is_gone, self._live = True, None

    def _tell(self, event: events.Event) -> None:
        match event:
            case events.Opened():
                self._opened(event)
            case events.Planned():
                self._planned(event)
            case events.Progress():
                self._progress(event)
            case events.Warned():
                if not self._quiet:
                    self._say(Text.assemble(("note  ", "yellow"), event.text))
            case events.Finished():
                self.close()
                self._finished(event.verdict)
            case events.Found() | events.FoundStale():
                pass  # told in the end, in the order of the workload

    def close(self) -> None:
        """End the live progress, if there is any."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _opened(self, event: events.Opened) -> None:
        if self._quiet:
            return
        self._say(
            Text(
                f"{event.application}: {count(event.requests, 'request')} of "
                f"{short(event.workload)}, {count(event.replicas, 'replica')}"
            )
        )

    def _planned(self, event: events.Planned) -> None:
        if self._quiet:
            return
        kinds = ", ".join(f"{number} × {kind}" for kind, number in event.schedules.items())
        self._say(Text(f"plan: {kinds}"))
        self._say(
            Text(
                f"      {count(event.starts, 'start')} × {duration(event.seconds_per_start)} and "
                f"{count(event.requests, 'request')} ≈ {duration(event.seconds)} "
                f"on {count(event.cores, 'core')}, more if answers differ"
            )
        )
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:g}/{task.total:g} schedules"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._live.add_task("playing", total=max(1, sum(event.schedules.values())))
            self._live.start()

    def _finished(self, verdict: Verdict) -> None:
        for divergence in verdict.divergences:
            self._say(told_divergence(divergence, self._console.width))
        if not self._quiet:
            for divergence in verdict.accepted:
                self._say(told_divergence(divergence, self._console.width))
            for stale in verdict.stale:
                self._say(told_stale(stale, self._console.width))
        self._say(told_verdict(verdict, quiet=self._quiet))

    def _progress(self, event: events.Progress) -> None:
        if self._live is None:
            return
        found = f", {count(event.differences, 'difference')}" if event.differences else ""
        self._live.update(
            self._live.task_ids[0],
            description=event.doing + found,
            completed=event.done,
            total=max(1, event.total),
        )

    def _say(self, text: Text) -> None:
        console = self._live.console if self._live is not None else self._console
        text.rstrip()
        console.print(text, soft_wrap=not console.is_terminal)


def _let_go() -> None:
    """Write what is still to be written to nowhere: it would fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def told_divergence(divergence: Divergence, width: int = 80) -> Text:
    """A difference as a person would tell it."""
    text = Text()
    text.append(
        *(("\nACCEPTED", "bold yellow") if divergence.accepted else ("\nDIFFERS", "bold red"))
    )
    also = "".join(f", {kind}" for kind in divergence.also)
    text.append(f"  {divergence.route}", "bold")
    text.append(f"   {divergence.schedule}{also}\n", "cyan")
    if divergence.seen_at != divergence.route:
        text.append(f"  seen at {divergence.seen_at}\n")
    text.append_text(_requests(divergence.requests, width))
    text.append_text(_sides(divergence.where, divergence.expected, divergence.got))
    text.append(f"  {why(divergence)}\n")
    if proof := evidence(divergence):
        text.append(f"  {proof}\n", "dim")
    if divergence.rule is not None:
        replacement = instead(divergence.rule)
        text.append(f"  check rule {divergence.rule}", "dim")
        text.append(f": replace by {replacement}\n" if replacement else "\n", "dim")
    if divergence.accepted:
        text.append(f"  accepted: {divergence.accepted}\n", "dim")
    if divergence.hint and divergence.schedule is not Kind.RETRY:
        text.append(f"  {divergence.hint}\n", "dim")
    return text


def told_stale(stale: Stale, width: int = 80) -> Text:
    """An accepted old answer."""
    text = Text()
    text.append("\nSTALE", "bold yellow")
    text.append(f"    {stale.route}", "bold")
    source = f"the cache {stale.cache!r}" if stale.cache else "the workload (# @stale)"
    text.append(f"   stale ≤ {duration(stale.seconds)}, declared by {source}\n", "cyan")
    text.append_text(_requests(stale.requests, width))
    text.append_text(_sides(stale.where, stale.expected, stale.got))
    return text


def told_verdict(verdict: Verdict, *, quiet: bool = False) -> Text:
    """The end: what else to know, and the claim."""
    text = Text()
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        text.append("\nCOULD NOT RUN  ", "bold red")
        text.append(verdict.reason + "\n")
        return text
    text.append("\n")
    if not quiet:
        for item in verdict.not_retry_safe:
            text.append(f"not retry-safe: {item.route}", "yellow")
            text.append(f" (a second delivery shows at {item.seen_at}, {item.where})\n")
        for race in verdict.contended:
            text.append(f"{contended(race)}\n", "yellow")
        for divergence in verdict.unconfirmed:
            text.append(
                f"unconfirmed: {divergence.route} ({divergence.schedule}), "
                f"{divergence.confirmed} of 3 replays\n"
            )
        coverage = verdict.coverage
        if coverage is not None:
            parts = {
                "write→read pairs": coverage.pairs,
                "stale triples": coverage.triples,
                "retries": coverage.retries,
                "kill points": coverage.moves,
                "deploys": coverage.deploys,
                "overlaps": coverage.overlaps,
            }
            shown = [f"{name} {done}/{total}" for name, (done, total) in parts.items() if total]
            if coverage.random:
                shown.append(f"{count(coverage.random, 'random schedule')} of seed {verdict.seed}")
            text.append(f"covered: {', '.join(shown)}\n", "dim")
        if verdict.not_exercised:
            first = verdict.not_exercised[:MOST_ROUTES]
            more = len(verdict.not_exercised) - len(first)
            listed = ", ".join(first) + (f" and {more} more" if more else "")
            text.append(f"not exercised: {listed}\n", "yellow")
        text.append(f"{count(verdict.starts, 'start')}, {verdict.seconds:.1f} s\n", "dim")
    if verdict.partial:
        text.append("PARTIAL  ", "bold yellow")
    text.append(verdict.claim, "bold red" if verdict.divergences else "bold green")
    if verdict.stale:
        routes = ", ".join(
            f"{stale.route} stale ≤ {duration(stale.seconds)}" for stale in verdict.stale
        )
        text.append(f" Accepted: {routes}.")
    text.append(f"\nNot tried: {'; '.join(verdict.not_tried)}.\n")
    return text


def _requests(requests: tuple[Told, ...], width: int) -> Text:
    most = max(20, min(width, WIDEST) - BESIDE)
    shown = [sent(request) for request in requests]
    longest = min(most, max(map(len, shown), default=0))
    text = Text()
    for number, (request, line) in enumerate(zip(requests, shown, strict=True), start=1):
        if request.moved:
            text.append(f"       pod {request.pod} is killed; it starts elsewhere, disk empty\n")
        if request.replaced:
            text.append(f"       a deploy replaces pod {request.pod}, disk empty\n")
        special = marks(request)
        text.append(
            f"  {number:>3}  {cut(line, most):<{longest}} → pod {request.pod}   {answered(request)}"
        )
        text.append(f"  {special}\n" if special else "\n", "yellow")
    return text


def _sides(where: str, expected: str, got: str) -> Text:
    text = Text()
    place = where.removeprefix("body ")
    text.append(f"       expected  {place}  ")
    text.append(cut(expected, LONGEST), "green")
    text.append(f"\n       got       {place}  ")
    text.append(cut(got, LONGEST), "red")
    text.append("\n")
    return text
