"""`anypod prove`: reads the command line, runs the proof, ends with its exit code.

0: no response differed. 1: some did. 2: it could not run, or was interrupted before it found anything.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from anypod.cli import recording, service
from anypod.errors import AnypodError
from anypod.prove import acceptance
from anypod.prove import replay as replaying
from anypod.prove.engine import Options, prove
from anypod.prove.events import Event, Outcome, Verdict
from anypod.prove.options import usual_budget
from anypod.prove.replay import Saved
from anypod.prove.schedules import TRIED, Kind
from anypod.prove.whole import unwritable, write_whole
from anypod.prove.workload import WorkloadError, load
from anypod.replicas import Application, ReplicaError
from anypod.report import jsonfile
from anypod.report.console import ConsoleReport
from anypod.report.words import count

EXAMPLES = """\
examples:
  anypod prove shop:app --record       click through it at http://localhost:8000, then Ctrl-C
  anypod prove shop:app --last         prove what was recorded
  anypod prove shop:app --workload shop.http
  anypod prove shop:app --workload shop.har    what a browser's network panel exported
  anypod prove shop:app --openapi /openapi.json    what its OpenAPI document describes
  anypod prove 'shop:create_app()' --workload shop.http --replicas 2 --budget 30s
  anypod prove --command 'gunicorn -b 127.0.0.1:$PORT shop:app' --workload shop.http
  anypod prove --url http://localhost:8001 --url http://localhost:8002 --workload shop.http
  anypod prove shop:app --setup 'python manage.py migrate' --with 'celery -A shop worker' --last
  anypod prove shop:app --workload shop.http --replicas 1      only what moves with the pod
  anypod prove shop:app --workload shop.http --schedule retry --strict-retry
  anypod prove shop:app --workload shop.http --shared uploads  uploads/ is a volume
  anypod prove shop:app --workload shop.http --json verdict.json --quiet
  anypod prove shop:app --workload shop.http --html verdict.html --sarif verdict.sarif
  anypod prove shop:app --replay verdict.json                  what it found, once more
  anypod prove shop:app --workload shop.http --baseline accepted.json

