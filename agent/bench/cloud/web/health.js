// How the vehicle is: its newest health record, its buses and how well the database files fit them,
// what waits in which lane, and updates. Below `edge-agent bench` the agent's own status says the
// same as of now; `recordOfStatus` gives it the form of a health record, so both are shown alike.

import { get, isBench, ofVehicle, Refresher } from "./api.js";
import { badge, card, facts, h, put } from "./dom.js";
import { bytes, count, isNumber, many, span, told, value } from "./format.js";

const LANES = ["event", "report", "telemetry", "raw"];

export function healthPart(root, context) {
  const health = h("div", {}, h("p", { class: "hint" }, "Loading the health record ..."));
  const updates = h("div", {});
  put(root, health, updates);
  let answer = null;
  let status = null;
  let last = "";
  const failed = (error) => context.say(error?.status === 404 ? null : error);
  const refresher = new Refresher(
    async (signal) => {
      showUpdates(updates, (await get(ofVehicle(context.name, "updates"), { signal })).updates);
    },
    { every_ms: 2000, failed },
  );
  const now = new Refresher(
    async (signal) => {
      if (!(await isBench())) return false;
      const state = await get("/bench/v1/state", { signal });
      status = state.vehicle === context.name ? (state.agent?.status ?? null) : null;
      show();
      return state.vehicle === context.name;
    },
    { every_ms: 2000, failed },
  );
  const silent = context.live.listen((vehicle) => {
    if (vehicle === null || vehicle === context.name) refresher.ask();
  });
  refresher.ask();
  now.ask();

  function show() {
    const text = JSON.stringify([answer?.health, answer?.findings, status]);
    if (!answer || text === last) return;
    last = text;
    if (status)
      put(health, cards(recordOfStatus(status), "As the agent says now.", databaseOf(status)));
    else
      put(
        health,
        cards(
          answer.health?.record,
          `Health record of ${told(answer.health)}.`,
          answer.findings?.report,
        ),
      );
  }

  return {
    vehicle(news) {
      answer = news;
      show();
    },
    stop() {
      refresher.stop();
      now.stop();
      silent();
    },
  };
}

/** What an agent's status says, in the form of a health record. */
export function recordOfStatus(status) {
  const counts = status.ledger?.bus ?? {};
  return {
    ...status.process,
    agent: status.agent,
    plan: status.plan,
    bundle: status.ota?.running || "",
    uptime_s: status.uptime_s,
    quality: status.clock,
    buses: Object.fromEntries(
      (status.buses ?? []).map((bus) => [
        bus.name,
        {
          state: String(bus.state ?? "").split(":")[0],
          why: String(bus.state ?? "")
            .split(": ")
            .slice(1)
            .join(": "),
          controller: ["active", "unknown"].includes(bus.controller) ? "" : bus.controller,
          load_percent: bus.load_percent,
          frames: counts[bus.name]?.received,
          dropped: counts[bus.name]?.dropped,
          error_frames: bus.error_frames,
        },
      ]),
    ),
    uplinks: Object.fromEntries((status.uplinks ?? []).map((each) => [each.name, each])),
    lanes: Object.fromEntries(
      Object.entries(status.spool?.lanes ?? {}).map(([uplink, of]) => [
        uplink,
        Object.fromEntries(
          Object.entries(of)
            .filter(([, lane]) => lane?.batches)
            .map(([name, lane]) => [name, [lane.batches, lane.bytes]]),
        ),
      ]),
    ),
    temperature_c: status.machine?.temperature_c,
    disk_free_bytes: status.machine?.disk?.free_bytes,
    differences: status.differences?.length,
    trouble: [...(status.differences ?? []), status.spool?.trouble, status.ota?.trouble].filter(
      Boolean,
    ),
    updates: status.ota?.why || status.ota?.state,
  };
}

