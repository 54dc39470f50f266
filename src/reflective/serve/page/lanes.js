// The lanes: a row for each trajectory, which grows by a cell for each step. Drawn once a frame, and only what changed.

import { el, plural, score, tint, whole } from "./dom.js";

const CELLS = 60; // of a lane; older ones are counted
const TAIL = 160; // characters of what is being written

const STATES = {
  waiting: "waiting",
  writing: "writing",
  reasoned: "reasoned",
  answering: "answering",
  done: "done",
  cut: "out of tokens",
  cancelled: "let go",
  stopped: "stopped",
};

export const stateOf = (lane) => STATES[lane.state];

class Row {
  constructor(lane, act) {
    this.lane = lane;
    this.drawn = 0;
    this.more = el("span", { class: "more", hidden: true });
    this.cells = el("span", { class: "cells", "aria-hidden": "true" }, this.more);
    this.mean = el("span", { class: "mean" }, "—");
    this.state = el("span", { class: "state" }, "waiting");
    this.mark = el("span", { class: "mark", "aria-hidden": "true" });
    this.tail = el("span", { class: "tail", dir: "auto", "aria-hidden": "true" });
    this.button = el(
      "button",
      { type: "button", class: "lane", tabindex: "-1", "aria-pressed": "false" },
      el("span", { class: "index" }, this.mark, String(lane.index)),
      this.cells,
      this.mean,
      this.state,
      this.tail,
    );
    this.button.addEventListener("click", (event) => act(lane.index, event.shiftKey));
    this.item = el("li", {}, this.button);
  }

  draw(leader, chosen) {
    const { lane } = this;
    if (lane.steps.length < this.drawn) {
      this.cells.replaceChildren(this.more);
      this.drawn = 0;
    }
    const from = Math.max(this.drawn, lane.steps.length - CELLS);
    for (const step of lane.steps.slice(from)) this.cells.append(el("i", { class: tint(step.score) }));
    this.drawn = lane.steps.length;
    while (this.cells.childElementCount > CELLS + 1) this.more.nextSibling.remove();
    this.more.hidden = lane.steps.length <= CELLS;
    if (!this.more.hidden) this.more.textContent = `+${lane.steps.length - CELLS}`;
    this.mean.textContent = score(lane.score);
    const said = lane.parent === null ? stateOf(lane) : `${stateOf(lane)} · from ${lane.parent}`;
    const told = lane.tokens === null ? said : `${said} · ${whole(lane.tokens)}`;
    this.state.textContent = told;
    const tail = lane.state === "answering" ? lane.said : lane.pending;
    this.tail.textContent = (lane.ended && lane.answer) || tail.slice(-TAIL).replace(/\s+/g, " ");
    const first = lane.index === leader;
    this.mark.textContent = first ? (chosen ? "✓" : "▶") : lane.gone ? "✕" : "";
    this.button.className = `lane ${lane.state}${first ? " leader" : ""}${first && chosen ? " selected" : ""}`;
    this.button.setAttribute(
      "aria-label",
      `Trajectory ${lane.index}${first ? (chosen ? ", selected" : ", leading") : ""}: ${told}, ${plural(lane.steps.length, "step")}, score ${score(lane.score)}${lane.answer ? `, answer ${lane.answer}` : ""}`,
    );
  }
}

export class Lanes {
  constructor(list, { open, compare }) {
    this.list = list;
    this.rows = [];
    this.dirty = new Set();
    this.leader = null;
    this.chosen = false;
    this.current = 0; // the row that the keyboard is on
    this.act = (index, shift) => (shift ? compare(index) : open(index));
    list.addEventListener("keydown", (event) => this.key(event, compare));
  }

  clear() {
    this.list.replaceChildren();
    this.rows = [];
    this.dirty.clear();
    this.leader = null;
    this.current = 0;
  }

  key(event, compare) {
    const shown = [...this.list.children].map((item) => this.rows.find((row) => row.item === item));
    const at = shown.findIndex((row) => row.button === document.activeElement);
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined && shown[to]) {
      event.preventDefault();
      this.reach(shown[to]);
      shown[to].button.focus();
    } else if (event.key === "c" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      compare(shown[at].lane.index);
    }
  }

  reach(row) {
    if (this.rows[this.current]) this.rows[this.current].button.tabIndex = -1;
    this.current = row.lane.index;
    row.button.tabIndex = 0;
  }

  mark(index) {
    this.dirty.add(index);
  }

  // open lanes, by their index
  press(indices) {
    for (const row of this.rows) row.button.setAttribute("aria-pressed", String(indices.includes(row.lane.index)));
    if (this.rows[indices[0]] && !this.list.contains(document.activeElement)) this.reach(this.rows[indices[0]]);
  }

  draw(run, order) {
    while (this.rows.length < run.lanes.length) {
      const row = new Row(run.lanes[this.rows.length], this.act);
      this.rows.push(row);
      this.list.append(row.item);
      this.dirty.add(row.lane.index);
      if (this.rows.length === 1) this.reach(row);
    }
    const chosen = run.selected !== null;
    const { leader } = run;
    if (leader !== this.leader || chosen !== this.chosen) {
      for (const index of [leader, this.leader]) if (index !== null) this.dirty.add(index);
      this.leader = leader;
      this.chosen = chosen;
    }
    for (const index of this.dirty) this.rows[index]?.draw(leader, chosen);
    this.dirty.clear();
    this.sort(order);
  }

  sort(order) {
    const best = (row) => (row.lane.gone ? -2 : row.lane.score ?? -1);
    const wanted = order === "score" ? [...this.rows].sort((a, b) => best(b) - best(a) || a.lane.index - b.lane.index) : this.rows;
    if (wanted.every((row, i) => this.list.children[i] === row.item)) return;
    const focused = document.activeElement;
    this.list.append(...wanted.map((row) => row.item));
    if (this.list.contains(focused)) focused.focus();
  }
}
