"""The page at `/docs`: the API's OpenAPI description as plain HTML, set by this server alone.

It loads nothing but the page's own style sheet, so that it works offline and under the page's security policy.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def reference(description: Schema) -> str:
    """The whole page of an OpenAPI 3.1 description."""
    title = f"{description['info']['title']} {description['info']['version']}"
    models: Schema = description.get("components", {}).get("schemas", {})
    parts = [
        part
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        for part in _operation(method.upper(), path, operation)
    ]
    shown = {name: model for name, model in models.items() if "properties" in model}
    parts += [part for name in sorted(shown) for part in _model(name, shown[name])]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="stylesheet" href="/page/style.css"></head>'
        f'<body><main class="reference"><h1>{html.escape(title)}</h1>'
        '<p>The same as JSON: <a href="/openapi.json">/openapi.json</a></p>' + "".join(parts) + "</main></body></html>"
    )


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield f"<h2>{method} <code>{html.escape(path)}</code></h2>"
    yield f"<p>{html.escape(operation.get('description', operation.get('summary', '')))}</p>"
    for kind in operation.get("requestBody", {}).get("content", {}).values():
        yield f"<p>Body: {_type(kind.get('schema', {}))}</p>"


def _model(name: str, model: Schema) -> Iterator[str]:
    yield f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>'
    yield f"<p>{html.escape(model.get('description', ''))}</p>"
    yield "<table><thead><tr><th>field</th><th>type</th><th>meaning</th></tr></thead><tbody>"
    for field, schema in model["properties"].items():
        needed = " (required)" if field in model.get("required", ()) else ""
        yield (
            f"<tr><td><code>{html.escape(field)}</code>{needed}</td><td>{_type(schema)}</td>"
            f"<td>{html.escape(schema.get('description', ''))}</td></tr>"
        )
    yield "</tbody></table>"


def _type(schema: Schema) -> str:
    """A schema in a few words, with links to the models that it names."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(option) for option in schema[key])
    if "enum" in schema or "const" in schema:
        return ", ".join(html.escape(repr(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return html.escape(str(schema.get("type", "anything")))
