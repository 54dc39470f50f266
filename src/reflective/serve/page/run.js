// A run as the events tell it: no drawing, no network. The same events in the same order give the same run, whether they
// come from the server, from a saved file or from a replay.

const FORMAT = "reflective run";
const VERSION = 1;
const MOST_TRAJECTORIES = 4096;

class Lane {
  constructor(index) {
    this.index = index;
    this.steps = []; // {text, score, running}
    this.pending = ""; // text of the step that is being written
    this.said = ""; // the answer's text
    this.state = "waiting"; // writing, reasoned, answering, done, cut, cancelled, stopped
    this.why = "";
    this.parent = null; // of a fork
    this.final = null;
    this.tokens = null;
    this.answer = null;
  }

  // the geometric mean of the step scores so far, S = (Π s_i)^(1/n)
  get score() {
    if (this.final !== null) return this.final;
    return this.steps.length ? this.steps[this.steps.length - 1].running : null;
  }

  // the steps as the outcome tells them, where events were lost
  repair(steps) {
    let sum = 0;
    this.steps = steps.map(({ text, score }, i) => {
      sum += Math.log(Math.max(score, 1e-12));
      return { text: text ?? "", score, running: Math.exp(sum / (i + 1)) };
    });
  }

  get gone() {
    return this.state === "cancelled";
  }

  get ended() {
    return !["waiting", "writing", "answering"].includes(this.state);
  }
}

const MARK = /<[/|]?[^<>\s]{1,40}>\s*$/; // a closing mark of the model's format, such as </think>

const ENDS = { think_end: "reasoned", eos: "done", length: "cut", cancelled: "cancelled", stop: "done" };

// What the members of events may be; those that are not here are not read.
const string = (value) => typeof value === "string";
const count = (value) => Number.isInteger(value) && value >= 0;
const share = (value) => Number.isFinite(value) && value >= 0 && value <= 1;
const trajectory = (value) => count(value) && value < MOST_TRAJECTORIES;
const maybe = (is) => (value) => value === null || value === undefined || is(value);
const each = (is) => (value) => Array.isArray(value) && value.every(is);
const shape = (members) => (value) => value !== null && typeof value === "object" && Object.entries(members).every(([name, is]) => is(value[name]));
const FATE = {
  index: trajectory,
  score: maybe(share),
  tokens: maybe(count),
  answer: maybe(string),
  finish_reason: maybe(string),
  steps: maybe(each(shape({ text: maybe(string), score: share }))),
};
const EVENTS = {
  queued: { before: count },
  started: { k: (value) => count(value) && value <= MOST_TRAJECTORIES, strategy: string, prompt_tokens: count },
  text: { trajectory, delta: string },
  step: { trajectory, score: share, index: maybe(count), running: maybe(share) },
  finished: { trajectory, reason: string, score: maybe(share), tokens: maybe(count), answer: maybe(string) },
  forked: { trajectory, parent: trajectory, at: count },
  cancelled: { trajectory, why: maybe(string), detail: maybe(string) },
  answering: { trajectory },
  progress: {},
  lost: { events: count },
  solved: {
    selected: maybe(trajectory),
    score: maybe(share),
    confidence: maybe(share),
    strategy: string,
    answer: maybe(string),
    majority: maybe(string),
    usage: maybe(shape({ prompt_tokens: maybe(count), completion_tokens: maybe(count) })),
    timing: maybe(shape({ total_s: maybe(Number.isFinite) })),
    trajectories: maybe(each(shape(FATE))),
    notes: maybe(each(string)),
  },
  content: { delta: string },
  id: { id: string },
  stopped: {},
};
const SAID = { score: "a step score outside 0 to 1", k: "an odd number of trajectories" };

export class Run {
  constructor(request) {
    this.request = request;
    this.events = []; // [milliseconds, event]
    this.lanes = [];
    this.decisions = []; // [milliseconds, text]
    this.k = 0;
    this.id = null;
    this.content = "";
    this.solved = null;
    this.stopped = false;
    this.ahead = 0; // requests that are served before
    this.elapsed = 0;
  }

  lane(index) {
    if (!Number.isInteger(index) || index < 0 || index >= MOST_TRAJECTORIES) throw new Error(`no trajectory ${index}`);
    while (this.lanes.length <= index) this.lanes.push(new Lane(this.lanes.length));
    return this.lanes[index];
  }

  // the lane that changed, or null where something else did
  apply(ms, event) {
    this.events.push([Math.round(ms), event]);
    this.elapsed = ms;
    const handle = this[`on_${event.type}`];
    const lane = event.trajectory === undefined || event.trajectory === null ? null : this.lane(event.trajectory);
    if (handle) handle.call(this, event, lane, ms);
    return lane;
  }

  on_queued(event) {
    this.ahead = event.before;
  }

  on_lost(event, _, ms) {
    this.decisions.push([ms, `${event.events} events were left out: this page read too slowly`]);
  }

  on_started(event, _, ms) {
    this.ahead = 0;
    this.k = event.k;
    if (event.k > 0) this.lane(event.k - 1);
    this.decisions.push([ms, `${event.strategy}: ${event.k} trajectories, ${event.prompt_tokens} tokens of prompt`]);
  }

  on_id(event) {
    this.id = event.id;
  }

  on_text(event, lane) {
    if (lane.state === "waiting") lane.state = "writing";
    if (lane.state === "answering") lane.said += event.delta;
    else lane.pending += event.delta;
  }