exit codes: 0 no response differed, 1 some did, 2 could not run"""

FORMS = {
    "json": "JSON (docs/prove.schema.json)",
    "html": "one HTML page",
    "sarif": "SARIF, at the guilty lines",
    "junit": "JUnit XML",
}
SOURCES = ("workload", "record", "openapi", "last", "replay")
UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `1h` or a bare number of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration: write 500ms, 30s, 5m or 1h, greater than 0"
        )
    return float(match[1]) * UNITS[match[2]]


def replicas(text: str) -> int:
    """A number of replicas, 1 to 16."""
    if not text.isdecimal() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas from 1 to 16")
    return int(text)


def port(text: str) -> int:
    """A TCP port."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def schedule(text: str) -> Kind:
    """One of the schedules, words joined by a space or a hyphen."""
    wanted = text.strip().lower().replace("-", " ")
    for kind in TRIED:
        if wanted == str(kind):
            return kind
    names = ", ".join(str(kind).replace(" ", "-") for kind in TRIED)
    raise argparse.ArgumentTypeError(f"there is no schedule {text!r}; there are {names}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="anypod prove",
        description="Runs the real service as replicas, routes, repeats and kills, and shows which\n"
        "request got another answer than from one replica that never dies.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "app", metavar="APP", nargs="?", help="module:app or 'module:factory()', WSGI or ASGI"
    )
    service.add(made)
    source = made.add_mutually_exclusive_group()
    source.add_argument(
        "--workload",
        metavar="FILE",
        type=Path,
        help="requests: a .http file, or a .har that a browser exported",
    )
    source.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=recording.DEFAULT,
        help=f"record a workload while you click, until Ctrl-C (default {recording.DEFAULT})",
    )
    source.add_argument(
        "--openapi",
        metavar="SOURCE",
        help="make a workload of an OpenAPI document: a file, a URL, or the path at which the service has it",
    )
    source.add_argument(
        "--last", action="store_true", help="prove the workload that was recorded last"
    )
    source.add_argument(
        "--replay",
        metavar="FILE",
        help="play the differences again that --json FILE saved; FILE#2: only the second",
    )
    made.add_argument(
        "--origin",
        metavar="URL",
        default="",
        help="the service in a .har (default: the origin with the most requests)",
    )
    made.add_argument(
        "--port", metavar="N", type=port, help="where --record listens (default 8000 or the next)"
    )
    made.add_argument(
        "--replicas", metavar="N", type=replicas, default=3, help="how many pods (default 3)"
    )
    made.add_argument(
        "--budget",
        metavar="TIME",
        type=duration,
        help="no new schedule after this long (default 60s, more for over 150 requests, at most 4m)",
    )
    for form, described in FORMS.items():
        made.add_argument(
            f"--{form}",
            metavar="FILE",
            type=Path,
            help=f"also write the verdict there: {described}",
        )
    made.add_argument(
        "--github", action="store_true", help="also print annotations for GitHub Actions"
    )
    made.add_argument(
        "--baseline", metavar="FILE", type=Path, help="differences that are accepted, with reasons"
    )
    made.add_argument(
        "--write-baseline",
        metavar="FILE",
        type=Path,
        help="write the differences found there, for you to add the reasons",
    )
    made.add_argument(
        "--random",
        action="store_true",
        help="use what is left of the budget for schedules drawn at random",
    )
    made.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of what is drawn at random (default 0)"
    )
    made.add_argument(
        "--shared",
        metavar="PATH",
        type=Path,
        action="append",
        default=[],
        help="a path in the project that is a volume, not a pod's own disk; may be repeated",
    )
    made.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="a host besides this machine that the service may reach; may be repeated",
    )
    made.add_argument(
        "--strict-retry",
        action="store_true",
        help="a POST that takes effect twice when delivered twice is a difference",
    )
    made.add_argument(
        "--timeout",
        metavar="TIME",
        type=duration,
        default=10.0,
        help="for one request (default 10s)",
    )
    made.add_argument(
        "--startup-timeout",
        metavar="TIME",
        type=duration,
        default=30.0,
        help="for one start (default 30s)",
    )
    made.add_argument(
        "--schedule",
        metavar="NAME",
        type=schedule,
        action="append",
        default=[],
        help="only this one: another-pod, stale-copy, retry, pod-moved, deploy, overlap; may be repeated",
    )
    made.add_argument("--quiet", action="store_true", help="only the differences and the verdict")
    return made


