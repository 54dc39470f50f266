"""The official openai package: the responses API, at once and streamed. pip install openai"""

import os

from openai import OpenAI

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"

client = OpenAI(base_url=BASE, api_key=KEY)
model = client.models.list().data[0].id

print(client.responses.create(model=model, input=QUESTION, reasoning={"effort": "low"}).output_text)
with client.responses.stream(model=model, input=QUESTION, reasoning={"effort": "low"}) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
print()
