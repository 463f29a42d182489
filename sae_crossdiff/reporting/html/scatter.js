// Figures come ready-made from figures.py; here they get the page's colours and their links.
const PLOT_OPTIONS = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "autoScale2d"] };
const MOST_RINGS = 2000;

function themed(layout) {
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  const font = { color: colour, family: "system-ui, sans-serif", size: 12 };
  const annotations = (layout.annotations ?? []).map((a) => ({ ...a, font }));
  return { ...layout, font, annotations, hoverlabel: { font: { family: font.family } } };
}

function rings() {
  const few = isFiltered() && state.rows.length <= MOST_RINGS ? [...state.rows] : [];
  return {
    type: "scattergl", mode: "markers", name: "in the table", hoverinfo: "skip", showlegend: few.length > 0,
    x: few.map((j) => data.columns.delta[j]), y: few.map((j) => data.columns[state.nu][j]),
    marker: { size: 11, color: "rgba(0,0,0,0)", line: { width: 1.5, color: themed({}).font.color } },
  };
}

function drawScatter() {
  const figure = data.figures[state.nu];
  const byTouch = matchMedia("(pointer: coarse)").matches;  // a drag must still scroll the page
  const layout = { ...themed(figure.layout), dragmode: byTouch ? false : "select", selections: [] };
  const isNarrow = innerWidth < 640;  // the legend takes several lines
  layout.height = isNarrow ? 540 : 500;
  if (isNarrow) layout.margin = { ...layout.margin, b: 150 };
  const options = { ...PLOT_OPTIONS, displayModeBar: !byTouch };
  return Plotly.react("scatter", [...figure.data, rings()], layout, options);
}

function makeScatter() {
  const plot = byId("scatter");
  drawScatter().then(() => {
    plot.on("plotly_click", ({ points }) => {
      if (points[0].customdata !== undefined) location.hash = `#/latent/${points[0].customdata}`;
    });
    plot.on("plotly_selected", (event) => {
      if (!event?.range) return;
      const [deltaFrom, deltaTo] = event.range.x.map((v) => Number(v.toFixed(3))).sort((a, b) => a - b);
      const [nuFrom, nuTo] = event.range.y.map((v) => Number(v.toFixed(3))).sort((a, b) => a - b);
      fillFilters({ deltaFrom, deltaTo, nuFrom, nuTo });
    });
  });
  let asked = 0;
  state.listeners.push(() => {  // wait for the end of typing: a plot takes longer than the table
    clearTimeout(asked);
    asked = setTimeout(drawScatter, 150);
  });
  for (const radio of document.querySelectorAll("input[name=nu]")) {
    radio.addEventListener("change", () => {
      state.nu = radio.value;
      refresh();
    });
  }
}

function drawHistogram(latent) {
  const { data: traces, layout } = data.figures.histogram;
  const { bins, ...counts } = data.details[latent].histogram;
  const filled = traces.map((trace) => ({ ...trace, x: bins, y: counts[trace.name] }));
  const xaxis = { ...layout.xaxis, categoryarray: bins };
  Plotly.react("histogram", filled, { ...themed(layout), xaxis, height: 280 }, { ...PLOT_OPTIONS, displayModeBar: false });
}

function drawCausal() {
  if (!data.figures.kl) return;
  const { data: traces, layout } = data.figures.kl;
  Plotly.react("kl", traces, { ...themed(layout), yaxis: { ...layout.yaxis, automargin: true } }, PLOT_OPTIONS);
}
