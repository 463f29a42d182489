// The first page: what was compared, how well, and what came out.
const CARDS_AT_ONCE = 24;
const SAME_SHOWN = 6;
const WEAKEST_SHOWN = 0.4;  // of the strongest: weaker ones say little about the latent

function makeOverview() {
  const { overview } = data;
  byId("site").textContent = `${overview.hook}, ${count(data.n)} latents, ${count(overview.quality.tokens)} tokens`;
  const { fve, l0, dead } = overview.quality;
  const tiles = [
    ...Object.entries(fve).map(([model, value]) => [`FVE ${model}`, value.toFixed(3)]),
    ["L0", l0.toFixed(1)],
    ["dead", `${(100 * dead).toFixed(1)} %`],
    ["largest Δ", overview.largest_delta.toFixed(2)],
  ];
  byId("tiles").append(...tiles.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));
  byId("provenance").append(...overview.provenance.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, visible(v))]));
  makeVerdicts(overview);
  makeCards(0);
  byId("more-cards").addEventListener("click", () => makeCards(byId("cards").children.length));
  if (data.kl) makeCausal();
}

function makeVerdicts({ verdicts, nulls, thresholds }) {
  const passed = Object.entries(nulls).map(([kind, n]) => `${count(n.by_interval)} (${kind})`).join(", ");
  const head = el("tr", {}, ...["verdict", "latents", "made-up latents that pass", "meaning"].map((t) => el("th", { scope: "col" }, t)));
  const rows = verdicts.map(([verdict, n, meaning]) =>
    el("tr", {},
      el("th", { scope: "row" }, el("span", { class: "badge", style: `--dot: ${VERDICT_COLOURS[verdict]}` }, verdict)),
      el("td", {}, el("button", { type: "button", "aria-label": `Show the ${count(n)} ${verdict} latents`, onclick: () => showVerdict(verdict) }, count(n))),
      el("td", {}, verdict === "chat-specific" ? passed : ""),
      el("td", { class: "meaning" }, meaning)));
  byId("verdicts").append(el("caption", { class: "note" }, "Verdicts of Latent Scaling"), el("thead", {}, head), el("tbody", {}, ...rows));
  const tested = Object.values(nulls)[0]?.tested;
  byId("null-note").textContent =
    `Chat-specific: |ν error| < ${thresholds.nu_error}, |ν reconstruction| < ${thresholds.nu_reconstruction} and ` +
    `refitted Δ > ${thresholds.refitted_delta}, with the whole ${100 * thresholds.confidence}\u00a0% interval. ` +
    (tested === undefined ? "" : `Made-up latents (${count(tested)} of each kind) fire as real ones do but point elsewhere.`);
}

function showVerdict(verdict) {
  byId("filters").reset();
  fillFilters({ verdict });
  showLatents();
}

function showLatents() {
  byId("latents").scrollIntoView();
  byId("h-latents").focus({ preventScroll: true });
}

function makeCards(from) {
  spots ??= bySpot();
  byId("cards").append(...spots.slice(from, from + CARDS_AT_ONCE).map(card));
  byId("more-cards").hidden = byId("cards").children.length >= spots.length;
}

// Latents by the token of their strongest example and the one before it: many latents say the same
// thing about one spot of a phrase, and a reader wants to see the other phrases too.
let spots;
function bySpot() {
  const groups = new Map();
  for (const latent of data.columns.relevance) {
    const strongest = strongExamples(latent)[0];
    if (!strongest) continue;
    const { tokens, peak } = strongest;
    const key = `${tokens[peak - 1]} ${tokens[peak]}`;
    groups.set(key, [...(groups.get(key) ?? []), latent]);
  }
  return [...groups.values()];
}

function strongExamples(latent) {
  const all = data.details[latent]?.examples ?? [];
  return all.filter((e) => e.bin < 0 || e.bin === 3).sort((a, b) => b.f - a.f);
}

function card([latent, ...others]) {
  const { columns } = data;
  const strong = strongExamples(latent);
  const enough = strong.filter((e) => e.f > WEAKEST_SHOWN * strong[0].f);
  const lines = distinct(enough).slice(0, 3).map(({ example }) => context(example, strong[0].f, 8, 7));
  const numbers = `ν error ${fixed(columns.nu_error[latent])}, ν reconstruction ` +
    `${fixed(columns.nu_reconstruction[latent])}, Δ ${fixed(columns.delta[latent])}, ` +
    `${count(columns.active_tokens[latent])} tokens, ${percent(columns.chat_share[latent])} in chat`;
  const title = el("a", { href: `#/latent/${latent}` }, `Latent ${latent}`);
  const made = el("article", { class: "card" }, el("h3", {}, title, verdictBadge(latent)), el("p", { class: "numbers" }, numbers), ...lines);
  if (others.length) made.append(el("p", { class: "numbers" }, "On the same spot: ", ...sameSpot(others)));
  return made;
}

function sameSpot(others) {
  const links = others.slice(0, SAME_SHOWN).flatMap((j, i) => [i ? ", " : "", latentLink(j)]);
  if (others.length > SAME_SHOWN) links.push(` and ${others.length - SAME_SHOWN} more`);
  return links;
}

function makeCausal() {
  byId("causal").hidden = false;
  const titles = ["condition", "KL, nats", "95 % interval", "recovered", "documents"];
  const rows = data.kl.map((row) =>
    el("tr", {},
      el("th", { scope: "row" }, row.condition),
      el("td", { class: "number" }, fixed(row.kl, 3)),
      el("td", { class: "number" }, `${fixed(row.low, 3)} to ${fixed(row.high, 3)}`),
      el("td", { class: "number" }, percent(row.recovered ?? NaN)),
      el("td", { class: "number" }, count(row.documents))));
  byId("kl-table").append(el("thead", {}, el("tr", {}, ...titles.map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, ...rows));
}