/** A health record as cards; `database` is what is known of how the files fit the buses. */
export function cards(record, words, database) {
  if (!record) {
    return [
      h(
        "div",
        { class: "empty" },
        h("p", {}, h("strong", {}, "No health record has come yet.")),
        h(
          "p",
          {},
          "The agent makes one each minute, and sends those of ten minutes together.",
        ),
      ),
      database ? h("div", { class: "cards" }, card("Database files", files(database))) : null,
    ];
  }
  const trouble = record.trouble ?? [];
  return [
    h(
      "p",
      { class: "closing", role: "status" },
      trouble.length
        ? badge("bad", `${many(trouble.length, "thing")} to see to`)
        : badge("good", "no trouble told"),
      h("span", {}, ` ${words}`),
    ),
    trouble.length
      ? h(
          "ul",
          { class: "gaps" },
          trouble.map((each) => h("li", {}, each)),
          record.more ? h("li", {}, `and ${record.more} more`) : null,
        )
      : null,
    h(
      "div",
      { class: "cards" },
      card("Buses", buses(record.buses)),
      card("Upload", uplinks(record.uplinks), backlog(record.lanes)),
      card(
        "Machine",
        facts([
          ["Up for", isNumber(record.uptime_s) ? span(Math.floor(record.uptime_s) * 1000) : null],
          [
            "Processor",
            isNumber(record.cpu_percent) ? `${value(record.cpu_percent)} % of a core` : null,
          ],
          ["Memory", isNumber(record.memory_bytes) ? bytes(record.memory_bytes) : null],
          ["Disk free", isNumber(record.disk_free_bytes) ? bytes(record.disk_free_bytes) : null],
          [
            "Temperature",
            isNumber(record.temperature_c) ? `${value(record.temperature_c)} °C` : null,
          ],
          ["Clock", record.quality],
          ["Agent", record.agent],
          ["Plan", record.plan],
          ["Bundle", record.bundle],
          ["Updates", record.updates],
          [
            "Link",
            typeof record.link?.metered === "boolean"
              ? record.link.metered
                ? "metered"
                : "not metered"
              : null,
          ],
          [
            "Ledger",
            isNumber(record.differences)
              ? record.differences
                ? many(record.differences, "difference")
                : "closes"
              : null,
          ],
        ]),
      ),
      database ? card("Database files", files(database)) : null,
    ),
  ];
}

/** What a status tells of database files: how they fit, and what was wrong in them. */
export function databaseOf(status) {
  return { ...status.recognition, repairs: status.database };
}

/** What was wrong in the files themselves, and what was done about it. */
function repairs(told) {
  if (!told?.findings?.length) return null;
  const number = told.findings.length + (told.more ?? 0);
  return h(
    "details",
    {},
    h("summary", {}, many(number, "finding"), " in the files"),
    h(
      "ul",
      { class: "repairs" },
      told.findings.map((each) => h("li", {}, each)),
    ),
    told.more ? h("p", { class: "hint" }, `and ${count(told.more)} more`) : null,
  );
}

/** How well the database files fit what is on the buses. */
function files(database) {
  const rows = Object.entries(database.buses ?? {});
  return [
    repairs(database.repairs),
    rows.map(([name, bus]) =>
      h(
        "div",
        { class: "account" },
        h(
          "h3",
          {},
          name,
          " ",
          badge({ fits: "good", undecided: "idle" }[bus.verdict] ?? "warn", bus.verdict ?? "?"),
        ),
        facts([
          [
            "Frames it knows",
            isNumber(bus.known_frames)
              ? `${count(bus.known_frames)} of ${count(bus.frames)}`
              : null,
          ],
          [
            "Messages met",
            isNumber(bus.messages_met)
              ? `${count(bus.messages_met)} of ${count(bus.messages)}`
              : null,
          ],
          ["Unknown identifiers", bus.unknown_ids ? count(bus.unknown_ids) : null],
          ["Why", bus.why],
        ]),
      ),
    ),
    database.findings?.length
      ? h(
          "ul",
          { class: "gaps" },
          database.findings.map((each) => h("li", {}, each)),
        )
      : rows.length
        ? null
        : h("p", { class: "hint" }, "Nothing is decided yet."),
  ];
}

