"""LiteLLM's adapter for servers with OpenAI's API. pip install litellm"""

import os

import litellm

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
MODEL = os.environ.get("REFLECTIVE_MODEL", "nano")

asked = {"model": f"openai/{MODEL}", "api_base": BASE, "api_key": KEY}
asked["messages"] = [{"role": "user", "content": QUESTION}]
done = litellm.completion(**asked, extra_body={"reasoning_effort": "low"})
print(done.choices[0].message.content, done.usage.completion_tokens)
for chunk in litellm.completion(**asked, stream=True, extra_body={"reasoning_effort": "low"}):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
