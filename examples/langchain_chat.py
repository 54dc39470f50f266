"""LangChain's OpenAI adapter. pip install langchain-openai"""

import os

from langchain_openai import ChatOpenAI

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
MODEL = os.environ.get("REFLECTIVE_MODEL", "nano")

chat = ChatOpenAI(base_url=BASE, api_key=KEY, model=MODEL, reasoning_effort="low")
answer = chat.invoke(QUESTION)
print(answer.content, answer.usage_metadata["output_token_details"])
for part in chat.stream(QUESTION):
    print(part.content, end="", flush=True)
print()
