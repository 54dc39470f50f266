"""The requests that Open WebUI sends: the list of models, a title for the chat, and a chat with a system message.

To use Open WebUI itself, add a connection to http://127.0.0.1:8000/v1 under Settings, Connections, OpenAI.
"""

import json
import os
import urllib.request

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(f"{BASE}/{path}", data, HEADERS), timeout=120)


model = json.load(call("models"))["data"][0]["id"]
title = {"role": "user", "content": f"### Task:\nGenerate a concise title.\n<chat_history>{QUESTION}</chat_history>"}
asked = {"model": model, "messages": [title], "stream": False, "max_completion_tokens": 100}
print("title:", json.load(call("chat/completions", asked))["choices"][0]["finish_reason"])

messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
]
chat = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
with call("chat/completions", chat) as stream:
    for line in stream:
        text = line.decode().removeprefix("data: ").strip()
        if text and text != "[DONE]" and not text.startswith(":"):
            chunk = json.loads(text)
            for choice in chunk["choices"]:
                print(choice["delta"].get("content") or "", end="")
            if chunk.get("usage"):
                print("\ntokens:", chunk["usage"]["total_tokens"])
