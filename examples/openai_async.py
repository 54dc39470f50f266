"""The official openai package, asynchronously: several questions at a time. pip install openai"""

import asyncio
import os

from openai import AsyncOpenAI

BASE = os.environ.get("REFLECTIVE_URL", "http://127.0.0.1:8000") + "/v1"
KEY = os.environ.get("REFLECTIVE_KEY", "none")
QUESTION = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"


async def main() -> None:
    async with AsyncOpenAI(base_url=BASE, api_key=KEY) as client:
        model = (await client.models.list()).data[0].id

        async def ask(question: str) -> str:
            done = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], extra_body={"reflective": {"effort": 4}}
            )
            return done.choices[0].message.content

        print(*await asyncio.gather(ask(QUESTION), ask(QUESTION.replace("14, 20", "4, 6"))), sep="\n")


asyncio.run(main())