def main(argv: Sequence[str]) -> int:
    """Run `anypod prove` and return its exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    is_har = arguments.workload is not None and arguments.workload.suffix.lower() == ".har"
    if reason := _misused(arguments, is_har=is_har):
        print(f"anypod prove: {reason}", file=sys.stderr)
        return 2
    try:
        application = service.application(arguments)
        schedules = service.schedules(application, arguments.schedule)
    except (AnypodError, ReplicaError) as wrong:
        return _refused(str(wrong), arguments)
    if arguments.record is not None:
        return _record(application, arguments)
    try:
        if arguments.last:
            arguments.workload = recording.last()
        if arguments.openapi:
            arguments.workload = recording.from_openapi(
                application,
                arguments.openapi,
                seed=arguments.seed,
                timeout=arguments.timeout,
                start_timeout=arguments.startup_timeout,
                shared=tuple(arguments.shared),
                allow_hosts=frozenset(arguments.allow_host),
            )
        saved: tuple[Saved, ...] = ()
        if arguments.replay:
            workload, saved = replaying.read(arguments.replay)
            arguments.workload = workload.path
        else:
            if is_har:
                arguments.workload = recording.from_har(arguments.workload, arguments.origin)
            workload = load(arguments.workload)
        accepted = acceptance.read(arguments.baseline) if arguments.baseline else ()
    except ReplicaError as wrong:
        trace = getattr(wrong, "traceback", "").rstrip()
        return _refused("\n".join(filter(None, (str(wrong), trace))), arguments)
    except (WorkloadError, AnypodError, OSError) as wrong:
        return _refused(str(wrong), arguments)
    options = Options(
        replicas=len(application.urls) or arguments.replicas,
        budget=arguments.budget or usual_budget(len(workload.steps)),
        random=arguments.random,
        seed=arguments.seed,
        shared=tuple(arguments.shared),
        allow_hosts=frozenset(arguments.allow_host),
        strict_retry=arguments.strict_retry,
        timeout=arguments.timeout,
        start_timeout=arguments.startup_timeout,
        schedules=schedules,
        accepted=accepted,
    )
    report = ConsoleReport(quiet=arguments.quiet)

    def listen(event: Event) -> None:
        report(event)

    # A polite end of the tool is an end with a partial report, as with Ctrl-C.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if saved:
            verdict = replaying.replay(application, workload, saved, options, listen)
        else:
            verdict = prove(application, workload, options, listen)
    except ReplicaError as wrong:
        return _refused(str(wrong), arguments)
    finally:
        report.close()
        signal.signal(signal.SIGTERM, before)
    return _written(verdict, arguments, report.failure)


def _misused(arguments: argparse.Namespace, *, is_har: bool) -> str:
    """What is wrong with the options, a file that cannot be written above all: before minutes are spent."""
    if not any(getattr(arguments, name) for name in SOURCES):
        return (
            f"which requests? Click them together with `anypod prove {arguments.app or 'APP'} --record`, or "
            "name some: --workload FILE (.http or .har), --openapi SOURCE, --last or --replay FILE"
        )
    if arguments.origin and not is_har:
        return "--origin names the service in a .har, for --workload"
    for option in (*FORMS, "write-baseline"):
        path: Path | None = getattr(arguments, option.replace("-", "_"))
        if path is not None and (reason := unwritable(path)):
            return f"--{option} {path} cannot be written: {reason}"
    return ""


def _record(application: Application, arguments: argparse.Namespace) -> int:
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return recording.run(
            arguments.record,
            port=arguments.port,
            application=application,
            again=f"anypod prove {service.again(arguments)} --last",
            start_timeout=arguments.startup_timeout,
            shared=tuple(arguments.shared),
            allow_hosts=frozenset(arguments.allow_host),
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler
    raise KeyboardInterrupt


def _refused(reason: str, arguments: argparse.Namespace) -> int:
    print(f"anypod prove: {reason}", file=sys.stderr)
    verdict = Verdict(
        Outcome.COULD_NOT_RUN,
        claim="nothing was compared",
        application=arguments.app or arguments.command or " ".join(arguments.url),
        workload=str(arguments.workload or ""),
        reason=reason,
    )
    return _written(verdict, arguments)


def _written(verdict: Verdict, arguments: argparse.Namespace, failure: str = "") -> int:
    """Write every report that was asked for; the exit code. `failure` is why the console's was not."""
    code = verdict.exit_code
    if failure:
        print(f"anypod prove: cannot write what was found: {failure}", file=sys.stderr)
        code = 2
    if arguments.github:
        print(_rendered("github", verdict), end="")
    for form in FORMS:
        path: Path | None = getattr(arguments, form)
        if path is None:
            continue
        try:
            write_whole(_rendered(form, verdict), path)
        except OSError as failed:
            code = _cannot_write(path, failed)
    path = arguments.write_baseline
    if path is None or verdict.outcome is Outcome.COULD_NOT_RUN:
        return code
    found = (*verdict.divergences, *verdict.accepted)
    try:
        known = acceptance.read(arguments.baseline) if arguments.baseline else ()
        left = acceptance.write(path, found, known)
    except OSError as failed:
        return _cannot_write(path, failed)
    print(f"{path}: {count(len(found), 'difference')}; reasons to write: {left}", file=sys.stderr)
    return code


def _cannot_write(path: Path, failed: OSError) -> int:
    print(f"anypod prove: cannot write {path}: {failed.strerror or failed}", file=sys.stderr)
    return 2


def _rendered(form: str, verdict: Verdict) -> str:
    """A report as text; its writer is imported only now, since most runs need none."""
    match form:
        case "json":
            return jsonfile.text(verdict)
        case "sarif":
            from anypod.report.proof_sarif import sarif

            return sarif(verdict)
        case "junit":
            from anypod.report.proof_ci import junit

            return junit(verdict)
        case "github":
            from anypod.report.proof_ci import github

            return github(verdict)
        case _:
            from anypod.report.proof_html import html

            return html(verdict)