  on_step(event, lane) {
    if (lane.state === "waiting") lane.state = "writing";
    if (lane.parent !== null && lane.steps.length < event.index) {
      lane.steps = this.lane(lane.parent).steps.slice(0, event.index); // those that it shares
    }
    lane.steps.push({ text: lane.pending.trim(), score: event.score, running: event.running });
    lane.pending = "";
  }

  on_finished(event, lane, ms) {
    lane.state = (Object.hasOwn(ENDS, event.reason) && ENDS[event.reason]) || "done";
    lane.final = event.score ?? null;
    lane.tokens = event.tokens ?? lane.tokens;
    lane.answer = event.answer ?? lane.answer;
    lane.pending = lane.pending.replace(MARK, "");
    lane.said = lane.said.replace(MARK, "");
    if (lane.state === "cut") this.decisions.push([ms, `trajectory ${lane.index} ran out of tokens`]);
  }

  on_forked(event, lane, ms) {
    lane.parent = event.parent;
    this.decisions.push([ms, `trajectory ${lane.index} begins with ${event.at} tokens of trajectory ${event.parent}`]);
  }

  on_cancelled(event, lane, ms) {
    lane.state = "cancelled";
    lane.why = event.detail || event.why || "";
    this.decisions.push([ms, `trajectory ${lane.index} was let go${lane.why ? `: ${lane.why}` : ""}`]);
  }

  on_answering(event, lane, ms) {
    lane.state = "answering";
    this.decisions.push([ms, `trajectory ${lane.index} goes on to its answer`]);
  }

  on_content(event) {
    this.content += event.delta;
  }

  on_solved(event, _, ms) {
    this.solved = event;
    for (const told of Array.isArray(event.trajectories) ? event.trajectories : []) {
      const lane = this.lane(told.index);
      if (told.score !== undefined) lane.final = told.score;
      if (told.tokens !== undefined) lane.tokens = told.tokens;
      if (told.answer) lane.answer = told.answer;
      if (Array.isArray(told.steps) && told.steps.length !== lane.steps.length) lane.repair(told.steps);
      if (!lane.gone && Object.hasOwn(ENDS, told.finish_reason)) lane.state = ENDS[told.finish_reason];
    }
    if (event.selected !== null && event.selected !== undefined) {
      this.decisions.push([ms, `${event.strategy} selects trajectory ${event.selected}`]);
    }
  }

  on_stopped(_, __, ms) {
    this.stopped = true;
    for (const lane of this.lanes) if (!lane.ended) lane.state = "stopped";
    this.decisions.push([ms, "stopped"]);
  }

  get over() {
    return this.solved !== null || this.stopped;
  }

  get selected() {
    return this.solved ? this.solved.selected ?? null : null;
  }

  // the trajectory that is ahead: selected, or else the best score of those that are not let go
  get leader() {
    if (this.selected !== null) return this.selected;
    let best = null;
    for (const lane of this.lanes) {
      if (!lane.gone && lane.score !== null && (best === null || lane.score > best.score)) best = lane;
    }
    return best === null ? null : best.index;
  }

  get steps() {
    return this.lanes.reduce((sum, lane) => sum + lane.steps.length, 0);
  }

  // answers with their number and best score, the most frequent first
  get votes() {
    const found = new Map();
    for (const lane of this.lanes) {
      if (lane.answer === null || lane.answer === "") continue;
      const key = lane.answer.replace(/\s+/g, "");
      const vote = found.get(key) || { answer: lane.answer, count: 0, best: null, sum: 0, lanes: [] };
      vote.count += 1;
      vote.sum += lane.score ?? 0;
      vote.lanes.push(lane.index);
      if (lane.score !== null && (vote.best === null || lane.score > vote.best)) vote.best = lane.score;
      found.set(key, vote);
    }
    return [...found.values()].sort((a, b) => b.count - a.count || (b.best ?? -1) - (a.best ?? -1));
  }

  // what each way to select would have answered from these same trajectories
  get selections() {
    const { votes } = this;
    const first = this.lanes.find((lane) => lane.answer !== null && lane.answer !== "");
    const most = (of) => votes.reduce((a, b) => (b[of] > a[of] ? b : a)).answer;
    const scored = votes.some((vote) => vote.best !== null);
    return [
      ...(scored ? [["best score", most("best")], ["vote weighted by score", most("sum")]] : []),
      ["majority vote", votes[0].answer],
      [`trajectory ${first.index} alone`, first.answer],
    ];
  }

  toJSON() {
    return { format: FORMAT, version: VERSION, request: this.request, events: this.events };
  }
}

// A saved run, checked: the file may be anybody's.
export function readRun(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (!data || data.format !== FORMAT || !Array.isArray(data.events)) throw new Error("The file is not a saved run of this page.");
  if (data.version !== VERSION) throw new Error(`The run is of version ${data.version}; this page reads version ${VERSION}.`);
  let before = 0;
  for (const entry of data.events) {
    const [ms, event] = Array.isArray(entry) ? entry : [];
    if (!Number.isFinite(ms) || ms < before || !event || !Object.hasOwn(EVENTS, event.type)) throw new Error("The file has an event that this page does not know.");
    const members = { trajectory: maybe(trajectory), ...EVENTS[event.type] };
    const wrong = Object.keys(members).find((name) => !members[name](event[name]));
    if (wrong === "trajectory") throw new Error(`There is no trajectory ${event.trajectory}.`);
    if (wrong) throw new Error(`The file has ${SAID[wrong] ?? `an event ${event.type} whose ${wrong} can't be`}.`);
    before = ms;
  }
  const request = data.request && typeof data.request === "object" ? data.request : {};
  return { request, events: data.events };
}
