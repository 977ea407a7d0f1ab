"""A space-time diagram as SVG: the client and the pods side by side, time downwards.

It is 340 units wide whatever it shows, so that on a phone it is not scaled down to where nobody can
read it. It is never the only place of a fact: the requests are also a list beside it, to which
screen readers are led. Nothing depends on colour: what differs is also thicker and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from anypod.prove.events import Told
from anypod.report.words import answered, cut, marks, sent

WIDTH = 340
CLIENT = 26  # where the client's line is
ROW = 58
TOP = 40
MOST_REQUESTS = 24
MOST_PODS = 12
CHARACTERS = 38


def diagram(requests: Sequence[Told], *, differs: bool, label: str) -> str:
    """One SVG element.

    Args:
        requests: in order; of very many the last ones are drawn, since the last one differs.
        differs: mark the last one's answer.
        label: what the picture shows, in words.
    """
    drawn = requests[-MOST_REQUESTS:]
    pods = list(dict.fromkeys(request.pod for request in drawn))[-MOST_PODS:]
    columns = {pod: _column(number, len(pods)) for number, pod in enumerate(pods)}
    moves = sum(request.moved or request.replaced for request in drawn)
    height = TOP + ROW * len(drawn) + 24 * moves + 8
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">',
        f'<text x="{CLIENT}" y="16" class="m">client</text>',
        f'<line x1="{CLIENT}" y1="24" x2="{CLIENT}" y2="{height}" class="life"/>',
    ]
    for number, pod in enumerate(pods):
        x = columns[pod]
        name = f"pod {pod}" if len(pods) <= 5 else str(pod)
        down = 16 if number % 2 == 0 or len(pods) <= 5 else 28
        parts.append(f'<text x="{x}" y="{down}" class="m">{name}</text>')
        parts.append(f'<line x1="{x}" y1="32" x2="{x}" y2="{height}" class="life"/>')
    y = TOP
    for number, request in enumerate(drawn):
        x = columns.get(request.pod, columns[pods[-1]])
        if request.moved or request.replaced:
            parts.append(_killed(x, y, "replaced" if request.replaced else "killed, disk gone"))
            y += 24
        last = differs and number == len(drawn) - 1
        parts.append(_exchange(request, x, y, differs=last))
        y += ROW
    parts.append("</svg>")
    return "".join(parts)


def _column(number: int, pods: int) -> int:
    first, last = CLIENT + 110, WIDTH - 34
    return last if pods == 1 else round(first + number * (last - first) / (pods - 1))


def _killed(x: int, y: int, what: str) -> str:
    return (
        f'<path d="M{x - 6} {y - 2}l12 12m0 -12l-12 12" class="kill"/>'
        f'<text x="{x - 12}" y="{y + 9}" class="e">{what}</text>'
    )


def _exchange(request: Told, x: int, y: int, *, differs: bool) -> str:
    tone = "bad" if differs else "go"
    special = marks(request)
    back = f"{answered(request)}{', ' + special if special else ''}{' differs' if differs else ''}"
    start = CLIENT + 6
    reply = (
        # The answer of a lost delivery leaves the pod and does not arrive.
        f'<path d="M{x} {y + 42}H{(start + x) // 2}" class="{tone} dash"/>'
        f'<path d="M{(start + x) // 2 - 4} {y + 38}l8 8m0 -8l-8 8" class="kill"/>'
        if request.lost
        else f'<path d="M{x} {y + 42}H{start}" class="{tone} dash"/>'
        f'<path d="M{start + 6} {y + 38}l-6 4l6 4" class="{tone}"/>'
    )
    return (
        f'<text x="{CLIENT + 8}" y="{y + 12}" class="r">{escape(cut(sent(request), CHARACTERS))}</text>'
        f'<path d="M{CLIENT} {y + 18}H{x - 6}m-6 -4l6 4l-6 4" class="go"/>'
        f'<path d="M{x} {y + 18}V{y + 42}" class="work"/>'
        f'{reply}<text x="{CLIENT + 14}" y="{y + 36}" class="a {tone}">{escape(cut(back, CHARACTERS))}</text>'
    )
