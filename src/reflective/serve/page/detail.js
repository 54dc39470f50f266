// A trajectory, opened: its steps with their scores, properly set, folded where there are many; then its answer.

import { el, plural, score, tint, whole } from "./dom.js";
import { stateOf } from "./lanes.js";

const MANY = 12; // steps; more are folded
const ENDS = 3; // steps that stay at either end of a fold
const LONG = 1500; // characters of a step; longer ones are cut until they are asked for

// The steps that a fold leaves: both ends, and the lowest score in between.
export function kept(steps) {
  if (steps.length <= MANY) return steps.map((_, i) => i);
  const inner = steps.map((_, i) => i).slice(ENDS, steps.length - ENDS);
  const lowest = inner.reduce((a, b) => (steps[b].score < steps[a].score ? b : a));
  return steps.map((_, i) => i).filter((i) => i < ENDS || i >= steps.length - ENDS || i === lowest);
}

// How many steps two trajectories share from the beginning.
export function shared(a, b) {
  let n = 0;
  while (n < a.steps.length && n < b.steps.length && a.steps[n].text === b.steps[n].text) n += 1;
  return n;
}

export class Detail {
  constructor(lane, typesetter, { selected = false, same = 0, close = null } = {}) {
    this.lane = lane;
    this.typesetter = typesetter;
    this.same = same;
    this.open = false; // whether folded steps are shown
    this.count = 0;
    this.title = el("h2", { tabindex: "-1" }, `Trajectory ${lane.index}`, selected ? el("span", { class: "tag" }, "selected") : null);
    this.facts = el("p", { class: "small facts" });
    this.list = el("ol", { class: "steps" });
    this.live = el("div", { class: "live", dir: "auto" });
    this.said = el("div", { class: "said", dir: "auto" });
    this.shownSaid = null;
    const fold = el("button", { type: "button", class: "quiet fold", hidden: true });
    fold.addEventListener("click", () => {
      this.open = !this.open;
      this.refill();
      fold.focus();
    });
    this.fold = fold;
    const closer = close ? el("button", { type: "button", class: "quiet", onclick: close, "aria-label": `Close trajectory ${lane.index}` }, "Close") : null;
    this.node = el("article", { class: "card opened", "aria-label": `Trajectory ${lane.index}` }, el("div", { class: "head" }, this.title, fold, closer), this.facts, this.list, this.live, this.said);
    this.refill();
  }

  refill() {
    this.list.replaceChildren();
    this.count = 0;
    this.draw();
  }

  draw() {
    const { lane } = this;
    const { steps } = lane;
    const folds = steps.length > MANY;
    this.fold.hidden = !folds;
    this.fold.textContent = this.open ? "Fold" : `Show all ${steps.length} steps`;
    this.fold.setAttribute("aria-expanded", String(this.open));
    if (folds && !this.open && (steps.length !== this.count || this.list.childElementCount > MANY + 1)) {
      this.list.replaceChildren();
      let before = -1;
      for (const i of kept(steps)) {
        if (i > before + 1) this.list.append(this.gap(before + 1, i));
        this.list.append(this.step(i));
        before = i;
      }
    } else if (!folds || this.open) {
      for (let i = this.count; i < steps.length; i += 1) this.list.append(this.step(i));
    }
    this.count = steps.length;
    const tokens = lane.tokens === null ? "" : ` · ${plural(lane.tokens, "token")}`;
    const why = lane.why ? ` (${lane.why})` : "";
    this.facts.textContent = `score ${score(lane.score)} · ${plural(steps.length, "step")}${tokens} · ${stateOf(lane)}${why}`;
    this.live.textContent = lane.pending.trim();
    this.live.classList.toggle("writing", !lane.ended);
    const said = lane.said.trim() || (lane.answer ? String(lane.answer) : "");
    if (said !== this.shownSaid) {
      this.shownSaid = said;
      if (lane.ended) this.typesetter.set(this.said, formula(said));
      else this.said.textContent = said;
    } else if (lane.ended && this.said.textContent && !this.saidSet) {
      this.saidSet = true;
      this.typesetter.set(this.said, formula(said));
    }
  }

  step(i) {
    const { text, score: value, running } = this.lane.steps[i];
    const body = el("div", { class: "text", dir: "auto" });
    const item = el(
      "li",
      { class: i < this.same ? "same" : null },
      el("span", { class: "number" }, String(i + 1)),
      el("span", { class: `badge ${tint(value)}`, title: `step score ${value}; the trajectory's so far ${running}` }, value.toFixed(2)),
      body,
    );
    if (text.length > LONG) {
      body.classList.add("long");
      body.tabIndex = 0;
      const more = el("button", { type: "button", class: "quiet" }, `Show all ${whole(text.length)} characters`);
      more.addEventListener("click", () => {
        body.classList.remove("long");
        body.removeAttribute("tabindex");
        more.remove();
      });
      item.append(more);
    }
    this.typesetter.set(body, text);
    return item;
  }

  gap(from, to) {
    const values = this.lane.steps.slice(from, to).map((step) => step.score);
    return el("li", { class: "gap" }, `${plural(to - from, "step")} folded, scores ${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)}`);
  }
}

// A final answer as text for the typesetter: LaTeX where it looks like LaTeX.
export function formula(answer) {
  if (/\$|\\\(|\\\[|\\boxed|\n/.test(answer) || !/[\\^_{}]/.test(answer)) return answer;
  return `\\(${answer}\\)`;
}
