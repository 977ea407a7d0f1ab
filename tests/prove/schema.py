"""The part of JSON Schema that `docs/prove.schema.json` uses; what it does not know is an error."""

from __future__ import annotations

from typing import Any

KNOWN = {
    "$schema",
    "$defs",
    "title",
    "description",
    "type",
    "required",
    "properties",
    "items",
    "minItems",
    "enum",
    "const",
    "minimum",
    "anyOf",
    "$ref",
}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """Where a value does not keep to a schema. Unlike the standard it wants every field described."""
    assert schema.keys() <= KNOWN, f"{at}: {schema.keys() - KNOWN}"
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, at)
    if "anyOf" in schema:
        each = [problems(value, one, root, at) for one in schema["anyOf"]]
        return [] if [] in each else each[0]
    if "const" in schema and value != schema["const"]:
        return [f"{at}: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r}"]
    wanted = schema.get("type")
    is_bool = isinstance(value, bool)
    if wanted and (not isinstance(value, TYPES[wanted]) or (is_bool and wanted != "boolean")):
        return [f"{at}: {value!r} is no {wanted}"]
    if "minimum" in schema and value < schema["minimum"]:
        return [f"{at}: {value!r}"]
    found: list[str] = []
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{at}: too few")
        for number, item in enumerate(value):
            found += problems(item, schema["items"], root, f"{at}[{number}]")
    if isinstance(value, dict):
        found += [f"{at}: no {name}" for name in schema["required"] if name not in value]
        found += [f"{at}: {name} is not described" for name in value.keys() - schema["properties"]]
        for name in value.keys() & schema["properties"]:
            found += problems(value[name], schema["properties"][name], root, f"{at}.{name}")
    return found
