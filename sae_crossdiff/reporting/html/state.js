// Which latents the table shows, in which order; figures and table follow it.
const NO_FILTER = {
  query: "", verdict: "", least: 0, detailed: false,
  deltaFrom: null, deltaTo: null, nuFrom: null, nuTo: null,
};
const BY_RELEVANCE = { key: "relevance", falling: false };
const state = {
  filter: { ...NO_FILTER },
  nu: "nu_error",
  sort: { ...BY_RELEVANCE },
  rows: new Int32Array(0),
  listeners: [],
};

const isFiltered = () => Object.keys(NO_FILTER).some((k) => state.filter[k] !== NO_FILTER[k]);

function setFilter(changes) {
  Object.assign(state.filter, changes);
  refresh();
}

function setSort(key, falling) {
  state.sort = { key, falling };
  refresh();
}

function refresh() {
  state.rows = sorted(matching());
  for (const listener of state.listeners) listener();
}

function matching() {
  const { filter } = state;
  const { delta, active_tokens: active, verdict } = data.columns;
  const nu = data.columns[state.nu];
  const wanted = data.categories.verdict.indexOf(filter.verdict);
  const hits = queryTest(filter.query.trim());
  const inside = (value, from, to) =>
    (from === null || value >= from) && (to === null || value <= to);
  return data.columns.relevance.filter(
    (j) =>
      active[j] >= filter.least &&
      (wanted < 0 || verdict[j] === wanted) &&
      inside(delta[j], filter.deltaFrom, filter.deltaTo) &&
      inside(nu[j], filter.nuFrom, filter.nuTo) &&
      (!filter.detailed || j in data.details) &&
      hits(j),
  );
}

// A number finds its latent, other text the latents that fire on such a token.
function queryTest(query) {
  if (!query) return () => true;
  if (/^\d+$/.test(query)) return (j) => j === Number(query) || tokenHits(query)(j);
  return tokenHits(query);
}

function tokenHits(query) {
  const wanted = query.toLowerCase();
  const found = data.tokens.map((t) => t.toLowerCase().includes(wanted) || visible(t).includes(query));
  const tokens = data.columns.fires_on;
  return (j) => [0, 1, 2].some((i) => tokens[3 * j + i] >= 0 && found[tokens[3 * j + i]]);
}

function sorted(rows) {
  const { key, falling } = state.sort;
  if (key === "relevance") return falling ? rows.reverse() : rows;
  const values = sortValues(key);
  const sign = falling ? -1 : 1;
  const known = rows.filter((j) => !Number.isNaN(values[j]));
  const unknown = rows.filter((j) => Number.isNaN(values[j]));
  known.sort((a, b) => sign * (values[a] - values[b]) || a - b);
  const all = new Int32Array(rows.length);  // latents without the number come last either way
  all.set(known);
  all.set(unknown, known.length);
  return all;
}

function sortValues(key) {
  if (key === "latent") return Int32Array.from({ length: data.n }, (_, j) => j);
  if (key !== "fires_on") return data.columns[key];
  const order = data.tokens.map((t, i) => [t.trim().toLowerCase(), i]);
  order.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  const place = new Float32Array(data.tokens.length);
  order.forEach(([, token], i) => (place[token] = i));
  const first = data.columns.fires_on;
  return Float32Array.from({ length: data.n }, (_, j) => (first[3 * j] < 0 ? NaN : place[first[3 * j]]));
}
