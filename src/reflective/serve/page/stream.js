// The server's stream of one run: server-sent events of POST v1/chat/completions, as the events of run.js.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const headers = (key) => (key ? { authorization: `Bearer ${key}` } : {});

export async function asJSON(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // the status says enough
  }
  if (!response.ok) throw new Refused(response.status, body?.error?.message || `The server answered with status ${response.status}.`);
  return body;
}

// The data of server-sent events as they come; comments (keep-alives) are passed over.
async function* data(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let lines = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = parts.pop();
    for (const line of parts) {
      if (line.startsWith("data:")) lines.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && lines.length) {
        yield lines.join("\n");
        lines = [];
      }
    }
  }
}

// Calls tell(event) for everything that happens, until the answer is there. Raises Refused, or AbortError when stopped.
export async function solve(request, { key, signal, tell }) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers(key) },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) await asJSON(response);
  let named = false;
  let solved = false;
  for await (const text of data(response)) {
    if (text === "[DONE]") break;
    const chunk = JSON.parse(text);
    if (chunk.error) throw new Refused(500, chunk.error.message || "The server gave up.");
    if (chunk.id && !named) {
      named = true;
      tell({ type: "id", id: chunk.id });
    }
    const delta = chunk.choices?.[0]?.delta?.content;
    if (delta) tell({ type: "content", delta });
    if (chunk.reflective?.type) {
      solved ||= chunk.reflective.type === "solved";
      tell(chunk.reflective);
    }
  }
  if (!solved) throw new Refused(500, "The stream ended without an answer.");
}
