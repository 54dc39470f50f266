// Making elements, writing numbers. Text from a model reaches the page as text alone.

export const $ = (id) => document.getElementById(id);

export function el(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const score = (value) => (value === null || value === undefined ? "—" : value.toFixed(3));
export const whole = (value) => Number(value).toLocaleString("en");
export const seconds = (value) => `${Number(value).toFixed(value < 10 ? 2 : 1)} s`;

// never "0 %" or "100 %" where it is neither
export function percent(value) {
  if (value === null || value === undefined) return "unknown";
  if (value > 0 && value < 0.01) return "under 1 %";
  if (value < 1 && value > 0.99) return "over 99 %";
  return `${Math.round(100 * value)} %`;
}

export const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;

// the class that colours a score: c0 to c9
export const tint = (value) => `c${Math.min(9, Math.max(0, Math.floor(value * 10)))}`;
