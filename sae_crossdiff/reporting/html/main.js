// Unpack, draw, and follow the address: #/ is the overview, #/latent/17 a latent.
let data;
let VERDICT_COLOURS;
let scrolledTo = 0;

function route() {
  const latent = /^#\/latent\/(\d+)$/.exec(location.hash)?.[1];
  const onLatent = latent !== undefined;
  if (onLatent && !byId("page-overview").hidden) scrolledTo = scrollY;
  byId("page-overview").hidden = onLatent;
  byId("page-latent").hidden = !onLatent;
  if (onLatent) {
    drawLatent(Number(latent));
    scrollTo(0, 0);
    byId("page-latent").querySelector("h2").focus({ preventScroll: true });
  } else if (location.hash === "#/latents") {
    showLatents();
  } else {
    scrollTo(0, scrolledTo);
  }
  const names = `${data.overview.names.base} → ${data.overview.names.chat}`;
  document.title = onLatent ? `Latent ${latent}: ${names}` : names;
}

async function start() {
  data = await unpack(byId("payload").textContent);
  byId("payload").remove();
  VERDICT_COLOURS = data.colours;
  byId("page-overview").hidden = false;
  makeOverview();
  makeFilters();
  makeTable();
  refresh();
  makeScatter();
  drawCausal();
  byId("status").remove();
  addEventListener("hashchange", route);
  route();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawScatter();
    drawCausal();
    route();
  });
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  byId("status").textContent =
    `This report could not be shown: ${error.message}. It needs a browser from 2023 or later.`;
  throw error;
});
