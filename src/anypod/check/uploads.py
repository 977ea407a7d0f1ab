"""Uploads of Django's file fields, which its default storage puts on this pod's own disk."""

from __future__ import annotations

from collections.abc import Iterator

from anypod.check.analysis import Analysis
from anypod.check.facts import CALLEE, KWARGS, Class
from anypod.check.files import CONFIGURED, dotted_in
from anypod.check.frames import walk
from anypod.check.model import ERROR, WARNING, Finding, Site
from anypod.check.settings import of_django, updates

_FIELDS = frozenset({"FileField", "ImageField"})
_LOCAL = "django.core.files.storage.FileSystemStorage"


def uploads(analysis: Analysis, why: str) -> Iterator[Finding]:
    """The file fields of a project's models, told once, unless its settings or each field name a storage."""
    named = of_django(analysis) if analysis.entries else {}
    if not named:
        return
    for name in ("DEFAULT_FILE_STORAGE", "STORAGES"):
        if name in named and any(
            ("k", _LOCAL) not in walk(given)
            for given in (named[name].value, *updates(named[name].frame, name))
        ):
            return
    sites = [
        site
        for module in analysis.project.modules.values()
        if not module.is_test and "/migrations/" not in f"/{module.path}"
        for cls in module.classes.values()
        for site in _fields(analysis, cls)
    ]
    if not sites:
        return
    root = named.get("MEDIA_ROOT", named["ROOT_URLCONF"])
    found = root.finding(
        "POD105", "uploads", "uploads are written to this pod's own disk", why, "file"
    )
    first = sites[0]
    # A folder that the environment names may be one volume for all.
    mounted = any(d.startswith(CONFIGURED) for d in dotted_in(analysis, root.value, root.frame))
    yield found._replace(
        path=first.path,
        line=first.line,
        severity=WARNING if mounted else ERROR,
        chain=(found.chain[0]._replace(path=first.path, line=first.line, name=first.text),),
        sites=tuple(sites),
        definition=Site(root.path, root.line, 0, root.name),
    )


def _fields(analysis: Analysis, cls: Class) -> Iterator[Site]:
    module = analysis.project.modules[cls.module]
    calls = module.functions[cls.owner].body.calls if cls.attributes else ()
    for name, bindings in cls.attributes.items():
        for value, line in bindings:
            if value[0] != "r" or calls[value[1]][CALLEE][-1] not in _FIELDS:
                continue
            owner = analysis.resolver.frame(module.functions[cls.owner], startup=True)
            if "storage" not in dict(calls[value[1]][KWARGS]) and any(
                c[0] == "E" and c[1].startswith("django.db.models.")
                for c in analysis.resolver.callees(owner, value[1])
            ):
                yield Site(cls.module, line, 0, f"{cls.name}.{name}")
