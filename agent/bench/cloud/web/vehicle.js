// One vehicle: its name and verdict, and below it one of four parts, each with an address.

import { get, ofVehicle, Refresher } from "./api.js";
import { badge, facts, h, put, say } from "./dom.js";
import { eventsPart } from "./events.js";
import { shortened } from "./fleet.js";
import { ago, bytes, count } from "./format.js";
import { healthPart } from "./health.js";
import { ledgerPart } from "./ledger.js";
import { signalsPart } from "./signals.js";

const PARTS = [
  ["", "Signals", signalsPart],
  ["events", "Events", eventsPart],
  ["health", "Health", healthPart],
  ["ledger", "Ledger", ledgerPart],
];

/** What the cloud said of the vehicle that was shown last: going from part to part changes nothing
 * above them. */
let before = {};

/** A part is a function (root, context) that gives {stop(), vehicle(answer)?}: the answer about the
 * vehicle comes to all of them, because each shows some of it. */
export function vehicleView(root, context) {
  const [, name, which = ""] = context.path;
  const base = `#/v/${encodeURIComponent(name)}`;
  const [, , open] = PARTS.find(([id]) => id === which) ?? PARTS[0];
  const mark = h("span", { class: "slot" });
  const verdict = h("p", { class: "verdict" }, "Loading ...");
  const figures = h("div", { class: "figures" });
  const place = h("div", { class: "part" });
  put(
    root,
    h("nav", { class: "crumbs", "aria-label": "Way back" }, h("a", { href: "#/" }, "Fleet"), " / "),
    h("div", { class: "heading" }, h("h1", {}, name), mark),
    verdict,
    figures,
    h(
      "nav",
      { class: "tabs", "aria-label": "Parts" },
      PARTS.map(([id, title]) =>
        h(
          "a",
          {
            href: id ? `${base}/${id}` : base,
            "aria-current": id === which ? "page" : null,
          },
          title,
        ),
      ),
    ),
    place,
  );
  // Figures have their place before they are known, so that nothing moves when they come.
  show(before.vehicle === name ? before : {});
  let part = null;

  // Questions about a vehicle that is not known are errors, so nothing is asked before it is there.
  const gate = new Refresher(
    async (signal) => {
      const { vehicles } = await get("/v1/vehicles", { signal });
      if (vehicles.some((each) => each.vehicle === name)) begin();
      else
        say(
          verdict,
          "Nothing has come from such a vehicle. It is shown here as soon as something does.",
        );
    },
    { failed: context.say },
  );

  const refresher = new Refresher(
    async (signal) => {
      const answer = await get(ofVehicle(name), { signal });
      before = answer;
      show(answer);
      part.vehicle?.(answer);
      return answer.behind > 0;
    },
    { every_ms: 2000, failed: context.say },
  );
  const silent = context.live.listen((vehicle) => {
    if (vehicle === null || vehicle === name) (part ? refresher : gate).ask();
  });
  if (before.vehicle === name) begin();
  else gate.ask();

  function begin() {
    gate.stop();
    part = open(place, { ...context, name, base });
    refresher.ask();
  }

  function show(v) {
    if (v.verdict !== undefined) {
      put(mark, badge(v.complete ? "good" : "bad", v.complete ? "complete" : "gaps"));
      say(verdict, shortened(v));
    }
    put(
      figures,
      facts([
        ["Last received", v.last_received ? ago(v.last_received) : "–"],
        ["Samples", count(v.samples)],
        ["Missing", count(v.missing_samples)],
        ["Batches", count(v.batches)],
        ["Size", bytes(v.bytes)],
        ["Plan", v.plan || "–"],
        ["Bundle", v.bundle || (v.plan ? "factory" : "–")],
      ]),
    );
  }

  return {
    stop() {
      gate.stop();
      refresher.stop();
      silent();
      part?.stop();
    },
  };
}
