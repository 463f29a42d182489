// The page of one latent.
const NUS = [
  ["nu_error", "ν error", "nu_error"],
  ["nu_reconstruction", "ν reconstruction", "nu_reconstruction"],
  ["base_nu_error", "reverse ν error", "nu_error"],
  ["base_nu_reconstruction", "reverse ν reconstruction", "nu_reconstruction"],
];
const FACTS = [
  ["delta", "Δ by decoder norm"], ["norm_base", "‖d base‖"], ["norm_chat", "‖d chat‖"],
  ["cosine", "cosine of the decoders"], ["q_specific", "q: specific", 3], ["q_null", "q: against made-up", 3],
  ["specificity", "verdict score"], ["mean_activation", "mean f"], ["max_activation", "largest f"],
];
const LENS_TITLES = { base: "base decoder", chat: "chat decoder", difference: "chat − base" };

function drawLatent(latent) {
  const page = byId("page-latent");
  if (!(latent >= 0 && latent < data.n)) {
    page.replaceChildren(navigation(), el("h2", { tabindex: -1 }, `There is no latent ${latent}`));
    return;
  }
  const details = data.details[latent];
  const heading = el("h2", { tabindex: -1 }, `Latent ${latent} `, verdictBadge(latent));
  const fires = el("p", {}, "Fires on ", firesOn(latent), ` ${count(data.columns.active_tokens[latent])} tokens, ` +
    `${percent(data.columns.chat_share[latent])} in dialogues, ${percent(data.columns.assistant_share[latent])} in answers, ` +
    `${percent(data.columns.template_share[latent])} chat markup.`);
  page.replaceChildren(navigation(latent), heading, fires);
  if (details) page.append(examples(details));
  else page.append(el("p", { class: "note" }, `This file has no examples of this latent, only numbers: make it again with crossdiff report RUN --latent ${latent}`));
  page.append(el("div", { class: "two" }, numbers(latent, details), details ? firing() : null));
  if (details) {
    if (Object.keys(details.lens).length) page.append(lens(details));
    page.append(neighbours(latent, details));
    drawHistogram(latent);
  }
}

function navigation(latent) {
  const at = latent === undefined ? -1 : state.rows.indexOf(latent);
  const go = (step) => () => (location.hash = `#/latent/${state.rows[at + step]}`);
  const button = (text, step) => {
    const made = el("button", { type: "button", onclick: go(step) }, text);
    made.disabled = at < 0 || state.rows[at + step] === undefined;
    return made;
  };
  const place = at < 0 ? "" : `${count(at + 1)} of ${count(state.rows.length)} in the table`;
  return el("nav", { class: "navigation", "aria-label": "Latents" },
    el("a", { href: "#/" }, "← Overview"), el("a", { href: "#/latents" }, "Table"), button("Previous", -1), button("Next", 1), el("span", { class: "note" }, place));
}

function numbers(latent, details) {
  const { columns } = data;
  const rows = NUS.map(([name, title, limit]) => {
    const t = data.overview.thresholds[limit];
    return el("tr", {}, el("th", { scope: "row" }, title), el("td", { class: "number" }, fixed(columns[name][latent])),
      el("td", { class: "number interval" }, interval(name, latent)),
      el("td", {}, forest(columns[name][latent], columns[`${name}_low`][latent], columns[`${name}_high`][latent], -t, t)));
  });
  const refit = data.overview.thresholds.refitted_delta;
  rows.push(el("tr", {}, el("th", { scope: "row" }, "refitted Δ"), el("td", { class: "number" }, fixed(columns.refitted_delta[latent])),
    el("td", { class: "number interval" }, interval("refitted_delta", latent)),
    el("td", {}, forest(columns.refitted_delta[latent], columns.refitted_delta_low[latent], columns.refitted_delta_high[latent], refit, 9))));
  for (const [name, title, digits] of FACTS) {
    rows.push(el("tr", {}, el("th", { scope: "row" }, title), el("td", { class: "number" }, fixed(columns[name][latent], digits)), el("td"), el("td")));
  }
  for (const [target, base, chat] of details?.betas ?? []) {
    const both = `${fixed(base)} / ${fixed(chat)}`;
    rows.push(el("tr", {}, el("th", { scope: "row" }, `β ${target.replaceAll("_", " ")}, base / chat`), el("td", { class: "number", colspan: 2 }, both), el("td")));
  }
  const kl = details?.kl;
  if (kl) {
    const back = (share) => percent(share, 1);
    rows.push(el("tr", {}, el("th", { scope: "row" }, "patched alone: share of the KL gap"), el("td", { class: "number" }, back(kl.recovered)),
      el("td", { class: "number interval" }, kl.recovered_low === null ? "" : `${back(kl.recovered_low)} to ${back(kl.recovered_high)}`), el("td")));
  }
  const twin = columns.twin[latent];
  if (twin >= 0) rows.push(el("tr", {}, el("th", { scope: "row" }, "twin"), el("td", {}, latentLink(twin)), el("td", { class: "number" }, `cosine ${fixed(columns.twin_cosine[latent])}`), el("td")));
  return el("section", {}, el("h3", {}, "Numbers, with 95 % intervals"), el("div", { class: "scroll-x" }, el("table", {}, el("tbody", {}, ...rows))),
    el("p", { class: "note" }, "Shaded: where the interval must lie for the verdict chat-specific (for the reverse nus: base-specific)."));
}

