"""The official openai package: chat completions, at once and streamed. pip install openai"""

import os

from openai import OpenAI

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"

client = OpenAI(base_url=BASE, api_key=KEY)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": QUESTION}]

done = client.chat.completions.create(model=model, messages=messages, reasoning_effort="low")
print(done.choices[0].message.content)
print("reasoning:", done.choices[0].message.reasoning_content[:60])
print("confidence:", done.reflective["confidence"], "tokens:", done.usage.completion_tokens)

stream = client.chat.completions.create(model=model, messages=messages, reasoning_effort="low", stream=True)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
