// The fleet: every vehicle in a row, whether its data is complete, what it runs, when it was heard.
// Rows are kept and changed in place, so that 500 vehicles cost little and focus stays.

import { get, Refresher } from "./api.js";
import { badge, h, put, say, sync } from "./dom.js";
import { ago, bytes, count, many } from "./format.js";

const COLUMNS = [
  { id: "vehicle", title: "Vehicle", sort: (v) => v.vehicle },
  { id: "complete", title: "Data", sort: (v) => (v.complete ? 1 : 0) },
  { id: "plan", title: "Plan", sort: (v) => `${v.plan} ${v.bundle ?? ""}` },
  { id: "last", title: "Last received", sort: (v) => v.last_received ?? "", down: true },
  { id: "batches", title: "Batches", sort: (v) => v.batches, down: true, number: true },
  { id: "samples", title: "Samples", sort: (v) => v.samples, down: true, number: true },
  { id: "bytes", title: "Size", sort: (v) => v.bytes, down: true, number: true },
];
const AGES_MS = 5000;
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

export function fleetView(root, context) {
  let vehicles = null;
  let { by, down } = sorting(context.query);
  const search = h("input", {
    type: "search",
    id: "find",
    placeholder: "Find a vehicle, a plan, a verdict",
    autocomplete: "off",
    "aria-label": "Find vehicles",
    value: context.query.get("q") ?? "",
    on: {
      input: () => {
        keep();
        show();
      },
    },
  });
  const summary = h("p", { class: "hint", role: "status" }, "Loading the vehicles ...");
  const body = h("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map((column) =>
    h(
      "th",
      {
        scope: "col",
        role: "columnheader",
        class: column.number ? "number" : null,
      },
      h("button", { type: "button", on: { click: () => sort(column) } }, column.title),
    ),
  );
  const table = h(
    "table",
    { class: "fleet", role: "table", "aria-label": "Vehicles", hidden: true },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const empty = h("div", { class: "empty", hidden: true });
  put(root, h("div", { class: "heading" }, h("h1", {}, "Fleet"), search), summary, table, empty);

  const refresher = new Refresher(
    async (signal) => {
      ({ vehicles } = await get("/v1/vehicles", { signal }));
      show();
    },
    { every_ms: 2000, failed: context.say },
  );
  const silent = context.live.listen(() => refresher.ask());
  const ages = setInterval(() => vehicles && show(), AGES_MS);
  refresher.ask();

  function sort(column) {
    [by, down] = column.id === by ? [by, !down] : [column.id, column.down ?? false];
    keep();
    show();
  }

  function keep() {
    const query = new URLSearchParams();
    if (search.value) query.set("q", search.value);
    if (by !== "vehicle" || down) query.set("sort", (down ? "-" : "") + by);
    context.keep(query);
  }

  function show() {
    if (!vehicles) return;
    COLUMNS.forEach((column, i) =>
      heads[i].setAttribute(
        "aria-sort",
        column.id === by ? (down ? "descending" : "ascending") : "none",
      ),
    );
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = vehicles.filter((v) => {
      const text =
        `${v.vehicle} ${v.plan ?? ""} ${v.bundle ?? "factory"} ${v.verdict}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const of = COLUMNS.find((column) => column.id === by).sort;
    found.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      const order = typeof x === "number" ? x - y : inOrder(x, y);
      return (down ? -order : order) || inOrder(a.vehicle, b.vehicle);
    });
    const good = vehicles.filter((v) => v.complete).length;
    const samples = vehicles.reduce((sum, v) => sum + (v.samples || 0), 0);
    say(
      summary,
      vehicles.length === 0
        ? ""
        : `${many(vehicles.length, "vehicle")}: ${count(good)} ` +
            `complete, ${count(vehicles.length - good)} with gaps; ${count(samples)} samples.` +
            (words.length ? ` ${count(found.length)} shown.` : ""),
    );
    sync(body, found, (v) => v.vehicle, row, update);
    table.hidden = found.length === 0;
    empty.hidden = found.length > 0;
    if (vehicles.length === 0) {
      put(
        empty,
        h("p", {}, h("strong", {}, "No batch has arrived yet.")),
        h("p", {}, "An agent sends to this cloud when an uplink of its agent.toml names it: "),
        h("pre", {}, `[[uplink]]\nname = "cloud"\nurl = "${location.origin}"`),
      );
    } else if (found.length === 0) put(empty, h("p", {}, "No vehicle fits this search."));
  }

  return {
    stop() {
      refresher.stop();
      silent();
      clearInterval(ages);
    },
  };
}

function sorting(query) {
  const asked = query.get("sort") ?? "vehicle";
  const by = asked.replace(/^-/, "");
  return COLUMNS.some((column) => column.id === by)
    ? { by, down: asked.startsWith("-") }
    : { by: "vehicle", down: false };
}

function row(vehicle) {
  const cells = COLUMNS.slice(1).map((column) =>
    h("td", {
      role: "cell",
      class: `${column.id}${column.number ? " number" : ""}`,
      "data-title": column.title,
    }),
  );
  return h(
    "tr",
    { role: "row" },
    h(
      "th",
      { scope: "row", role: "rowheader" },
      h("a", { href: `#/v/${encodeURIComponent(vehicle.vehicle)}` }, vehicle.vehicle),
    ),
    cells,
  );
}

function update(element, v) {
  const [, complete, plan, last, batches, samples, size] = element.children;
  const verdict = `${v.complete}${v.verdict}`;
  if (complete.dataset.said !== verdict) {
    complete.dataset.said = verdict;
    put(
      complete,
      badge(v.complete ? "good" : "bad", v.complete ? "complete" : "gaps"),
      h("span", { class: "verdict" }, shortened(v)),
    );
  }
  say(plan, [v.plan, v.bundle ? `bundle ${v.bundle}` : ""].filter(Boolean).join(", ") || "–");
  say(last, ago(v.last_received)).title = v.last_received ?? "";
  say(batches, count(v.batches));
  say(samples, count(v.samples));
  say(size, bytes(v.bytes));
}

/** The verdict without the vehicle's name, which stands beside it. */
export function shortened(v) {
  const text = v.verdict ?? "";
  const rest = text.startsWith(`${v.vehicle}: `) ? text.slice(v.vehicle.length + 2) : text;
  return rest;
}
