"""One YAML document as a tree that knows its lines. The only module that knows the YAML library.

The library keeps lines, but takes the last of two equal keys in silence, and makes objects of
whatever a tag names: hence a tree of our own, made from its nodes.
"""

from __future__ import annotations

import yaml

from ovn_ipsec.render.model import Entry, Fields, Items, Node, Problem, Scalar

_MAX_DEPTH = 50
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


def parse_document(text: str) -> tuple[Node | None, list[Problem]]:
    """The only document of a file; None when it is no YAML or not one document."""
    try:
        refused = _refused(text)
        if refused is not None:
            return None, [refused]
        roots = list(yaml.compose_all(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return None, [Problem(line, "", f"not YAML: {error.problem or error.context}")]
    except yaml.YAMLError as error:
        return None, [Problem(1, "", "not YAML: " + " ".join(str(error).split()))]
    if not roots:
        return None, [Problem(1, "", "empty; the manifest of a Network is expected")]
    if len(roots) > 1:
        line = roots[1].start_mark.line + 1
        return None, [Problem(line, "", "a second document; give the Network's alone")]
    problems: list[Problem] = []
    return _node(roots[0], "", problems), problems


def _refused(text: str) -> Problem | None:
    """Aliases, which make an endless tree of a small file, and nesting that has no end."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            return Problem(line, "", "aliases are not read; write the value out")
        if depth > _MAX_DEPTH:
            return Problem(line, "", f"nested more than {_MAX_DEPTH} deep")
    return None


def _node(node: yaml.Node, path: str, problems: list[Problem]) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return Fields(line, _entries(node, path, problems))
    if isinstance(node, yaml.SequenceNode):
        return Items(
            line,
            tuple(_node(item, f"{path}[{at}]", problems) for at, item in enumerate(node.value)),
        )
    return Scalar(line, _value(node, path, problems))


def _entries(node: yaml.MappingNode, path: str, problems: list[Problem]) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _value(key_node, path, problems) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            problems.append(Problem(line, path, "a key that is not a string"))
            continue
        inner = f"{path}.{key}" if path else key
        if key in entries:
            problems.append(
                Problem(line, inner, f"given twice, first in line {entries[key].line}")
            )
            continue
        entries[key] = Entry(line, key, _node(value_node, inner, problems))
    return tuple(entries.values())


def _value(node: yaml.Node, path: str, problems: list[Problem]) -> str | int | float | bool | None:
    if node.tag not in _PLAIN:
        # Dates and the like are strings to Kubernetes; tags of other kinds have no place here.
        if node.tag.startswith("tag:yaml.org,2002:") and node.tag != "tag:yaml.org,2002:binary":
            return str(node.value)
        problems.append(Problem(node.start_mark.line + 1, path, f"unknown tag {node.tag}"))
        return None
    constructor = yaml.constructor.SafeConstructor()
    try:
        value: str | int | float | bool | None = constructor.construct_object(node)
    except (ValueError, KeyError, yaml.YAMLError):
        problems.append(
            Problem(node.start_mark.line + 1, path, f"{node.value!r} is no {node.tag[22:]}")
        )
        return None
    return value
