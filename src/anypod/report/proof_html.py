"""A proof as one HTML file: opens offline, runs no script, and stays below two megabytes.

Each difference is told beside what one replica did with the same requests: as a diagram, and as lists,
so that a screen reader misses nothing. Light and dark follow the reader's setting. All text of the
service is escaped, and a content policy forbids scripts and loading, so a hostile answer is only text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from anypod.prove.events import Divergence, Outcome, Stale, Told, Verdict
from anypod.prove.schedules import Kind
from anypod.report.proof_diagram import diagram
from anypod.report.proof_sarif import delivered
from anypod.report.words import contended, count, cut, duration, evidence, instead, short, why

LARGEST = 1_500_000  # bytes of articles; what is beyond is listed in one line each
MOST_LINES = 300
LONGEST = 600
MOST_LISTED = 40

STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--dim:#57606a;--line:#d0d7de;--card:#f6f8fa;
--bad:#b3141d;--good:#116329;--warn:#7d4e00;--link:#0550ae}
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--text:#e6edf3;--dim:#9ea7b3;--line:#3d444d;
--card:#161b22;--bad:#ff8a82;--good:#5bd778;--warn:#e3b341;--link:#79b8ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;
color:var(--text);background:var(--back);overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}h3{font-size:1.05rem;margin:0}
h4{font-size:1rem;margin:0 0 .25rem}
a{color:var(--link)}:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--back);padding:.5rem}
.claim{font-size:1.15rem;border-left:.4rem solid var(--tone);padding:.5rem .75rem;background:var(--card)}
.claim b{color:var(--tone)}.bad{--tone:var(--bad)}.good{--tone:var(--good)}.warn{--tone:var(--warn)}
article{border:1px solid var(--line);border-radius:.5rem;padding:.75rem;margin:1rem 0;background:var(--card)}
.kind,.dim{color:var(--dim)}code,pre{font:.9em/1.4 ui-monospace,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;margin:.25rem 0}
.sides{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
figure{margin:0;min-width:0}svg{display:block;width:100%;max-width:26rem;height:auto}
svg text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:var(--text);paint-order:stroke;
stroke:var(--card);stroke-width:4px}svg .m{text-anchor:middle}
svg .e{text-anchor:end}svg .a{fill:var(--dim)}svg text.bad{fill:var(--bad);font-weight:bold}
svg path,svg line{fill:none;stroke:var(--text);stroke-width:1.2}svg .life{stroke:var(--line);stroke-width:2}
svg .dash{stroke-dasharray:4 3}svg .work{stroke-width:5;stroke:var(--dim)}
svg path.bad{stroke:var(--bad);stroke-width:2.5}svg .kill{stroke:var(--bad);stroke-width:2}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .5rem;vertical-align:top;
border-bottom:1px solid var(--line)}article th{width:1%;padding-right:1rem;white-space:nowrap}article table{margin-bottom:.75rem}td.n{text-align:right;font-variant-numeric:tabular-nums}
.expected{color:var(--good)}.got{color:var(--bad)}summary{cursor:pointer}ol,ul{padding-left:1.5rem}
@media print{body{max-width:none}details>*{display:block}}
"""


def html(verdict: Verdict) -> str:
    """The whole page."""
    title = f"anypod prove: {verdict.application or 'a proof'}"
    tone, word = _tone(verdict)
    found = _numbered(verdict)
    partial = "<b>Partial.</b> " if verdict.partial else ""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        (
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'\">"
        ),
        f"<title>{_text(title)}: {word}</title><style>{STYLE}</style></head><body>",
        '<a class="skip" href="#found">Skip to what was found</a><header>',
        f"<h1>{_text(title)}</h1>",
        f'<p class="claim {tone}" role="status"><b>{word}.</b> {partial}{_text(verdict.claim)}</p>',
        (
            f'<p class="dim">{_text(short(verdict.workload))}, {count(verdict.starts, "start")}, '
            f"{verdict.seconds:.1f} s</p></header><main>"
        ),
        _reason(verdict),
        _contents(found),
        _articles(found),
        _stale(verdict.stale),
        _listed("Not retry-safe", _not_retry_safe(verdict)),
        _listed(
            "When two come at once",
            (_text(contended(one)) for one in verdict.contended),
        ),
        _listed("Unconfirmed", (_line(divergence) for divergence in verdict.unconfirmed)),
        _coverage(verdict),
        _listed("Not exercised", map(_text, verdict.not_exercised or ())),
        _listed("Not tried", map(_text, verdict.not_tried)),
        _listed("Notes", map(_text, verdict.warnings)),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _tone(verdict: Verdict) -> tuple[str, str]:
    match verdict.outcome:
        case Outcome.DIFFERENT:
            return "bad", "Different"
        case Outcome.COULD_NOT_RUN:
            return "bad", "Could not run"
        case Outcome.ACCEPTED:
            return "warn", "Only accepted differences"
        case Outcome.NO_DIFFERENCE:
            if verdict.inconclusive:
                return "warn", "Inconclusive"
            return "good", "No difference"


