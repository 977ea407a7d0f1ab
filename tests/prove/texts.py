"""Workloads from texts, and answers to them."""

import json
from pathlib import Path

from anypod.prove.model import Response
from anypod.prove.workload import Workload, parse

FILE = Path("shop.http")


def read(text: str) -> Workload:
    return parse(text, FILE)


def answer(body: object, *headers: tuple[str, str], status: int = 200) -> Response:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Response(status, headers, data)
