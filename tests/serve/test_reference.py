"""The page at /docs: all routes and fields, set from the server's own description, nothing from elsewhere."""

from __future__ import annotations

import json
from urllib.request import urlopen

from reflective.serve.reference import reference

TEXT = {"type": "string"}
DESCRIPTION = {
    "info": {"title": "Wall <clock>", "version": "1.0"},
    "paths": {
        "/time": {
            "post": {
                "description": "What time it is & where.",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}}},
            }
        }
    },
    "components": {
        "schemas": {
            "Ask": {
                "description": "A question.",
                "required": ["zone"],
                "properties": {
                    "zone": {**TEXT, "description": "of <where>"},
                    "names": {"anyOf": [{"type": "array", "items": TEXT}, {"type": "null"}]},
                    "unit": {"enum": ["s", "ms"]},
                },
            }
        }
    },
}


def test_routes_models_and_fields_are_set_with_their_types_and_texts_escaped():
    text = reference(DESCRIPTION)
    assert "<h1>Wall &lt;clock&gt; 1.0</h1>" in text
    assert "<h2>POST <code>/time</code></h2><p>What time it is &amp; where.</p>" in text
    assert '<p>Body: <a href="#Ask">Ask</a></p>' in text
    assert "<td><code>zone</code> (required)</td><td>string</td><td>of &lt;where&gt;</td>" in text
    assert "<td><code>names</code></td><td>list of string or null</td>" in text
    assert "<td><code>unit</code></td><td>&#x27;s&#x27;, &#x27;ms&#x27;</td>" in text


def test_the_server_shows_every_route_and_loads_nothing_from_elsewhere(nano_server):
    with urlopen(f"{nano_server.url}/openapi.json") as answer:
        description = json.load(answer)
    paths, schemas = description["paths"], description["components"]["schemas"]
    with urlopen(f"{nano_server.url}/docs") as answer:
        text, headers = answer.read().decode(), answer.headers
    assert {"/v1/chat/completions", "/v1/responses", "/v1/score", "/v1/models"} <= set(paths)
    for path in paths:
        assert f"<code>{path}</code>" in text
    assert "<code>reasoning_effort</code>" in text
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == ["nano"]
    for operation in (operation for path in paths.values() for operation in path.values()):
        assert "422" not in operation["responses"]  # not ours: what is wrong is 400
        error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert error == {"$ref": "#/components/schemas/ErrorBody"}
    assert "://" not in text and "<script" not in text
    assert headers["content-security-policy"].startswith("default-src 'none'")
