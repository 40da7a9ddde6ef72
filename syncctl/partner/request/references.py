"""References of a JSON Schema: each is followed before the first row, and nothing is fetched."""

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

_KEYWORDS = ("$ref", "$dynamicRef", "$recursiveRef")


def find_dead_references(schema: Any, dialect: type[Validator]) -> Iterator[tuple[str, str]]:
    """Yield each reference that leads to no schema, and why.

    Only where the dialect has a schema is a reference one: in `const`, `enum` or `examples` it is a value.

    Args:
        dialect: The validator's class of the schema as a whole.
    """
    specification = specification_with(str(dialect.META_SCHEMA.get("$schema")), default=DRAFT202012)
    root = specification.create_resource(schema)
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    seen: set[int] = set()
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents
        if not isinstance(contents, Mapping) or id(contents) in seen:
            continue
        seen.add(id(contents))
        for reference in (contents.get(each) for each in _KEYWORDS):
            if not isinstance(reference, str):
                continue
            try:
                found = resolver.lookup(reference)
            except (Unresolvable, ValueError, TypeError) as error:
                yield reference, _explain(error)
                continue
            if why := _find_fault(found.contents, dialect):
                yield reference, why
            else:
                target = Resource.from_contents(found.contents, default_specification=specification)
                waiting.append((target, found.resolver))
        waiting += [(each, resolver.in_subresource(each)) for each in resource.subresources()]


def _explain(error: Exception) -> str:
    # Its kinds are about places within a document that is there.
    if type(error) is Unresolvable:
        return "and nothing is fetched: put that into $defs"
    return "which is not in it"


def _find_fault(target: Any, dialect: type[Validator]) -> str:
    """Say why a target is no schema: it may stand where the dialect looks for none."""
    if not isinstance(target, Mapping | bool):
        return "which is no schema"
    try:
        validator_for(target, default=dialect).check_schema(target)  # type: ignore[arg-type]  # true and false are too
    except jsonschema.SchemaError:
        return "which is no schema"
    return ""