/** Buses by name, as a health record has them. */
export function buses(found) {
  const rows = Object.entries(found ?? {});
  if (!rows.length) return h("p", { class: "hint" }, "Not told.");
  return rows.map(([name, bus]) =>
    h(
      "div",
      { class: "account" },
      h(
        "h3",
        {},
        name,
        " ",
        badge(
          bus.state === "reading" && !bus.controller
            ? "good"
            : bus.state === "ended"
              ? "idle"
              : "bad",
          [
            bus.state,
            { off: "bus-off", passive: "error passive" }[bus.controller] ?? bus.controller,
          ]
            .filter(Boolean)
            .join(", ") || "unknown",
        ),
      ),
      bus.why ? h("p", { class: "hint" }, bus.why) : null,
      facts([
        ["Load", isNumber(bus.load_percent) ? `${value(bus.load_percent)} %` : null],
        ["Frames", isNumber(bus.frames) ? count(bus.frames) : null],
        ["Dropped", bus.dropped ? count(bus.dropped) : null],
        ["Error frames", bus.error_frames ? count(bus.error_frames) : null],
        ["Diagnostics", bus.diagnostics],
      ]),
    ),
  );
}

export function uplinks(found) {
  const rows = Object.entries(found ?? {});
  if (!rows.length) return h("p", { class: "hint" }, "No uplink is told of.");
  return rows.map(([name, uplink]) =>
    h(
      "div",
      { class: "account" },
      h(
        "h3",
        {},
        name,
        " ",
        badge(
          ["idle", "sending"].includes(uplink.state) ? "good" : "warn",
          uplink.state ?? "unknown",
        ),
      ),
      facts([
        ["Sent", isNumber(uplink.sent_bytes) ? bytes(uplink.sent_bytes) : null],
        ["Why", uplink.why],
      ]),
    ),
  );
}

/** What waits on board: {uplink: {lane: [batches, bytes]}}, with a bar a lane. */
export function backlog(lanes) {
  const rows = Object.entries(lanes ?? {}).flatMap(([uplink, of]) =>
    LANES.filter((lane) => of[lane]).map((lane) => [uplink, lane, ...of[lane]]),
  );
  if (!rows.length) return h("p", { class: "hint" }, "Nothing waits on board.");
  const several = new Set(rows.map(([uplink]) => uplink)).size > 1;
  const most = Math.max(1, ...rows.map(([, , , size]) => size || 0));
  return h(
    "table",
    { class: "lanes" },
    h("caption", {}, "Waiting on board"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Lane"),
        h("th", { scope: "col", class: "number" }, "Batches"),
        h("th", { scope: "col", class: "number" }, "Size"),
        h("th", {}, h("span", { class: "unseen" }, "Share")),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map(([uplink, lane, batches, size]) => {
        const piece = h("i", { class: "idle" });
        piece.style.width = `${(100 * (size || 0)) / most}%`;
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, several ? `${uplink}: ${lane}` : lane),
          h("td", { class: "number" }, count(batches)),
          h("td", { class: "number" }, bytes(size)),
          h("td", { class: "wide" }, h("div", { class: "stack", "aria-hidden": "true" }, piece)),
        );
      }),
    ),
  );
}

function showUpdates(place, updates) {
  const text = JSON.stringify(updates.slice(0, 50));
  if (place.dataset.said === text) return;
  place.dataset.said = text;
  put(
    place,
    card(
      "Updates",
      updates.length === 0
        ? h(
            "p",
            { class: "hint" },
            "No update has been told of: it runs the plan that it was installed with.",
          )
        : h(
            "table",
            { class: "updates" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["Time", "What", "Bundle", "Why"].map((title) => h("th", { scope: "col" }, title)),
              ),
            ),
            h(
              "tbody",
              {},
              updates
                .slice(0, 50)
                .map((each) =>
                  h(
                    "tr",
                    {},
                    h("td", {}, told(each)),
                    h(
                      "td",
                      {},
                      badge(
                        { committed: "good", applied: "good", accepted: "idle", request: "idle" }[
                          each.what
                        ] ?? "bad",
                        each.what || "?",
                      ),
                    ),
                    h("td", {}, each.bundle),
                    h("td", {}, each.why),
                  ),
                ),
            ),
          ),
    ),
  );
}
