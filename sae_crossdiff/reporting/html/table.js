// The table of all latents: only the rows in view exist.
const ROW = 34;
const SPARE = 12;
const withInterval = (name) => (j) => [
  fixed(data.columns[name][j]), " ", el("span", { class: "interval" }, interval(name, j)),
];
const number = (name, format = fixed) => (j) => [format(data.columns[name][j])];
const COLUMNS = [
  { key: "latent", title: "latent", cell: (j) => [latentLink(j)] },
  { key: "fires_on", title: "fires on", cell: (j) => [firesOn(j)] },
  { key: "verdict", title: "verdict", cell: (j) => [verdictBadge(j)] },
  { key: "delta", title: "Δ", kind: "number wide", cell: number("delta") },
  { key: "nu_error", title: "ν error", kind: "number", cell: withInterval("nu_error") },
  { key: "nu_reconstruction", title: "ν reconstr.", kind: "number wide", cell: withInterval("nu_reconstruction") },
  { key: "q_specific", title: "q", kind: "number wide", cell: number("q_specific", (v) => fixed(v, 3)) },
  { key: "active_tokens", title: "tokens", kind: "number wide", cell: number("active_tokens", count) },
  { key: "chat_share", title: "in chat", kind: "number wide", cell: number("chat_share", percent) },
  { key: "template_share", title: "markup", kind: "number wide", cell: number("template_share", percent) },
  { key: "specificity", title: "score", kind: "number wide", cell: number("specificity") },
];

function makeTable() {
  const head = el("div", { class: "head", role: "row", "aria-rowindex": 1 });
  for (const column of COLUMNS) {
    const button = el("button", { type: "button", onclick: () => sortBy(column) }, column.title);
    const properties = { role: "columnheader", class: column.kind ?? "", "data-key": column.key };
    head.append(el("div", properties, button));
  }
  const body = el("div", { class: "body", role: "rowgroup" });
  const inner = el("div", { class: "inner", role: "table", "aria-label": "Latents" }, el("div", { role: "rowgroup", class: "sticky" }, head), body);
  const view = byId("table");
  view.append(inner);
  let waiting = false;
  const draw = () => {
    waiting = false;
    drawRows(view, body);
  };
  view.addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  });
  view.addEventListener("keydown", (event) => moveFocus(event, view, draw));
  state.listeners.push(() => {
    inner.setAttribute("aria-rowcount", state.rows.length + 1);
    body.style.height = `${state.rows.length * ROW}px`;
    view.scrollTop = 0;
    showSort(head);
    draw();
    byId("count").textContent = `${count(state.rows.length)} of ${count(data.n)} latents`;
  });
}

function sortBy(column) {
  const again = state.sort.key === column.key;
  const risingFirst = ["latent", "fires_on", "verdict", "nu_error", "nu_reconstruction", "q_specific"];
  setSort(column.key, again ? !state.sort.falling : !risingFirst.includes(column.key));
}

function showSort(head) {
  for (const cell of head.children) {
    const active = cell.dataset.key === state.sort.key;
    const order = state.sort.falling ? "descending" : "ascending";
    cell.setAttribute("aria-sort", active ? order : "none");
    const button = cell.firstChild;
    const title = COLUMNS.find((c) => c.key === cell.dataset.key).title;
    button.textContent = active ? `${title} ${state.sort.falling ? "↓" : "↑"}` : title;
  }
}

function drawRows(view, body) {
  const first = Math.max(0, Math.floor(view.scrollTop / ROW) - SPARE);
  const last = Math.min(state.rows.length, Math.ceil((view.scrollTop + view.clientHeight) / ROW) + SPARE);
  const focused = document.activeElement?.closest?.(".row")?.dataset.at;
  const rows = [];
  for (let at = first; at < last; at++) rows.push(makeRow(at));
  body.replaceChildren(...rows);
  if (focused !== undefined) focusRow(view, Number(focused));
}

function makeRow(at) {
  const latent = state.rows[at];
  const cells = COLUMNS.map((c) => el("div", { role: "cell", class: c.kind }, ...c.cell(latent)));
  const place = `top: ${at * ROW}px`;
  return el("div", { class: "row", role: "row", "aria-rowindex": at + 2, "data-at": at, style: place }, ...cells);
}

function focusRow(view, at) {
  view.querySelector(`.row[data-at="${at}"] a`)?.focus({ preventScroll: true });
}

// Arrow keys go from row to row, also to rows that do not exist yet.
function moveFocus(event, view, draw) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = document.activeElement?.closest?.(".row");
  if (!step || !row) return;
  event.preventDefault();
  const at = Math.min(Math.max(Number(row.dataset.at) + step, 0), state.rows.length - 1);
  const room = view.clientHeight - view.querySelector(".head").offsetHeight;
  view.scrollTop = Math.min(Math.max(view.scrollTop, (at + 1) * ROW - room), at * ROW);
  draw();
  focusRow(view, at);
}

function makeFilters() {
  const field = (label, input) => el("label", {}, label, input);
  const change = (name, parse) => (event) => setFilter({ [name]: parse(event.target) });
  const numeric = (target) => (target.value === "" ? null : Number(target.value));
  const bound = (name, label) =>
    el("input", { type: "number", step: "any", name, "aria-label": label, oninput: change(name, numeric) });
  const range = (name, title) =>
    el("span", { class: "range" }, el("label", {}, title, bound(`${name}From`, `${title} from`)), "to", bound(`${name}To`, `${title} to`));
  const verdicts = el(
    "select",
    { name: "verdict", onchange: change("verdict", (t) => t.value) },
    el("option", { value: "" }, "all"),
    ...data.categories.verdict.map((v) => el("option", { value: v }, v)),
  );
  byId("filters").append(
    field("number or token", el("input", { type: "search", name: "query", placeholder: "17 or Quill", oninput: change("query", (t) => t.value) })),
    field("verdict", verdicts),
    field("active tokens ≥", el("input", { type: "number", min: 0, name: "least", oninput: change("least", (t) => Number(t.value)) })),
    range("delta", "Δ"), range("nu", "ν as plotted"),
    field("with examples only", el("input", { type: "checkbox", name: "detailed", onchange: change("detailed", (t) => t.checked) })),
    el("button", { type: "reset" }, "Clear"),
  );
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    state.sort = { ...BY_RELEVANCE };
    setFilter({ ...NO_FILTER });
  });
}

// A box in the scatter plot, or a verdict of the overview, fills in the fields.
function fillFilters(values) {
  const form = byId("filters");
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value ?? "";
  setFilter(values);
}