def _reason(verdict: Verdict) -> str:
    return f"<pre>{_text(verdict.reason)}</pre>" if verdict.reason else ""


def _numbered(verdict: Verdict) -> list[tuple[int, Divergence]]:
    return list(enumerate((*verdict.divergences, *verdict.accepted), start=1))


def _contents(found: Sequence[tuple[int, Divergence]]) -> str:
    if len(found) < 2:
        return ""
    rows = [f'<li><a href="#d{n}">{_line(one)}</a></li>' for n, one in found[:MOST_LINES]]
    more = _more(len(found) - MOST_LINES)
    return f'<nav aria-label="Differences"><ol>{"".join(rows)}</ol>{more}</nav>'


def _line(divergence: Divergence) -> str:
    accepted = ", accepted" if divergence.accepted else ""
    return f"{_text(divergence.route)} <span class=kind>({divergence.schedule}{accepted})</span>"


def _articles(found: Sequence[tuple[int, Divergence]]) -> str:
    heading = '<h2 id="found" tabindex="-1">What differed</h2>'
    if not found:
        return f"{heading}<p>Nothing.</p>"
    parts = [heading]
    size = 0
    for number, divergence in found:
        article = _article(number, divergence)
        size += len(article.encode())
        if size > LARGEST:
            left = len(found) - number + 1
            parts.append(f"<p>{count(left, 'further difference')}: see the JSON file.</p>")
            break
        parts.append(article)
    return "\n".join(parts)


def _article(number: int, divergence: Divergence) -> str:
    kinds = ", ".join((str(divergence.schedule), *map(str, divergence.also)))
    seen = (
        f"<p>Seen at {_text(divergence.seen_at)}.</p>"
        if divergence.seen_at != divergence.route
        else ""
    )
    accepted = (
        f"<p><b>Accepted:</b> {_text(divergence.accepted)}</p>" if divergence.accepted else ""
    )
    replacement = instead(divergence.rule)
    rule = (
        f"<p>Check rule {_text(divergence.rule)}"
        f"{f': replace by <code>{_text(replacement)}</code>' if replacement else ''}.</p>"
        if divergence.rule
        else ""
    )
    hint = divergence.hint if divergence.schedule is not Kind.RETRY else ""
    sides = [_side("As replicas", divergence.requests, divergence.got, got=True)]
    if divergence.alone:
        sides.insert(0, _side("One replica", divergence.alone, divergence.expected, got=False))
    return "\n".join(
        part
        for part in (
            f'<article id="d{number}" aria-labelledby="t{number}">',
            f'<h3 id="t{number}">{number}. {_text(divergence.route)}</h3>',
            f'<p class="kind">{_text(kinds)}</p>{seen}{accepted}',
            f"<p>{_sentence(why(divergence))}</p>",
            f"<p>{_sentence(evidence(divergence))}</p>" if divergence.cause else "",
            (
                f"<table><tr><th scope=row>where</th><td><code>{_text(divergence.where)}</code></td></tr>"
                f"<tr><th scope=row>expected</th><td><code class=expected>{_text(divergence.expected)}"
                "</code></td></tr>"
                f"<tr><th scope=row>got</th><td><code class=got>{_text(divergence.got)}</code></td></tr>"
                "</table>"
            ),
            f'<div class="sides">{"".join(sides)}</div>',
            rule,
            f"<p class=dim>{_text(hint)}</p>" if hint else "",
            "</article>",
        )
        if part
    )


