// The page: what is asked, the run that is shown, and what the buttons do.

import { $, el, plural, seconds, whole } from "./dom.js";
import { Run, readRun } from "./run.js";
import { Refused, asJSON, headers, solve } from "./stream.js";
import { Typesetter } from "./typeset.js";
import { Lanes } from "./lanes.js";
import { Detail, shared } from "./detail.js";
import { drawAnswer } from "./answer.js";

const LARGEST_FILE = 64 * 2 ** 20; // bytes of a saved run
const LINGER_MS = 1000; // that a leader stays open before another one is shown
const remembered = {
  get: (store, name) => { try { return store.getItem(name); } catch { return null; } },
  set: (store, name, value) => { try { store.setItem(name, value); } catch { /* private windows keep nothing */ } },
};

let about = { model: "", examples: [], note: "", feedback: false, strategies: [] };
let run = null;
let live = null; // the AbortController of a request, or of a replay
let began = 0;
let opened = []; // indices, one or two
let followed = true;
let switched = 0;
let details = [];
let answered = false;
let decided = 0;
let frame = 0;

const key = () => remembered.get(sessionStorage, "key") || "";
const typesetter = new Typesetter(key);
const lanes = new Lanes($("lanes"), { open: visit, compare });

// ---- drawing, once a frame

function dirty(index) {
  if (index !== null && index !== undefined) lanes.mark(index);
  if (!frame) frame = requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  if (!run) return;
  lanes.draw(run, $("order").value);
  follow();
  for (const detail of details) detail.draw();
  const over = run.over || !live;
  const ended = run.lanes.filter((lane) => lane.ended && !lane.gone).length;
  const gone = run.lanes.filter((lane) => lane.gone).length;
  const tokens = run.solved?.usage?.completion_tokens;
  $("status").textContent = run.lanes.length
    ? [
        run.stopped ? "stopped" : over ? "done" : "running",
        plural(run.lanes.length, "trajectory", "trajectories"),
        `${ended} finished`,
        gone ? `${gone} let go` : null,
        plural(run.steps, "step"),
        tokens ? `${whole(tokens)} tokens` : null,
        seconds(run.elapsed / 1000),
      ].filter(Boolean).join(" · ")
    : run.ahead ? `waiting: ${plural(run.ahead, "request")} before this one` : "waiting for the first step";
  if (run.decisions.length !== decided) {
    const log = $("decisions").querySelector("ol");
    log.append(...run.decisions.slice(decided).map(([ms, text]) => el("li", {}, el("span", { class: "small" }, seconds(ms / 1000)), " ", text)));
    decided = run.decisions.length;
  }
  if (run.solved && !answered) {
    answered = true;
    drawAnswer($("answer"), run, { typesetter, open: visit, feedback: about.feedback ? feedback : null });
  }
}

// What is open follows the leader, and then the selection, until the user opens something.
function follow() {
  const leader = run.leader ?? (run.lanes.length ? 0 : null); // without scores nobody leads
  if (!followed || leader === null || opened[0] === leader) return;
  const now = performance.now();
  if (!run.solved && opened.length && now - switched < LINGER_MS) return;
  switched = now;
  open(leader);
}

function open(index, second = null) {
  opened = second === null || second === index ? [index] : [index, second];
  const [a, b] = opened.map((i) => run.lanes[i]);
  const same = b ? shared(a, b) : 0;
  details = opened.map((i) => new Detail(run.lanes[i], typesetter, {
    selected: i === run.selected,
    same,
    close: b ? () => open(opened.find((other) => other !== i)) : null,
  }));
  const note = b ? el("p", { class: "small sharing" }, same ? `The first ${same === 1 ? "step is" : `${same} steps are`} the same in both.` : "They differ from the first step on.") : null;
  $("detail").replaceChildren(...(note ? [note] : []), ...details.map((detail) => detail.node));
  $("detail").classList.toggle("two", Boolean(b));
  $("compare").setAttribute("aria-pressed", String(Boolean(b)));
  lanes.press(opened);
  dirty();
}

// Open a trajectory that the user asked for, and show it where it lies below the lanes.
function visit(index) {
  followed = false;
  open(index);
  if (matchMedia("(max-width: 900px)").matches) $("detail").scrollIntoView();
}

// A second trajectory beside the open one. From the button: the best of the others.
function compare(index) {
  if (!run || !run.lanes.length) return;
  followed = false;
  if (opened.length === 2 && (index === undefined || opened.includes(index))) return open(opened[0]);
  const first = opened[0] ?? run.leader ?? 0;
  const other = index ?? [...run.lanes].filter((lane) => lane.index !== first).sort((a, b) => (b.score ?? -1) - (a.score ?? -1))[0]?.index;
  if (other === undefined) return undefined;
  return open(first, other);
}

// ---- a run

function begin(request) {
  run = new Run(request);
  opened = [];
  details = [];
  answered = false;
  followed = true;
  decided = 0;
  lanes.clear();
  $("detail").replaceChildren();
  $("decisions").querySelector("ol").replaceChildren();
  $("answer").hidden = true;
  $("run").hidden = false;
  $("asked").textContent = question(request);
  fail(null);
  dirty();
}

const question = (request) => {
  const messages = Array.isArray(request.messages) ? request.messages : [];
  return String(messages[messages.length - 1]?.content ?? "");
};

