// What happened on board: triggers, trips and charging sessions, the newest first.

import { get, ofVehicle, Refresher } from "./api.js";
import { badge, facts, h, put, say, sync } from "./dom.js";
import { isNumber, many, span, told, value } from "./format.js";

const STEP = 100;
const KINDS = [
  ["", "Events"],
  ["event", "Triggers"],
  ["trip", "Trips"],
  ["charging", "Charging"],
  ["other", "Reports"],
];

export function eventsPart(root, context) {
  let events = null;
  let shown = STEP;
  let kind = KINDS.some(([id]) => id === context.query.get("kind"))
    ? context.query.get("kind")
    : "";
  const buttons = KINDS.map(([id, title]) =>
    h(
      "button",
      {
        type: "button",
        on: {
          click: () => {
            kind = id;
            shown = STEP;
            keep();
            show();
          },
        },
      },
      title,
    ),
  );
  const note = h("p", { class: "hint", role: "status" }, "Loading the events ...");
  const list = h("ol", { class: "events" });
  const more = h(
    "button",
    {
      type: "button",
      class: "more",
      hidden: true,
      on: {
        click: () => {
          shown += STEP;
          show();
        },
      },
    },
    "Show more",
  );
  put(
    root,
    h(
      "div",
      { class: "tools" },
      h("div", { class: "group", role: "group", "aria-label": "Kind of event" }, buttons),
    ),
    note,
    list,
    more,
  );

  const refresher = new Refresher(
    async (signal) => {
      ({ events } = await get(ofVehicle(context.name, "events"), { signal }));
      show();
    },
    {
      every_ms: 2000,
      failed: (error) => {
        if (error?.status === 404) say(note, "Nothing has come from this vehicle yet.");
        else context.say(error);
      },
    },
  );
  const silent = context.live.listen((vehicle) => {
    if (vehicle === null || vehicle === context.name) refresher.ask();
  });
  refresher.ask();

  function keep() {
    context.keep(new URLSearchParams(kind ? [["kind", kind]] : []));
  }

  function show() {
    KINDS.forEach(([id], i) => buttons[i].setAttribute("aria-pressed", String(id === kind)));
    if (!events) return;
    const found = events.filter((each) =>
      kind ? group(each.event) === kind : group(each.event) !== "other",
    );
    // Health records come once a minute and would hide everything else.
    const reports = events.filter((each) => group(each.event) === "other").length;
    say(
      note,
      events.length === reports && !kind
        ? "No event has come yet. A campaign with a trigger makes them, and " +
            "`[sessions]` in the plan makes trips and charging sessions." +
            (reports ? ` There are ${many(reports, "report")}.` : "")
        : found.length === 0
          ? "No event of this kind has come yet."
          : kind === "other"
            ? many(found.length, "report")
            : many(found.length, "event") +
              (kind || !reports ? "" : `, and ${many(reports, "report")} of health and updates`),
    );
    sync(list, found.slice(0, shown), keyOf, () => h("li", { class: "event" }), fill);
    more.hidden = found.length <= shown;
  }

  show();
  return {
    stop() {
      refresher.stop();
      silent();
    },
  };
}

const keyOf = ({ event, time_ns, batch_id }) =>
  `${batch_id.split("-", 2).join("-")} ${event.name} ${event.id ?? time_ns}`;

/** To which of the kinds an event belongs. */
function group(event) {
  if (event.kind === "trip" || event.kind === "charging") return event.kind;
  return event.campaign ? "event" : "other";
}

function fill(element, told_) {
  const text = JSON.stringify(told_);
  if (element.dataset.said === text) return;
  element.dataset.said = text;
  const { event } = told_;
  const which = group(event);
  const title =
    { trip: "Trip", charging: "Charging session" }[which] ??
    [event.kind !== event.name && event.kind, event.name].filter(Boolean).join(" ");
  const marks = [
    event.requested === true && badge("idle", "by request"),
    event.complete === false && badge("warn", "not complete yet"),
  ];
  put(
    element,
    h("div", { class: "when" }, told(told_)),
    h(
      "div",
      {},
      h("h3", {}, title || "Event", " ", marks),
      event.expression ? h("p", {}, h("code", {}, event.expression)) : null,
      facts(which === "trip" || which === "charging" ? session(event) : rest(event)),
    ),
  );
}

/** The figures of a trip or a charging session, in their units. */
function session(event) {
  const units = { _km: "km", _kwh: "kWh", _s: "s" };
  return Object.entries(event)
    .filter(([key, each]) => !OWN.has(key) && each !== null)
    .map(([key, each]) => {
      const end = Object.keys(units).find((suffix) => key.endsWith(suffix));
      const unit = end ? units[end] : key.startsWith("soc") ? "%" : "";
      const name = (end ? key.slice(0, -end.length) : key)
        .replaceAll("_", " ")
        .replace(/^soc/, "SoC");
      if (end === "_s" && isNumber(each)) return [name, span(each * 1000)];
      if (isNumber(each)) return [name, `${value(Number(each.toFixed(3)))} ${unit}`.trim()];
      if (isNumber(each?.value))
        return [name, `${value(each.value)} (${String(each.signal).split(".").pop()})`];
      return [name, typeof each === "object" ? JSON.stringify(each).slice(0, 200) : String(each)];
    })
    .slice(0, 24);
}

const OWN = new Set([
  "kind",
  "name",
  "id",
  "campaign",
  "time",
  "clock",
  "first",
  "last",
  "complete",
  "requested",
  "expression",
  "wall",
  "begin",
  "end",
  "time_ns",
]);

function rest(event) {
  return flattened(event)
    .filter(([key]) => !OWN.has(key.split(" ")[0]))
    .map(([key, each]) => [
      // A long name may break behind its message.
      key.replace(/^values /, "").replaceAll("_", " ").replace(".", ".\u200b"),
      isNumber(each) ? value(each) : String(each).slice(0, 200),
    ])
    .slice(0, 24);
}

function flattened(object, before = "") {
  return Object.entries(object ?? {}).flatMap(([key, each]) => {
    const name = before + key;
    if (Array.isArray(each))
      return each.length
        ? [
            [
              name,
              each
                .map((e) =>
                  isNumber(e) ? value(e) : typeof e === "object" ? JSON.stringify(e) : e,
                )
                .join(", "),
            ],
          ]
        : [];
    if (each && typeof each === "object") return flattened(each, `${name} `);
    return each === null || each === "" || each === undefined ? [] : [[name, each]];
  });
}
