"""The HTML page in a real browser: legible on a phone and on a desk."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from tests.prove.verdicts import COUNTER, MOVED, REFUND, verdict

from anypod.report.proof_html import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_not_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    assert CHROMIUM is not None
    wide = replace(MOVED, got="w" * 500, route=f"GET /{'r' * 200}")
    file = tmp_path / "proof.html"
    # The browser's own window is never narrower than 500, a frame is.
    file.write_text(html(verdict(divergences=(COUNTER, REFUND, wide))))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id=f src="proof.html" style="width:{width}px;height:900px;border:0"></iframe>'
        "<script>onload=()=>{const d=document.getElementById('f').contentDocument.documentElement;"
        "const t=[...d.querySelectorAll('svg text')].map(e=>e.getBoundingClientRect().height);"
        "document.title=JSON.stringify([d.scrollWidth,Math.min(...t)])}</script>"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width + 100},1000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    title = etree.fromstring(done.stdout.encode(), etree.HTMLParser()).findtext(".//title")
    assert title, done.stderr
    scrolled, smallest = json.loads(title)
    assert scrolled <= width
    assert smallest >= 12
