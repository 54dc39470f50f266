// The official openai package for Node: at once and streamed. npm install openai
import OpenAI from "openai";

const url = process.env.REFLECTIVE_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.REFLECTIVE_KEY ?? "none" });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Find the Least Common Multiple (LCM) of these numbers: 14, 20" }];

const done = await client.chat.completions.create({ model, messages, reasoning_effort: "low" });
console.log(done.choices[0].message.content, done.reflective.confidence);
for await (const chunk of await client.chat.completions.create({ model, messages, reasoning_effort: "low", stream: true })) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