function busy(state) {
  $("solve").hidden = state;
  $("stop").hidden = !state;
  for (const id of ["save", "replay", "load"]) $(id).disabled = state;
}

function fail(message) {
  $("error").hidden = !message;
  $("error").textContent = message ?? "";
}

function asked() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const effort = new FormData($("ask")).get("effort");
  const strategy = $("strategy").value;
  return {
    model: about.model,
    messages: [{ role: "user", content: $("problem").value }],
    stream: true,
    seed: number("seed") ?? Math.floor(Math.random() * 2 ** 31),
    temperature: number("temperature"),
    max_completion_tokens: number("tokens"),
    reflective: {
      events: true,
      steps: true,
      effort: effort === "other" ? number("count") : effort,
      strategy: strategy || undefined,
      answers: $("all").checked ? "all" : undefined,
    },
  };
}

async function start() {
  if (live || !$("problem").value.trim()) return $("problem").focus();
  const request = JSON.parse(JSON.stringify(asked()));
  begin(request);
  busy(true);
  live = new AbortController();
  began = performance.now();
  const mine = run;
  const tell = (event) => dirty(mine.apply(performance.now() - began, event)?.index);
  try {
    await solve(request, { key: key(), signal: live.signal, tell });
  } catch (error) {
    tell({ type: "stopped" });
    for (const lane of run.lanes) dirty(lane.index);
    if (error.name !== "AbortError") {
      fail(error.message);
      if (error.status === 401) askForKey();
    }
  }
  live = null;
  busy(false);
  for (const lane of run.lanes) dirty(lane.index);
  return undefined;
}

function stop() {
  if (live) live.abort();
}

// ---- saving, loading, replaying

function save() {
  const name = `run-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.json`;
  const link = el("a", { href: URL.createObjectURL(new Blob([JSON.stringify(run)], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function load(file) {
  try {
    if (file.size > LARGEST_FILE) throw new Error("The file is larger than 64 MB.");
    const saved = readRun(await file.text());
    begin(saved.request);
    for (const [ms, event] of saved.events) dirty(run.apply(ms, event)?.index);
    $("problem").value = question(saved.request);
  } catch (error) {
    fail(error.message);
  }
}

function replay() {
  const { request, events } = readRun(JSON.stringify(run));
  const speed = Number($("speed").value);
  begin(request);
  busy(true);
  live = new AbortController();
  const { signal } = live;
  began = performance.now();
  let next = 0;
  const tick = (now) => {
    const until = (now - began) * speed;
    while (next < events.length && (events[next][0] <= until || signal.aborted)) {
      dirty(run.apply(...events[next])?.index);
      next += 1;
    }
    if (next < events.length) return requestAnimationFrame(tick);
    live = null;
    busy(false);
    return dirty();
  };
  requestAnimationFrame(tick);
}

async function feedback(verdict) {
  const body = JSON.stringify({ id: run.id, verdict });
  await asJSON(await fetch("v1/feedback", { method: "POST", headers: { "content-type": "application/json", ...headers(key()) }, body }));
}

// ---- the beginning

async function introduce() {
  try {
    about = await asJSON(await fetch("v1/page", { headers: headers(key()) }));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      $("keybutton").hidden = false;
      return askForKey();
    }
    return fail(`The server does not answer: ${error.message}`);
  }
  $("model").textContent = about.model;
  $("examplenote").textContent = about.note;
  $("examples").replaceChildren(...about.examples.map((example) =>
    el("li", {}, el("button", { type: "button", title: example.text, onclick: () => pick(example.text) }, example.name))));
  $("strategy").replaceChildren(el("option", { value: "" }, "the model's"), ...about.strategies.map((name) => el("option", { value: name }, name)));
  const effort = document.querySelector(`[name=effort][value="${CSS.escape(String(about.effort))}"]`);
  if (effort) effort.checked = true;
  if (key()) $("keybutton").hidden = false;
  return undefined;
}

function pick(text) {
  const field = $("problem");
  field.value = text;
  field.focus();
  field.setSelectionRange(0, 0);
  field.scrollTop = 0;
}

function askForKey() {
  $("key").value = key();
  $("keydialog").showModal();
}

$("keydialog").addEventListener("close", () => {
  if ($("keydialog").returnValue !== "ok") return;
  remembered.set(sessionStorage, "key", $("key").value.trim());
  fail(null);
  introduce();
});
$("keybutton").addEventListener("click", askForKey);
$("ask").addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("efforts").addEventListener("change", () => { $("count").hidden = new FormData($("ask")).get("effort") !== "other"; });
$("stop").addEventListener("click", stop);
$("save").addEventListener("click", save);
$("replay").addEventListener("click", replay);
$("compare").addEventListener("click", () => compare());
$("order").addEventListener("change", () => dirty());
$("load").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) load($("file").files[0]); $("file").value = ""; });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (!live && event.dataTransfer.files[0]) load(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
  else if (event.key === "Escape" && !$("keydialog").open) stop();
});

const theme = remembered.get(localStorage, "theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remembered.set(localStorage, "theme", root.dataset.theme);
});
$("scale").append(...Array.from({ length: 10 }, (_, i) => el("i", { class: `c${i}` })));
introduce();
