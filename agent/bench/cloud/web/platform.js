// The GB/T 32960 platform: vehicles that report to it, and one of them in full. Only a cloud with
// `--gbt32960` has it. What comes from vehicles is shown as text, like everything on this page.

import { get, Refresher } from "./api.js";
import { badge, card, facts, h, put, say, sync } from "./dom.js";
import { ago, count, many } from "./format.js";

const LOOK_MS = 2000;
const COLUMNS = [
  ["VIN", ""],
  ["Link", ""],
  ["Data", "complete"],
  ["Last received", "last"],
  ["Reports", "number"],
  ["Live", "number"],
  ["Reissued", "number"],
  ["Copies", "number"],
];

export function platformView(root, context) {
  return context.path[1] ? oneVehicle(root, context, context.path[1]) : allVehicles(root, context);
}

/** Ask again and again while somebody looks; gives {stop()}. */
function looking(path, context, show) {
  const refresher = new Refresher(async (signal) => show(await get(path, { signal })), {
    every_ms: LOOK_MS,
    failed: context.say,
  });
  const timer = setInterval(() => document.hidden || refresher.ask(), LOOK_MS);
  refresher.ask();
  return {
    stop() {
      refresher.stop();
      clearInterval(timer);
    },
  };
}

function allVehicles(root, context) {
  const summary = h("p", { class: "hint", role: "status" }, "Loading the vehicles ...");
  const body = h("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map(([title, kind]) =>
    h("th", { scope: "col", role: "columnheader", class: kind || null }, title),
  );
  const table = h(
    "table",
    { class: "fleet plain", role: "table", "aria-label": "Vehicles at the platform", hidden: true },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  put(root, h("div", { class: "heading" }, h("h1", {}, "Platform")), summary, table);
  return looking("/v1/gbt32960", context, ({ vehicles }) => {
    const online = vehicles.filter((v) => v.online).length;
    const wrong = vehicles.filter((v) => v.verdict).length;
    say(
      summary,
      vehicles.length
        ? `${many(vehicles.length, "vehicle")} by GB/T 32960: ${count(online)} online, ` +
            `${count(wrong)} with something wrong.`
        : "No vehicle has logged in yet.",
    );
    table.hidden = vehicles.length === 0;
    sync(body, vehicles, (v) => v.vin, row, update);
  });
}

function row(vehicle) {
  const cells = COLUMNS.slice(1).map(([title, kind]) =>
    h("td", { role: "cell", class: kind || null, "data-title": title }),
  );
  const address = `#/gbt32960/${encodeURIComponent(vehicle.vin)}`;
  return h(
    "tr",
    { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, h("a", { href: address }, vehicle.vin)),
    cells,
  );
}

function update(element, v) {
  const [, link, data, last, ...numbers] = element.children;
  place(link, `${v.online}${v.edition}`, () => [
    badge(v.online ? "good" : "idle", v.online ? "online" : "offline"),
    ` ${v.edition}`,
  ]);
  place(data, verdictOf(v) + v.alarm_level, () => [
    state(v),
    v.alarm_level ? badge("warn", `alarm ${v.alarm_level}`) : null,
    h("span", { class: "verdict" }, verdictOf(v)),
  ]);
  say(last, ago(v.last_received)).title = v.last_received ?? "";
  [v.reports, v.live, v.reissued, v.copies].forEach((n, i) => say(numbers[i], count(n)));
}

/** Put something where it is not what was said last. */
function place(element, said, make) {
  if (element.dataset.said === said) return;
  element.dataset.said = said;
  put(element, make());
}

const verdictOf = (v) => v.verdict || "nothing is missing";
const state = (v) => badge(v.verdict ? "bad" : "good", v.verdict ? "look" : "complete");

function oneVehicle(root, context, vin) {
  const mark = h("span", { class: "slot" });
  const verdict = h("p", { class: "verdict" }, "Loading ...");
  const figures = h("div", { class: "figures" });
  const parts = h("div", { class: "cards" });
  put(
    root,
    h(
      "nav",
      { class: "crumbs", "aria-label": "Way back" },
      h("a", { href: "#/gbt32960" }, "Platform"),
      " / ",
    ),
    h("div", { class: "heading" }, h("h1", {}, vin), mark),
    verdict,
    figures,
    parts,
  );
  return looking(`/v1/gbt32960/${encodeURIComponent(vin)}`, context, (v) => {
    put(mark, badge(v.online ? "good" : "idle", v.online ? "online" : "offline"));
    say(verdict, verdictOf(v));
    put(
      figures,
      facts([
        ["edition", v.edition],
        ["login", v.serial],
        ["reports", count(v.reports)],
        ["live", count(v.live)],
        ["reissued", count(v.reissued)],
        ["copies", count(v.copies)],
        ["gaps", count(v.gaps)],
        ["malformed", count(v.malformed)],
        ["last received", ago(v.last_received)],
      ]),
    );
    put(parts, gapsCard(v), alarmsCard(v), ...latestCards(v.latest), ...listCards(v));
  });
}

function gapsCard(v) {
  return card(
    "Gaps",
    v.gaps
      ? h(
          "ul",
          {},
          v.named_gaps.map((name) => h("li", {}, name)),
        )
      : h("p", {}, "None between a login and its logout."),
  );
}

function alarmsCard(v) {
  if (!v.alarms.length) return null;
  const list = v.alarms
    .toReversed()
    .map((alarm) =>
      h(
        "li",
        {},
        badge(alarm.missing ? "bad" : alarm.level > 2 ? "warn" : "idle", `level ${alarm.level}`),
        ` ${alarm.name} ${alarm.flags.map(words).join(", ")}`,
      ),
    );
  return card("Alarms", h("ul", {}, list));
}

const words = (name) => name.replaceAll("_", " ");

/** A card for each information type of the newest report. */
function latestCards(latest) {
  if (!latest) return [];
  return Object.entries(latest.items).map(([name, values]) =>
    card(`${words(name)}, ${latest.time.slice(11)}`, rows(values)),
  );
}

function rows(values) {
  if (Array.isArray(values)) return values.map((each) => h("p", {}, each));
  const plain = [];
  const lists = [];
  for (const [name, value] of Object.entries(values)) {
    if (!Array.isArray(value)) plain.push([words(name), value]);
    else if (value.some((each) => typeof each === "object")) lists.push(...value);
    else plain.push([words(name), value.map(words).join(", ") || "none"]);
  }
  return [facts(plain), lists.map((each) => h("div", { class: "row" }, rows(each)))];
}

function listCards(v) {
  const logins = v.logins
    .slice(-10)
    .toReversed()
    .map((each) => h("li", {}, `${each.time}, serial ${each.serial}`));
  const bad = v.malformed_frames
    .slice(-20)
    .toReversed()
    .map((each) => h("li", {}, `${each.reason} `, h("code", {}, each.bytes)));
  const answers = v.answers
    .slice(-10)
    .toReversed()
    .map((each) => h("li", {}, `${each.command}, flag ${each.ack} ${each.wrong}`));
  return [
    ["Logins", logins],
    ["Malformed frames", bad],
    ["Answers to commands", answers],
  ]
    .filter(([, list]) => list.length)
    .map(([title, list]) => card(title, h("ul", {}, list)));
}
