// DOM elements. Text from data sets only ever becomes a text node.
const byId = (id) => document.getElementById(id);

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

// Control and bidi characters would be invisible, or reorder what stands around them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const NAMED = { "\n": "↵", "\t": "⇥" };

function visible(text) {
  const codeOf = (c) => c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return text
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(UNSEEN, (c) => NAMED[c] ?? `⟨U+${codeOf(c)}⟩`);
}

const tokenText = (index) => visible(data.tokens[index]);

function fixed(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits) return "0";
  if (Math.abs(value) >= 1000) return value.toExponential(1).replace("-", "−");
  return value.toFixed(digits).replace("-", "−");
}

const count = (value) => value.toLocaleString("en");
const percent = (value, digits = 0) => (Number.isNaN(value) ? "–" : `${Number((100 * value).toFixed(digits)) + 0} %`.replace("-", "−"));

function interval(name, latent) {
  const low = data.columns[`${name}_low`][latent];
  const high = data.columns[`${name}_high`][latent];
  return Number.isNaN(low) ? "" : `${fixed(low)} to ${fixed(high)}`;
}

const verdictOf = (latent) => data.categories.verdict[data.columns.verdict[latent]];

function verdictBadge(latent) {
  const verdict = verdictOf(latent);
  return el("span", { class: "badge", style: `--dot: ${VERDICT_COLOURS[verdict]}` }, verdict);
}

function latentLink(latent) {
  return el("a", { href: `#/latent/${latent}` }, String(latent));
}

function firesOn(latent) {
  const shown = el("span", { class: "tokens-inline" });
  for (const index of data.columns.fires_on.subarray(3 * latent, 3 * latent + 3)) {
    if (index >= 0) shown.append(el("span", {}, tokenText(index)));
  }
  return shown;
}

// One line of text, each token shaded by the latent's activation on it.
function context(example, strongest, before = Infinity, after = Infinity, repeats = 1) {
  const line = el("p", { class: "context" });
  const from = Math.max(0, example.peak - before);
  const to = Math.min(example.tokens.length, example.peak + after + 1);
  for (let i = from; i < to; i++) {
    const act = example.acts[i];
    const token = el(i === example.peak ? "mark" : "span", { class: "token" });
    token.textContent = tokenText(example.tokens[i]);
    if (act > 0) {
      const share = Math.min(1, act / strongest);
      token.style.backgroundColor = `rgba(var(--heat), ${(0.12 + 0.68 * share).toFixed(2)})`;
      token.title = `f = ${act}`;
    }
    line.append(token);
  }
  if (repeats > 1) line.append(el("span", { class: "repeats" }, ` ×${repeats}`));
  return line;
}

// Equal texts once, with how often they came.
function distinct(examples) {
  const seen = new Map();
  for (const example of examples) {
    const key = example.tokens.join(" ");
    if (seen.has(key)) seen.get(key).repeats++;
    else seen.set(key, { example, repeats: 1 });
  }
  return [...seen.values()];
}
