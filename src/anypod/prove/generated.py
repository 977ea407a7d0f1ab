"""A workload made of an OpenAPI document: schemathesis makes the requests, one replica answers them.

Links of the document, and those that schemathesis infers, lead from an answer to the next request. What is
answered goes into a `Recording` like what somebody clicks, which binds the values that were taken from
answers. What a service refuses says little: of the 4xx only answers to a linked request are kept, since
`404` after a `DELETE` is an answer that another replica may give differently.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anypod.prove.model import Request, Response
from anypod.prove.recording import Recording
from anypod.prove.workload_read import WorkloadError
from anypod.replicas import Application, Elsewhere, World
from anypod.replicas.outside import told

if TYPE_CHECKING:
    from schemathesis.generation.stateful.state_machine import (
        APIStateMachine,
        StepInput,
        StepOutput,
    )
    from schemathesis.schemas import APIOperation, BaseSchema

__all__ = ["generate"]

MOST_BYTES = 16 << 20  # of a document
FEWEST, EACH, MOST = 30, 3, 200  # requests: at least, for each operation, and at most
SCENARIO = 6  # requests that follow one another by links
SECONDS = 60.0  # for all that is tried
_TRIES = 400  # scenarios
_SINGLE = 10  # tries for an operation without links
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = "x-schemathesis"  # headers that tell a server who asks
_TOLD = 5


class _Enough(BaseException):
    """There are as many requests as were wanted; not an error that a test framework would look into."""


def generate(
    application: Application,
    source: str,
    recording: Recording,
    *,
    seed: int = 0,
    timeout: float = 10.0,
    start_timeout: float = 30.0,
    shared: Sequence[Path] = (),
    allow_hosts: Collection[str] = (),
) -> tuple[str, ...]:
    """Start one replica, and record what it answers to requests made from an OpenAPI document.

    Args:
        application: what runs.
        source: a file, a URL, or a path of the service such as `/openapi.json`; JSON or YAML.
        recording: what hears of every exchange.
        seed: of what is drawn; with the same seed, document and answers the requests are the same.
        timeout: seconds for one request.
        start_timeout: seconds for the start.
        shared: paths inside the project that are volumes.
        allow_hosts: hosts besides this machine that the service may reach.

    Returns:
        What people should know: operations that no request reached, and failures.

    Raises:
        WorkloadError: schemathesis is not installed, or the document cannot be used.
        ReplicaError: the service did not start.
    """
    try:
        import schemathesis  # noqa: F401  # asked before anything is started
    except ImportError:
        message = "needs schemathesis: pip install 'anypod[openapi]'"
        raise WorkloadError(told(source), None, message) from None
    with application.kept(allow_hosts) as outside:
        world: World
        if application.urls:
            world = Elsewhere(application, start_timeout=start_timeout, outside=outside)
            world.prepare()
        else:
            world = World(
                application,
                slots=1,
                start_timeout=start_timeout,
                shared=shared,
                allow_hosts=allow_hosts,
                outside=outside,
            )
        with world:
            world.reset()
            replica = world.start(0)
            host, port = replica.address
            base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            schema = _loaded(source, base, timeout, recording.path.parent / "hypothesis")
            asking = _Asking(schema, source, base, recording, timeout)
            asking.ask(seed)
            died = () if replica.alive() else (f"the service ended by itself:\n{replica.log}",)
            return (*asking.notes(), *died)


def _loaded(source: str, base: str, timeout: float, cache: Path) -> BaseSchema:
    import hypothesis.configuration
    import schemathesis
    from schemathesis.errors import LoaderError

    hypothesis.configuration.set_hypothesis_home_dir(cache)
    file = Path(source)
    try:
        document = _parsed(source, _read(source, base, timeout))
        if "allOf" not in json.dumps(document, default=str):
            _close(document)
        schema = schemathesis.openapi.from_dict(document)
        if "://" not in source and file.is_file():
            schema.location = file.absolute().as_uri()  # references are relative to it
        schema.config.generation.update(
            modes=[schemathesis.GenerationMode.POSITIVE], allow_x00=False, codec="ascii"
        )
    except LoaderError as wrong:
        raise WorkloadError(told(source), None, _line(wrong)) from wrong
    return schema


def _read(source: str, base: str, timeout: float) -> bytes:
    file = Path(source)
    try:
        if "://" not in source and (file.exists() or not source.startswith("/")):
            with file.open("rb") as opened:
                content = opened.read(MOST_BYTES + 1)
        else:
            url = source if "://" in source else base + source
            if not url.startswith(("http://", "https://")):
                raise WorkloadError(
                    file, None, "expected a file, or a URL with http:// or https://"
                )
            with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310  # checked
                content = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as refused:
        message = f"the OpenAPI document was answered with {refused.code}"
        raise WorkloadError(told(source), None, message) from refused
    except (OSError, ValueError) as failed:
        reason = getattr(failed, "strerror", None) or getattr(failed, "reason", None) or failed
        raise WorkloadError(told(source), None, f"cannot be read: {reason}") from failed
    if len(content) > MOST_BYTES:
        raise WorkloadError(told(source), None, f"is larger than {MOST_BYTES >> 20} MiB")
    return content


def _parsed(source: str, content: bytes) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        document = json.loads(content)
    except RecursionError:
        document = None
    except ValueError:
        try:
            document = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # safe ones
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as wrong:
            mark = getattr(wrong, "problem_mark", None)
            line = None if mark is None else mark.line + 1
            raise WorkloadError(told(source), line, "expected JSON or YAML") from wrong
    if not isinstance(document, dict) or not {"openapi", "swagger"} & document.keys():
        raise WorkloadError(
            told(source),
            None,
            "expected an OpenAPI document: an object with `openapi: 3.…` or `swagger: '2.0'`",
        )
    if not isinstance(document.get("paths"), dict) or not document["paths"]:
        raise WorkloadError(told(source), None, "describes no operations: its `paths` are empty")
    return document


def _close(node: Any) -> None:
    """Let objects have only the members that are described: others are noise that people have to read."""
    pending = [node]
    seen = set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue  # an alias of YAML
        seen.add(id(one))
        if isinstance(one, dict):
            described = one.get("type") == "object" and isinstance(one.get("properties"), dict)
            if described and one["properties"]:
                one.setdefault("additionalProperties", False)
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


class _Asking:
    """What was asked so far."""

    def __init__(
        self,
        schema: BaseSchema,
        source: str,
        base: str,
        recording: Recording,
        timeout: float,
    ) -> None:
        import requests

        self._source = told(source)
        self._base = base + schema.base_path.rstrip("/")
        self._recording, self._timeout, self._schema = recording, timeout, schema
        self._session = requests.Session()
        self._session.trust_env = False
        self._end = time.monotonic() + SECONDS
        self._operations = dict(self._usable())
        self._most = min(MOST, max(FEWEST, EACH * len(self._operations)))
        self._limit = self._most
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._failed: dict[str, int] = {}
        self._since_write: set[str] = set()  # reads that were recorded since the last write
        self._late = False

    def _usable(self) -> Iterator[tuple[str, APIOperation[Any, Any, Any, Any]]]:
        from schemathesis.core.result import Ok

        for found in self._schema.get_all_operations():
            if isinstance(found, Ok):
                yield found.ok().label, found.ok()
            else:
                broken = _line(found.err())
                self._recording.leave_out(f"operations that cannot be understood: {broken}")

    def ask(self, seed: int) -> None:
        """Ask until there is enough, or everything was tried.

        Raises:
            WorkloadError: the document describes nothing that can be asked.
        """
        from hypothesis import HealthCheck, Phase, settings
        from hypothesis import seed as seeded
        from schemathesis.errors import NoLinksFound, SchemathesisError

        quiet = settings(
            max_examples=_TRIES,
            stateful_step_count=SCENARIO,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        reads = [one for one in self._operations.values() if one.method.upper() in _READS]
        try:
            # Some are left for those that no link leads to.
            self._limit = max(FEWEST // 2, self._most - len(self._operations) - len(reads))
            with contextlib.suppress(_Enough, NoLinksFound):
                seeded(seed)(machine := self._machine())
                machine.run(settings=quiet)
            self._limit = self._most
            with contextlib.suppress(_Enough):
                writes = [one for one in self._operations.values() if one not in reads]
                alone = [one for one in (*writes, *reads) if one.label not in self._answered]
                lasting = [
                    one for one in reads if one.label in self._answered and "{" not in one.path
                ]
                # Writes first, so that reads have something to show; what showed the others, shows these.
                self._ask_each([*alone, *lasting], seed, settings(quiet, max_examples=_SINGLE))
        except SchemathesisError as wrong:
            raise WorkloadError(self._source, None, _line(wrong)) from wrong
        finally:
            self._session.close()

    def _machine(self) -> type[APIStateMachine]:
        asking = self

        class Machine(self._schema.as_state_machine()):  # type: ignore[misc]
            def step(self, input: StepInput) -> StepOutput:  # noqa: A002  # the framework's name
                from schemathesis.generation.stateful.state_machine import StepOutput

                response = asking.call(
                    input.case, linked=input.transition is not None and input.is_applied
                )
                return StepOutput(response, input.case)

        return Machine

    def _ask_each(
        self, operations: Sequence[APIOperation[Any, Any, Any, Any]], seed: int, few: Any
    ) -> None:
        """Ask some operations one after the other, until each has answered."""
        from hypothesis import given
        from hypothesis import seed as seeded

        for operation in operations:
            run = seeded(seed)(few(given(case=operation.as_strategy())(self._asker())))
            run()

    def _asker(self) -> Callable[[Any], None]:
        answers: list[int] = []

        def ask(case: Any) -> None:
            if not answers:
                status = self.call(case, linked=False).status_code
                answers.extend([status] if status < 400 else [])

        return ask

    def call(self, case: Any, *, linked: bool) -> Any:
        """Send one request, and record it if it says something.

        Raises:
            _Enough: there are enough requests, or the time is used up.
        """
        import hypothesis
        import requests

        self._late = time.monotonic() > self._end
        if len(self._recording) >= self._limit or self._late:
            raise _Enough
        label = case.operation.label
        self._asked.add(label)
        try:
            response = case.call(
                base_url=self._base,
                session=self._session,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException:
            self._recording.leave_out(f"{label}: no answer")
            hypothesis.reject()
        sent = response.request
        request = Request(
            case.method.upper(),
            sent.path_url,
            tuple((n, v) for n, v in sent.headers.items() if not n.lower().startswith(_OWN)),
            sent.body.encode() if isinstance(sent.body, str) else sent.body or None,
        )
        headers = tuple((n.lower(), v) for n, values in response.headers.items() for v in values)
        status = response.status_code
        if status >= 500:
            self._failed[label] = self._failed.get(label, 0) + 1
        elif status < 400 or linked:
            self._answered.add(label)
            self._record(request, Response(status, headers, response.content or b""))
        return response

    def _record(self, request: Request, response: Response) -> None:
        if request.method in _READS:
            if request.target in self._since_write:
                return
            self._since_write.add(request.target)
        else:
            self._since_write.clear()
        self._recording.add(request, response)

    def notes(self) -> tuple[str, ...]:
        """What came of it, in words."""
        notes = [f"{len(self._answered)} of {len(self._operations)} operations answered"]
        silent = sorted(self._asked - self._answered - self._failed.keys())
        if silent:
            more = f" and {len(silent) - _TOLD} more" if len(silent) > _TOLD else ""
            notes.append(
                f"no generated request to {', '.join(silent[:_TOLD])}{more} was accepted; examples and links in "
                "the document help, and so does a recording"
            )
        unasked = len(self._operations.keys() - self._asked)
        if unasked:
            notes.append(
                f"{unasked} operations were not asked: a workload of a document has {self._most} requests"
            )
        for label, number in self._failed.items():
            notes.append(f"left out: {number} × {label} was answered with 5xx by one replica alone")
        if self._late:
            notes.append(f"the requests that {SECONDS:g} s allowed; there would be more")
        return tuple(notes)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