def _sentence(text: str) -> str:
    escaped = _text(text)
    return f"{escaped[:1].upper()}{escaped[1:]}."


def _side(name: str, requests: Sequence[Told], value: str, *, got: bool) -> str:
    label = f"{name}: {count(len(requests), 'request')}, listed below the picture"
    rows = "".join(f"<li><code>{_text(delivered(r))}</code></li>" for r in requests[-MOST_LISTED:])
    earlier = len(requests) - MOST_LISTED
    left_out = f"<p>{count(earlier, 'earlier request')} not shown.</p>" if earlier > 0 else ""
    return (
        f"<figure><figcaption><h4>{name}: <code class={'got' if got else 'expected'}>"
        f"{_text(cut(value, 80))}</code></h4></figcaption>"
        f"{diagram(requests, differs=got, label=label)}"
        f"<details><summary>The requests as text</summary>{left_out}<ol>{rows}</ol></details></figure>"
    )


def _stale(found: Sequence[Stale]) -> str:
    return _listed(
        "Old answers that were accepted",
        (
            f"{_text(one.route)}: stale ≤ {duration(one.seconds)}, declared by "
            + (f"the cache <code>{_text(one.cache)}</code>" if one.cache else "the workload")
            for one in found
        ),
    )


def _not_retry_safe(verdict: Verdict) -> Iterable[str]:
    for one in verdict.not_retry_safe:
        yield (
            f"{_text(one.route)}: a second delivery shows at {_text(one.seen_at)}, "
            f"<code>{_text(one.where)}</code>"
        )


def _listed(heading: str, rows: Iterable[str]) -> str:
    """A section with a list; nothing for an empty one. `rows` are HTML already."""
    items = list(rows)
    if not items:
        return ""
    shown = "".join(f"<li>{item}</li>" for item in items[:MOST_LINES])
    return f"<h2>{heading}</h2><ul>{shown}</ul>{_more(len(items) - MOST_LINES)}"


def _more(left: int) -> str:
    return f"<p>and {left} more: see the JSON file.</p>" if left > 0 else ""


def _coverage(verdict: Verdict) -> str:
    numbers = verdict.coverage
    if numbers is None:
        return ""
    rows = [
        ("schedules", numbers.schedules),
        ("routes compared", numbers.routes),
        ("write→read pairs", numbers.pairs),
        ("stale triples", numbers.triples),
        ("retries", numbers.retries),
        ("kill points", numbers.moves),
        ("deploys", numbers.deploys),
        ("overlaps", numbers.overlaps),
    ]
    body = "".join(
        f"<tr><th scope=row>{name}</th><td class=n>{done}</td><td class=n>{possible}</td></tr>"
        for name, (done, possible) in rows
        if possible
    )
    routes = "".join(
        f"<tr><th scope=row><code>{_text(one.route)}</code></th><td class=n>{one.requests}</td>"
        f"<td>{'yes' if one.compared else 'no: one replica answers with an error too'}</td></tr>"
        for one in verdict.routes[:MOST_LINES]
    )
    return (
        "<h2>Covered</h2><table><thead><tr><th scope=col>what</th><th scope=col>tried</th>"
        f"<th scope=col>possible</th></tr></thead><tbody>{body}</tbody></table>"
        f"<p>{count(numbers.replayed, 'request')} replayed"
        + (
            f", some of them in {count(numbers.random, 'random schedule')} of seed {verdict.seed}"
            if numbers.random
            else ""
        )
        + ".</p>"
        "<details><summary>Routes of the workload</summary><table><thead><tr><th scope=col>route</th>"
        "<th scope=col>requests</th><th scope=col>compared</th></tr></thead>"
        f"<tbody>{routes}</tbody></table>{_more(len(verdict.routes) - MOST_LINES)}</details>"
    )


def _text(text: str) -> str:
    return escape(cut(text, LONGEST), quote=True)
