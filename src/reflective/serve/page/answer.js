// The outcome: the answer with what it rests on and what it cost, what a vote would have said, and a verdict on it.

import { el, percent, plural, score, seconds, whole } from "./dom.js";
import { formula } from "./detail.js";

const SHOWN_VOTES = 6;

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
const same = (a, b) => String(a).replace(/\s+/g, "") === String(b).replace(/\s+/g, "");

export function drawAnswer(node, run, { typesetter, open, feedback }) {
  const { solved } = run;
  const answer = solved.answer ?? run.content.trim();
  const shown = el("div", { class: solved.answer === null && answer ? "text" : "final", dir: "auto" }); // a whole response is no headline
  if (answer) typesetter.set(shown, formula(answer));
  else shown.textContent = "No answer";
  const parts = [el("h2", {}, "Answer"), shown];

  const { usage = {}, timing = {} } = solved;
  const facts = el(
    "dl",
    { class: "facts" },
    fact("confidence", percent(solved.confidence)),
    fact("strategy", solved.strategy),
    fact("score", score(solved.score)),
    fact("tokens", `${whole(usage.completion_tokens ?? 0)} written, ${whole(usage.prompt_tokens ?? 0)} of prompt`),
    fact("time", seconds(timing.total_s ?? run.elapsed / 1000)),
  );
  if (run.selected !== null) {
    const go = el("button", { type: "button", class: "quiet", onclick: () => open(run.selected) }, `trajectory ${run.selected}`);
    facts.append(fact("taken from", go));
  }
  parts.push(facts, majority(run, answer));
  for (const note of solved.notes ?? []) parts.push(el("p", { class: "note" }, note));
  if (run.votes.length > 1) parts.push(selections(run), votes(run, open));
  if (feedback && run.id) parts.push(thumbs(feedback));
  node.replaceChildren(...parts);
  node.hidden = false;
}

function majority(run, answer) {
  const { majority: vote } = run.solved;
  if (vote === null || vote === undefined) {
    return el("p", { class: "vote" }, "Majority vote: not known. Fewer than two trajectories wrote an answer.");
  }
  const [first] = run.votes;
  const share = first && same(first.answer, vote) ? ` (written so by ${first.count} of ${run.votes.reduce((n, v) => n + v.count, 0)})` : "";
  const agrees = same(vote, answer);
  return el("p", { class: `vote ${agrees ? "agrees" : "differs"}` }, agrees ? "Majority vote would have said the same" : "Majority vote would have said ", agrees ? null : el("b", { dir: "auto" }, vote), share, ".");
}

const table = (names, rows) => el("table", {}, el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows));

// ways to select, side by side over the same trajectories
function selections(run) {
  const rows = run.selections.map(([way, answer]) => el("tr", {}, el("td", {}, way), el("td", { dir: "auto" }, answer)));
  return el("details", {}, el("summary", {}, "Selections side by side"), table(["selection", "answer"], rows));
}

// the same trajectories as every selection sees them
function votes(run, open) {
  const rows = run.votes.slice(0, SHOWN_VOTES).map((vote) =>
    el(
      "tr",
      {},
      el("td", { dir: "auto" }, vote.answer),
      el("td", {}, String(vote.count)),
      el("td", {}, score(vote.best)),
      el("td", {}, ...vote.lanes.slice(0, 8).map((index) => el("button", { type: "button", class: "quiet", "aria-label": `Open trajectory ${index}`, onclick: () => open(index) }, String(index)))),
    ),
  );
  const rest = run.votes.length - rows.length;
  return el(
    "details",
    {},
    el("summary", {}, `${run.votes.length} answers as they are written`),
    table(["answer", "votes", "best score", "trajectories"], rows),
    rest > 0 ? el("p", { class: "small" }, `and ${rest} more`) : null,
  );
}

function thumbs(feedback) {
  const said = el("span", { role: "status", class: "small" });
  const buttons = [];
  const button = (sign, name, verdict) => {
    const made = el("button", { type: "button", "aria-label": name, "aria-pressed": "false" }, sign);
    made.addEventListener("click", async () => {
      try {
        await feedback(verdict);
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === made));
        said.textContent = "Stored.";
      } catch (error) {
        said.textContent = error.message;
      }
    });
    buttons.push(made);
    return made;
  };
  return el("p", { class: "thumbs" }, el("span", {}, "Is it right?"), button("👍", "The answer is right", "right"), button("👎", "The answer is wrong", "wrong"), said);
}
