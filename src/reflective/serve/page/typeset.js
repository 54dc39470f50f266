// Texts set properly: the server makes HTML with MathML of them, and what comes back passes a list of elements.

import { headers } from "./stream.js";

const HTML = new Set("P BR STRONG EM CODE PRE UL OL LI TABLE THEAD TBODY TR TH TD BLOCKQUOTE HR SPAN".split(" "));
const MATHML = new Set(
  ("math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msup msub msubsup munder mover munderover mmultiscripts " +
    "mtable mtr mtd mpadded mphantom menclose mstyle").split(" "),
);
const MATHML_ATTRIBUTES =
  "display mathvariant stretchy fence form separator lspace rspace minsize maxsize accent accentunder movablelimits linethickness columnalign rowspacing columnspacing columnlines rowlines width notation displaystyle scriptlevel".split(" ");
const CLASSES = new Set(["heading", "boxed"]);
const MATH_NS = "http://www.w3.org/1998/Math/MathML";
const BATCH = 100; // texts of one request
const CHARACTERS = 100_000; // of them together; a longer one goes alone

function copy(node, into) {
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) {
      into.append(child.data);
      continue;
    }
    if (child.nodeType !== Node.ELEMENT_NODE) continue;
    const math = child.namespaceURI === MATH_NS && MATHML.has(child.localName);
    if (!math && !HTML.has(child.tagName)) {
      into.append(child.textContent);
      continue;
    }
    const made = math ? document.createElementNS(MATH_NS, child.localName) : document.createElement(child.localName);
    if (math) for (const name of MATHML_ATTRIBUTES) if (child.hasAttribute(name)) made.setAttribute(name, child.getAttribute(name));
    if (!math && into instanceof DocumentFragment && child.tagName !== "PRE") made.dir = "auto"; // each paragraph by itself
    if (!math && CLASSES.has(child.className)) made.className = child.className;
    copy(child, made);
    into.append(made);
  }
}

export function cleaned(html) {
  const into = document.createDocumentFragment();
  copy(new DOMParser().parseFromString(html, "text/html").body, into);
  return into;
}

export class Typesetter {
  constructor(key) {
    this.key = key; // a function: the key may change
    this.known = new Map(); // text -> fragment, or null while it is on its way
    this.waiting = new Map(); // text -> elements
    this.timer = 0;
  }

  // Put a text into an element: as it is at once, and properly set when the server has done that.
  set(element, text) {
    const known = this.known.get(text);
    if (known) return element.replaceChildren(known.cloneNode(true));
    element.textContent = text;
    element.classList.add("raw");
    if (!text.trim() || this.known.get(text) === false) return undefined;
    if (!this.waiting.has(text)) this.waiting.set(text, new Set());
    this.waiting.get(text).add(element);
    if (!this.timer) this.timer = setTimeout(() => this.ask(), 80);
    return undefined;
  }

  async ask() {
    this.timer = 0;
    const batch = [];
    let characters = 0;
    for (const entry of this.waiting) {
      characters += entry[0].length;
      if (batch.length && (batch.length === BATCH || characters > CHARACTERS)) break;
      batch.push(entry);
    }
    for (const [text] of batch) this.waiting.delete(text);
    if (this.waiting.size) this.timer = setTimeout(() => this.ask(), 0);
    if (this.known.size > 20000) this.known.clear();
    try {
      const response = await fetch("v1/render", {
        method: "POST",
        headers: { "content-type": "application/json", ...headers(this.key()) },
        body: JSON.stringify({ texts: batch.map(([text]) => text) }),
      });
      if (!response.ok) throw new Error(String(response.status));
      const { html } = await response.json();
      batch.forEach(([text, elements], i) => {
        const fragment = cleaned(html[i]);
        this.known.set(text, fragment);
        for (const element of elements) {
          element.replaceChildren(fragment.cloneNode(true));
          element.classList.remove("raw");
        }
      });
    } catch {
      for (const [text] of batch) this.known.set(text, false); // they stay as they were written
    }
  }
}
