"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const WIDE = 560, HIGH = 300, PAD = { left: 46, right: 14, top: 10, bottom: 40 };
  const OTHERS = ["run0", "run1", "run2", "run3", "run4", "run5"];
  const KNOWN = new Set(["oracle", "single", "best_of_n", "majority", "weighted", "logprob", "self_certainty", "confidence",
    "confidence_lowest", "confidence_bottom10", "confidence_tail", "right", "wrong", "score", ...OTHERS]);

  // ---- small helpers: everything that is shown goes through textContent

  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : String(c))));
    return node;
  };
  const svg = (tag, attributes = {}, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const color = (id, i) => `var(--c-${KNOWN.has(id) ? id : OTHERS[i % OTHERS.length]})`;
  const figure3 = (v) => (v === null || v === undefined ? "—" : v.toFixed(3));
  const count = (v) => (v >= 10 ? Math.round(v).toLocaleString("en") : String(Number(v.toPrecision(3))));

  // ---- plots

  const ticks = (fig, low, high) => {
    if (fig.log_x) {
      const found = [];
      for (let e = Math.floor(Math.log2(low)); e <= Math.ceil(Math.log2(high)); e += 1) {
        if (2 ** e >= low * 0.999 && 2 ** e <= high * 1.001) found.push(2 ** e);
      }
      const every = Math.ceil(found.length / 8);
      return found.filter((_, i) => i % every === 0);
    }
    return steps(low, high, 5);
  };
  const steps = (low, high, wanted) => {
    const span = high - low || 1, raw = span / wanted, mag = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * mag).find((s) => span / s <= wanted + 0.5) || 10 * mag;
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Number(v.toPrecision(10)));
    return found;
  };
  const known = (list) => list.filter((v) => v !== null && v !== undefined);

  const scales = (fig, shown) => {
    const xs = known(shown.flatMap((s) => s.x)), ys = known(shown.flatMap((s) => [...s.y, ...s.low, ...s.high]));
    let [x0, x1] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    if (fig.unit_x) [x0, x1] = [0, 1];
    if (fig.kind === "histogram" && !fig.unit_x && shown[0].x.length > 1) x1 += shown[0].x[1] - shown[0].x[0];
    if (fig.kind === "bars") [x0, x1] = [-0.5, fig.categories.length - 0.5];
    let [y0, y1] = fig.unit_y ? [0, 1] : [0, (ys.length ? Math.max(...ys) : 1) * 1.08 || 1];
    if (fig.unit_y && fig.kind === "line" && !fig.diagonal && ys.length) {
      y0 = Math.max(0, Math.floor((Math.min(...ys) - 0.02) * 10) / 10);
      y1 = Math.min(1, Math.ceil((Math.max(...ys) + 0.02) * 10) / 10);
    }
    if (x0 === x1) [x0, x1] = fig.log_x ? [x0 / 2, x1 * 2] : [x0 - 0.5, x1 + 0.5];
    const f = fig.log_x ? Math.log2 : (v) => v;
    const w = fig.wide - fig.pad.left - fig.pad.right, h = fig.high - fig.pad.top - fig.pad.bottom;
    return {
      x: (v) => fig.pad.left + ((f(v) - f(x0)) / (f(x1) - f(x0))) * w,
      y: (v) => fig.pad.top + (1 - (v - y0) / (y1 - y0)) * h,
      x0, x1, y0, y1,
    };
  };

  const axes = (fig, at, root) => {
    const g = svg("g", { class: "axis" });
    for (const v of steps(at.y0, at.y1, 5)) {
      g.append(svg("line", { x1: fig.pad.left, x2: fig.wide - fig.pad.right, y1: at.y(v), y2: at.y(v) }));
      g.append(svg("text", { x: fig.pad.left - 7, y: at.y(v) + 4, "text-anchor": "end" }, String(v)));
    }
    if (fig.kind === "bars") {
      const many = fig.categories.length > 6;
      fig.categories.forEach((name, i) => {
        const short = name.length > 20 ? name.slice(0, 19) + "…" : name;
        const place = { x: at.x(i), y: fig.high - fig.pad.bottom + 16, "text-anchor": many ? "end" : "middle" };
        if (many) place.transform = `rotate(-28 ${at.x(i)} ${fig.high - fig.pad.bottom + 14})`;
        g.append(svg("text", place, short));
      });
    } else {
      for (const v of ticks(fig, at.x0, at.x1)) {
        g.append(svg("text", { x: at.x(v), y: fig.high - fig.pad.bottom + 16, "text-anchor": "middle" }, fig.log_x ? count(v) : String(v)));
      }
      g.append(svg("text", { x: (fig.pad.left + fig.wide - fig.pad.right) / 2, y: fig.high - 6, "text-anchor": "middle" }, fig.x_label));
    }
    root.append(g);
    if (fig.diagonal) root.append(svg("line", { class: "chance", x1: at.x(0), y1: at.y(0), x2: at.x(1), y2: at.y(1) }));
  };

  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

  const lines = (fig, shown, at, root) => {
    for (const s of shown) {
      const points = s.x.map((x, i) => [x, s.y[i], s.low[i], s.high[i]]).filter((p) => p[1] !== null);
      const band = points.filter((p) => p[2] !== null && p[2] !== undefined && p[3] !== null && p[3] !== undefined);
      if (band.length > 1) {
        const upper = band.map((p) => [at.x(p[0]), at.y(p[3])]), lower = band.map((p) => [at.x(p[0]), at.y(p[2])]).reverse();
        root.append(svg("path", { d: path([...upper, ...lower]) + "Z", fill: s.color, opacity: 0.12 }));
      }
      const line = { d: path(points.map((p) => [at.x(p[0]), at.y(p[1])])), fill: "none", stroke: s.color, "stroke-width": 2.2, "stroke-linejoin": "round" };
      if (s.id === "oracle") line["stroke-dasharray"] = "6 5";
      root.append(svg("path", line));
      if (points.length < 24) for (const p of points) root.append(svg("circle", { cx: at.x(p[0]), cy: at.y(p[1]), r: fig.diagonal ? 3.5 : 2.2, fill: s.color }));
      if (fig.id.startsWith("reliability")) {
        for (const p of band) root.append(svg("line", { x1: at.x(p[0]), x2: at.x(p[0]), y1: at.y(p[2]), y2: at.y(p[3]), stroke: s.color, opacity: 0.5 }));
      }
    }
  };

  const bars = (fig, shown, at, root) => {
    const unit = at.x(1) - at.x(0);
    const wide = fig.kind === "histogram" ? at.x(shown[0].x.length > 1 ? shown[0].x[1] : 1) - at.x(shown[0].x[0]) : (unit * 0.8) / shown.length;
    shown.forEach((s, n) => {
      s.x.forEach((x, i) => {
        if (s.y[i] === null) return;
        const left = fig.kind === "histogram" ? at.x(x) + 0.5 : at.x(x) - unit * 0.4 + n * wide;
        const top = at.y(s.y[i]);
        root.append(svg("rect", {
          x: left, y: top, width: Math.max(1, wide - (fig.kind === "histogram" ? 1 : 1.5)), height: Math.max(0, at.y(at.y0) - top), rx: 1.5,
          fill: s.color, opacity: fig.kind === "histogram" ? 0.55 : 0.9,
        }));
        if (s.low.length && s.low[i] !== null && s.high[i] !== null) {
          const middle = left + wide / 2;
          root.append(svg("line", { x1: middle, x2: middle, y1: at.y(s.low[i]), y2: at.y(s.high[i]), stroke: "currentColor", opacity: 0.55 }));
        }
      });
    });
  };

  const tip = document.getElementById("tip");
  const tell = (event, title, rows) => {
    tip.replaceChildren(el("b", {}, title), ...rows.map(([c, name, value]) =>
      el("div", {}, el("span", {}, el("i", { style: `background:${c}` }), name), el("span", {}, value))));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - box.width - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - box.height - 8)}px`;
  };
  const nearest = (s, x, at, fig) => {
    let best = -1, gap = Infinity;
    s.x.forEach((v, i) => {
      const d = Math.abs(at.x(v) - x);
      if (s.y[i] !== null && d < gap) [best, gap] = [i, d];
    });
    return gap < 40 || fig.diagonal ? best : -1;
  };
  const hover = (fig, shown, at, root) => {
    const cross = svg("line", { class: "cross", y1: fig.pad.top, y2: fig.high - fig.pad.bottom, visibility: "hidden" });
    root.append(cross);
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * fig.wide;
      const rows = [];
      let title = "";
      for (const s of shown) {
        const inverse = fig.kind === "histogram" ? s.x.findLastIndex((v) => at.x(v) <= x) : nearest(s, x, at, fig);
        if (inverse < 0) continue;
        const v = s.x[inverse];
        title = fig.kind === "bars" ? fig.categories[v] : `${fig.x_label.split(",")[0]} ${fig.unit_x ? v.toFixed(2) : count(v)}`;
        if (fig.kind !== "histogram") for (const a of ["x1", "x2"]) cross.setAttribute(a, at.x(v));
        const range = s.low.length && s.low[inverse] !== null && s.low[inverse] !== undefined ? ` (${figure3(s.low[inverse])}–${figure3(s.high[inverse])})` : "";
        rows.push([s.color, s.name, figure3(s.y[inverse]) + range]);
      }
      if (!rows.length) return leave();
      cross.setAttribute("visibility", fig.kind === "line" ? "visible" : "hidden");
      tell(event, title, rows);
    });
    const leave = () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); };
    root.addEventListener("pointerleave", leave);
  };

  const plot = (fig) => {
    const many = fig.categories.length > 6; // long names stand aslant, and the plot takes the whole width
    Object.assign(fig, { wide: many ? 1.9 * WIDE : WIDE, high: many ? HIGH + 40 : HIGH, pad: { ...PAD, bottom: many ? 92 : PAD.bottom } });
    fig.series.forEach((s, i) => { s.color = color(s.id, i); s.on = s.main; });
    const host = el("div"), legend = el("div", { class: "legend" });
    const draw = () => {
      const shown = fig.series.filter((s) => s.on);
      const root = svg("svg", { viewBox: `0 0 ${fig.wide} ${fig.high}`, role: "img", "aria-label": fig.title });
      host.replaceChildren(root);
      if (!shown.length) return;
      const at = scales(fig, shown);
      axes(fig, at, root);
      (fig.kind === "line" ? lines : bars)(fig, shown, at, root);
      hover(fig, shown, at, root);
    };
    if (fig.series.length > 1) {
      for (const s of fig.series) {
        const button = el("button", { type: "button", "aria-pressed": String(s.on), onclick: () => {
          s.on = !s.on;
          button.setAttribute("aria-pressed", String(s.on));
          draw();
        } }, el("i", { style: `background:${s.color}` }), s.name);
        legend.append(button);
      }
    }
    draw();
    const where = DATA.runs.length > 1 && fig.run ? el("span", { class: "where" }, ` · ${fig.run}`) : null;
    return el("article", { class: many ? "fig wide" : "fig" }, el("h3", {}, fig.title, where), el("p", { class: "small" }, fig.caption), legend, host);
  };
  // the same plot of several runs stands side by side
  const order = [...new Set(DATA.figures.map((f) => f.id))];
  const sorted = [...DATA.figures].sort((a, b) => order.indexOf(a.id) - order.indexOf(b.id));
  document.getElementById("figures").append(...sorted.map(plot));
  document.querySelectorAll(".dot").forEach((dot) => { dot.style.background = color(`run${dot.dataset.run}`, Number(dot.dataset.run)); });

  // ---- problems

  const ends = DATA.colors;
  const scoreColor = (v) => {
    const [a, b, t] = v < 0.5 ? [ends.low, ends.middle, 2 * v] : [ends.middle, ends.high, 2 * v - 1];
    return a.map((c, i) => Math.round(c + (b[i] - c) * t)).join(" ");
  };
  const mark = (right) => (right === true ? el("span", { class: "yes", title: "right" }, "✓") : right === false ? el("span", { class: "no", title: "wrong" }, "✗") : el("span", { class: "hm", title: "ungradable" }, "?"));
  const $ = (id) => document.getElementById(id);
  const PAGE = 200;
  let shownRows = PAGE, current = null;

  const fill = (select, first, values) => select.replaceChildren(el("option", { value: "" }, first), ...values.map((v) => el("option", { value: v }, v)));
  const unique = (problems, key) => [...new Set(problems.map((p) => p[key]).filter(Boolean))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const run = () => DATA.runs[Number($("f-run").value) || 0];
  const passes = (p) => {
    const text = $("f-text").value.trim().toLowerCase(), state = $("f-state").value;
    if ($("f-family").value && p.family !== $("f-family").value) return false;
    if ($("f-level").value && p.level !== $("f-level").value) return false;
    if (text && ![p.key, p.text, p.gold, p.answer].some((t) => String(t ?? "").toLowerCase().includes(text))) return false;
    if (state === "right") return p.right === true;
    if (state === "wrong") return p.right === false;
    if (state === "missed") return p.right === false && p.rights > 0;
    if (state === "none") return p.rights === 0;
    if (state === "unknown") return p.right === null;
    return true;
  };

  const list = () => {
    const all = run().problems, found = all.filter(passes);
    const of = run().total > all.length ? ` (${all.length.toLocaleString("en")} of the run's ${run().total.toLocaleString("en")} are on this page)` : "";
    $("f-count").textContent = `${found.length.toLocaleString("en")} problems${of}`;
    const rows = found.slice(0, shownRows).map((p) => {
      const total = p.trajectories.length || 1;
      const button = el("button", { type: "button", title: `${p.rights} of ${p.trajectories.length} trajectories are right`, "aria-current": String(p === current), onclick: () => { current = p; show(p); list(); } },
        mark(p.right), el("span", { class: "t", dir: "auto" }, p.text.replace(/\s+/g, " ").slice(0, 160)),
        el("span", { class: "tally" }, el("i", { style: `width:${(100 * p.rights) / total}%` })));
      return el("li", {}, button);
    });
    if (found.length > shownRows) rows.push(el("li", {}, el("button", { type: "button", class: "more", onclick: () => { shownRows += PAGE; list(); } }, "more")));
    $("list").replaceChildren(...rows);
  };

  const trajectory = (t, open) => {
    const blocks = el("span", { class: "blocks", "aria-hidden": "true" }, ...t.steps.slice(-24).map(([, v]) => el("i", { style: `height:${3 + 13 * v}px;background:rgb(${scoreColor(v)})` })));
    const body = el("div", { class: "body" });
    const fillBody = () => {
      if (body.childNodes.length) return;
      const think = el("div", { class: "think", dir: "auto" });
      for (const [text, v] of t.steps) {
        // the empty lines between steps belong to none of them
        const lead = text.match(/^\s*/)[0];
        if (think.childNodes.length && lead) think.append("\n");
        think.append(el("span", { class: "step", style: `background:rgb(${scoreColor(v)} / var(--step))`, title: `step score ${v}` }, text.slice(lead.length).trimEnd(), el("sup", {}, v.toFixed(2))));
      }
      think.append(t.steps.length ? t.rest.trimEnd() : t.rest);
      body.append(think);
      if (t.answer_text.trim()) body.append(el("div", { class: "said", dir: "auto" }, t.answer_text.trim()));
      if (t.let_go) body.append(el("div", { class: "small" }, `let go: ${t.let_go}`));
      if (t.reason) body.append(el("div", { class: "small" }, t.reason));
    };
    const node = el("details", { class: `traj${t.selected ? " selected" : ""}`, open, ontoggle: () => node.open && fillBody() },
      el("summary", {}, mark(t.right), el("span", { class: "num", title: "score S" }, t.score === null ? "—" : t.score.toFixed(3)), blocks,
        el("span", { class: "ans", dir: "auto" }, t.answer === null ? (t.closed ? "no final answer" : t.let_go ? "let go" : "unfinished") : t.answer),
        t.selected ? el("span", { class: "tag" }, "chosen") : null,
        el("span", { class: "small push" }, `#${t.index} · ${t.tokens.toLocaleString("en")} tokens${t.finish === "length" ? " · out of tokens" : ""}${t.let_go ? ` · ${t.let_go.split(": ").slice(0, 2).join(": ")}` : t.finish === "cancelled" ? " · stopped" : ""}${typeof t.parent === "number" ? ` · from #${t.parent} at token ${t.at}` : ""}`)),
      body);
    if (open) fillBody();
    return node;
  };

  const show = (p) => {
    const about = [p.key, p.family, p.level && `level ${p.level}`].filter(Boolean).join(" · ");
    const only = el("select", { "aria-label": "which trajectories" }, el("option", { value: "" }, "all trajectories"), el("option", { value: "true" }, "right ones"), el("option", { value: "false" }, "wrong ones"));
    const host = el("div");
    const fillHost = () => host.replaceChildren(...p.trajectories.filter((t) => !only.value || String(t.right) === only.value).map((t, i) => trajectory(t, i === 0 || t.selected)));
    only.addEventListener("change", fillHost);
    fillHost();
    const parts = [el("div", { class: "small" }, about), el("div", { class: "problem", dir: "auto" }, p.text),
      el("div", {}, mark(p.right), " answered ", el("b", { dir: "auto" }, p.answer ?? "nothing"), " · gold ", el("b", { dir: "auto" }, p.gold ?? "unknown"),
        p.confidence === null ? "" : ` · confidence ${p.confidence.toFixed(2)}`),
      el("div", { class: "small" }, p.reason, p.notes.length ? ` · ${p.notes.join(" · ")}` : ""),
      el("div", { class: "filters", style: "margin:10px 0 0" }, only, el("span", { class: "small" }, `${p.rights} of ${p.trajectories.length} are right; steps are coloured by their score`)), host];
    $("detail").replaceChildren(...parts);
  };

  const choose = () => {
    fill($("f-family"), "any family", unique(run().problems, "family"));
    fill($("f-level"), "any level", unique(run().problems, "level"));
    for (const id of ["f-family", "f-level"]) $(id).hidden = $(id).options.length < 3;
    current = run().problems[0] || null;
    if (current) show(current);
    list();
  };
  $("f-run").replaceChildren(...DATA.runs.map((r, i) => el("option", { value: i }, r.name)));
  $("f-run").hidden = DATA.runs.length < 2;
  $("f-run").addEventListener("change", choose);
  for (const id of ["f-text", "f-family", "f-level", "f-state"]) $(id).addEventListener("input", () => { shownRows = PAGE; list(); });
  choose();

  // ---- light and dark

  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
