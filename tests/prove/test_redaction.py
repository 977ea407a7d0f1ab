"""Secrets by their names are not told, whatever the text looks like; everything else stays as it is."""

from __future__ import annotations

import pytest

from anypod.prove.redaction import redacted

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "ann", "password": "a \\"b\\" c"}', '{"name": "ann", "password": "•••"}'),
        ('{"pin": 1234, "n": 5}', '{"pin": •••, "n": 5}'),
        ('{"newPassword":"cut off he', '{"newPassword":"•••"'),
        ("{'api_key': 'x', 'item': 'tea'}", "{'api_key': '•••', 'item': 'tea'}"),
        ("name=ann&password=hunter2&next=%2F", "name=ann&password=•••&next=%2F"),
        ("/reset?token=abc&lang=en", "/reset?token=•••&lang=en"),
        (
            '--x Content-Disposition: form-data; name="password" hunter2 --x name="a" b --x--',
            '--x Content-Disposition: form-data; name="password" ••• --x name="a" b --x--',
        ),
        ("/orders/7?item=tea", "/orders/7?item=tea"),
        ('{"status": "password"}', '{"status": "password"}'),
        ("", ""),
    ],
)
def test_a_secret_is_not_told(text: str, told: str) -> None:
    assert redacted(text) == told


def test_a_long_text_is_read_in_one_go() -> None:
    text = '{"a": "' + "\\" * 50_000 + "'=" * 50_000
    assert redacted(text)