// Value and interval on [-1, 1.5]; the shaded part is where the verdict wants them.
function forest(value, low, high, from, to) {
  const namespace = "http://www.w3.org/2000/svg";
  const x = (v) => 150 * (Math.min(Math.max(v, -1), 1.5) + 1) / 2.5;
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", "forest");
  svg.setAttribute("aria-hidden", "true");
  const part = (tag, attributes) => {
    const node = document.createElementNS(namespace, tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    svg.append(node);
  };
  part("rect", { x: x(from), y: 1, width: x(to) - x(from), height: 16, fill: "rgba(128,160,128,.3)" });
  part("line", { x1: x(0), x2: x(0), y1: 0, y2: 18, stroke: "gray", "stroke-width": 0.5 });
  if (!Number.isNaN(low)) part("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, stroke: "currentColor", "stroke-width": 1.5 });
  if (!Number.isNaN(value)) part("circle", { cx: x(value), cy: 9, r: 3, fill: "currentColor" });
  return svg;
}

function firing() {
  return el("section", {}, el("h3", {}, "How strongly it fires"), el("div", { id: "histogram", class: "figure" }));
}

function examples({ examples: all }) {
  const strongest = Math.max(...all.map((e) => e.f));
  const section = el("section", { class: "two", "aria-label": "Examples" });
  for (const [text, title] of [["chat", "In dialogues"], ["plain", "In plain text"]]) {
    const own = all.filter((e) => e.text === text);
    const column = el("div", {}, el("h3", { class: `${text}-title` }, title));
    if (!own.length) column.append(el("p", { class: "note" }, "Never fires here."));
    for (const [bin, name] of [[-1, "Strongest"], [3, "Sampled: top quarter"], [2, "Sampled: third quarter"], [1, "Sampled: second quarter"], [0, "Sampled: weakest quarter"]]) {
      const part = distinct(own.filter((e) => e.bin === bin));
      if (!part.length) continue;
      const lines = part.map(({ example, repeats }) => {
        const line = context(example, strongest, 12, 8, repeats);
        line.title = `f = ${example.f}, document ${example.document}, position ${example.position}`;
        return line;
      });
      column.append(el("details", bin < 0 || bin === 3 ? { open: "" } : {}, el("summary", {}, name), ...lines));
    }
    section.append(column);
  }
  return section;
}

function lens(details) {
  const columns = Object.entries(LENS_TITLES).map(([name, title]) =>
    el("div", {}, el("h4", {}, title),
      el("table", {}, el("tbody", {}, ...(details.lens[name] ?? []).map(([token, logit]) => {
        const shown = el("span", { class: "tokens-inline" }, el("span", {}, tokenText(token)));
        return el("tr", {}, el("td", {}, shown), el("td", { class: "number" }, fixed(logit, 1)));
      })))));
  return el("section", {}, el("h3", {}, "Logit lens"),
    el("p", { class: "note" }, "Tokens that the decoder directions raise, straight through the final norm and unembedding. The layers in between are left out, so read it with care."),
    el("div", { class: "three" }, ...columns));
}

function neighbours(latent, details) {
  const rows = details.neighbours.map(([other, cosine]) =>
    el("tr", {}, el("td", {}, latentLink(other)), el("td", { class: "number" }, fixed(cosine)), el("td", {}, verdictBadge(other)), el("td", {}, firesOn(other))));
  const head = ["latent", "cosine", "verdict", "fires on"].map((t) => el("th", { scope: "col" }, t));
  return el("section", {}, el("h3", {}, "Nearest latents, by both decoders"),
    el("div", { class: "scroll-x" }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))));
}
