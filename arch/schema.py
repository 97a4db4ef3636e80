"""JSON Schema of a spec, with which editors complete and check YAML while you type.

It is looser than the parser, because a file may inherit keys from the spec that it extends: no key is required,
`extends` is allowed in any mapping, and a component without `type` may have the options of any type.
"""

from pydantic import TypeAdapter

from arch import registry

EXTENDS = {"type": "string", "description": "Name or path of a spec that this mapping overrides."}
LIKE = {"type": "string", "description": "Name of a sibling block that this block overrides."}


def json_schema(spec_class):
    """JSON Schema (2020-12) of a Spec class, in which each component is a choice of the registry's components."""
    definitions: dict[str, dict] = {}
    root = _schema(spec_class, "", definitions)
    for kind in registry.FOLDERS:
        _resolve_components(root, definitions, kind)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _schema(spec_class, prefix, definitions):
    """The schema of one class. Schemas that it refers to go into `definitions`, with `prefix` before their names."""
    template = "#/$defs/" + prefix + "{model}"
    schema = TypeAdapter(spec_class).json_schema(by_alias=True, ref_template=template)
    for name, definition in schema.pop("$defs", {}).items():
        definitions[prefix + name] = _loosened(definition, name)
    return _loosened(schema, spec_class.__name__)


def _loosened(schema, name):
    schema.pop("required", None)
    if "properties" in schema:
        schema["properties"] |= {"extends": EXTENDS} | ({"like": LIKE} if name == "BlockSpec" else {})
    return schema


def _resolve_components(root, definitions, kind):
    """Replace every schema marked `component: kind` by a reference to `$defs/kind`, which is added if it is used."""
    if kind not in definitions and any(_marked([root, definitions], kind)):
        definitions[kind] = _choice(kind, definitions)
    for place in list(_marked([root, definitions], kind)):  # also those in options of components: a source of a source
        kept = {key: text for key, text in place.items() if key == "description"}
        place.clear()
        place.update({"$ref": f"#/$defs/{kind}"} | kept)


def _marked(tree, kind):
    if isinstance(tree, dict):
        if tree.get("component") == kind:
            yield tree
        else:
            tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from _marked(child, kind)


def _choice(kind, definitions):
    branches: list[dict] = []
    options: dict[str, list[dict]] = {}
    for name in registry.names(kind):
        prefix = f"{kind}.{name}."
        component = registry.component(kind, name)
        schema = _schema(component.Config, prefix, definitions)
        for key, option in schema["properties"].items():
            options.setdefault(key, []).append(option)
        schema["properties"] = {"type": {"const": name}} | schema["properties"]
        branches.append({**schema, "title": name, "description": registry.purpose(component), "required": ["type"]})
    inherited = {key: each[0] if len(each) == 1 else {"anyOf": each} for key, each in options.items()}
    return {
        "oneOf": [
            *branches,
            {
                "title": "import path of your own",
                "type": "object",
                "properties": {"type": {"type": "string", "pattern": "[.:]"}},
                "required": ["type"],
            },
            {
                "title": "inherited type",
                "type": "object",
                "properties": inherited,
                "not": {"required": ["type"]},
                "additionalProperties": False,
            },
        ]
    }
