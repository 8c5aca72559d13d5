// The bench: the agent that runs here, faults to press and what they do, and a scenario's progress.
// Only `edge-agent bench` has it. A press carries a header that another site cannot send.

import { get, Refresher } from "./api.js";
import { badge, card, h, put, say, sync } from "./dom.js";
import { isNumber, many, span } from "./format.js";
import { cards, databaseOf, recordOfStatus } from "./health.js";
import { flow } from "./ledger.js";

const LOOK_MS = 1000;

export function benchView(root, context) {
  const agent = h("div", {});
  const note = h("p", { class: "hint" }, "Loading the bench ...");
  const faults = h("div", { class: "faults" });
  const scenario = h("div", {});
  const ledger = h(
    "details",
    { class: "card" },
    h("summary", {}, "Ledger, as the agent counts now"),
  );
  const sums = h("div", { class: "ledger" });
  ledger.append(sums);
  const strip = h("p", { class: "strip", role: "status", "aria-label": "The agent now" });
  put(
    root,
    h("div", { class: "heading" }, h("h1", {}, "Bench"), note),
    strip,
    scenario,
    h("h2", {}, "Faults"),
    faults,
    h("h2", {}, "The agent now"),
    agent,
    ledger,
  );
  const refresher = new Refresher(
    async (signal) => show(await get("/bench/v1/state", { signal })),
    {
      every_ms: LOOK_MS,
      failed: (error) => {
        context.say(error && error.status !== 404 ? error : null);
        if (error?.status === 404) {
          say(
            note,
            "This cloud belongs to no bench. `edge-agent bench` starts a vehicle, an agent and a cloud together.",
          );
        }
      },
    },
  );
  const timer = setInterval(() => document.hidden || refresher.ask(), LOOK_MS);
  refresher.ask();

  function show(state) {
    const now = state.agent ?? {};
    showStrip(strip, now);
    put(
      note,
      h("a", { href: `#/v/${encodeURIComponent(state.vehicle)}` }, state.vehicle),
      now.pid ? `, process ${now.pid}` : "",
      isNumber(now.status?.uptime_s)
        ? `, up for ${span(Math.floor(now.status.uptime_s) * 1000)}`
        : "",
    );
    sync(faults, state.faults ?? [], (fault) => fault.name, make, update);
    showScenario(scenario, state.scenario);
    showAgent(agent, now.status);
    if (ledger.open) put(sums, flow(now.status?.ledger));
    ledger.hidden = !now.status?.ledger;
  }

  /** The card of a fault. */
  function make(fault) {
    const id = `fault-${fault.name}`;
    const said = h("p", { class: "said", role: "status" });
    const fields = (fault.parameters ?? []).map((parameter) => field(id, parameter));
    const button = h("button", {
      type: "button",
      "aria-pressed": "false",
      "aria-describedby": `${id}-about`,
      on: { click: () => press() },
    });
    async function press() {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.disabled = true;
      say(said, on ? "Pressing ..." : "Taking it back ...");
      try {
        const parameters = Object.fromEntries(
          fields.map(({ name, value }) => [name, value()]).filter(([, v]) => v !== null),
        );
        await get(`/bench/v1/faults/${encodeURIComponent(fault.name)}`, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-Edge-Agent": "bench" },
          body: JSON.stringify({ on, parameters }),
        });
        say(said, "");
      } catch (error) {
        say(said, error.message);
      }
      button.disabled = false;
      button.focus();
      refresher.now();
    }
    return h(
      "section",
      { class: "fault", "aria-labelledby": `${id}-title` },
      h("div", { class: "press" }, h("h3", { id: `${id}-title` }, fault.title), button),
      h("p", { id: `${id}-about` }, fault.about),
      fields.length
        ? h(
            "div",
            { class: "fields" },
            fields.map((each) => each.element),
          )
        : null,
      said,
    );
  }

  function update(element, fault) {
    const button = element.querySelector("button");
    button.setAttribute("aria-pressed", String(Boolean(fault.active)));
    element.classList.toggle("active", Boolean(fault.active));
    say(button, fault.active ? "Take back" : "Press");
    button.setAttribute("aria-label", `${fault.active ? "Take back" : "Press"}: ${fault.title}`);
  }

  return {
    stop() {
      refresher.stop();
      clearInterval(timer);
    },
  };
}

/** An input for a parameter: {name, element, value()}. */
function field(id, { name, kind, default: usual, choices, least, most }) {
  const input = choices?.length
    ? h(
        "select",
        { id: `${id}-${name}` },
        choices.map((choice) => h("option", { value: choice, selected: choice === usual }, choice)),
      )
    : h("input", {
        id: `${id}-${name}`,
        type: kind === "number" ? "number" : "text",
        step: "any",
        min: least,
        max: most,
        value: usual ?? "",
        autocomplete: "off",
        spellcheck: "false",
      });
  return {
    name,
    element: h("label", { for: `${id}-${name}` }, h("span", {}, name.replaceAll("_", " ")), input),
    value() {
      // A number that is not there is left to the bench; an empty text says something.
      if (kind !== "number") return input.value;
      return input.value === "" ? null : Number(input.value);
    },
  };
}

function showScenario(place, scenario) {
  const text = JSON.stringify(scenario ?? null);
  if (place.dataset.said === text) return;
  place.dataset.said = text;
  put(
    place,
    scenario
      ? card(
          `Scenario ${scenario.name}`,
          scenario.says ? h("p", {}, scenario.says) : null,
          h(
            "p",
            { class: "steps" },
            h("progress", {
              max: Math.max(1, scenario.of ?? 1),
              value: scenario.step ?? 0,
              "aria-label": "Steps taken",
            }),
            ` ${scenario.step ?? 0} of ${scenario.of ?? "?"} steps taken`,
          ),
        )
      : null,
  );
}

/** In one line what a fault changes first: process, buses, uplinks, what waits, the ledger. */
function showStrip(place, { state, status }) {
  const told = [
    badge({ running: "good", starting: "idle" }[state] ?? "bad", `agent ${state ?? "unknown"}`),
  ];
  if (status) {
    const { buses, uplinks, lanes } = recordOfStatus(status);
    for (const [name, bus] of Object.entries(buses)) {
      told.push(
        badge(
          bus.state === "reading" && !bus.controller ? "good" : "bad",
          `bus ${name}: ${bus.state}`,
        ),
      );
    }
    for (const [name, uplink] of Object.entries(uplinks)) {
      const batches = Object.values(lanes[name] ?? {}).reduce((sum, [n]) => sum + n, 0);
      told.push(
        badge(
          ["idle", "sending"].includes(uplink.state) ? "good" : "bad",
          `uplink ${name}: ${uplink.state}`,
        ),
        badge(
          batches > 3 ? "warn" : "idle",
          batches ? `${many(batches, "batch", "batches")} waiting` : "nothing waits",
        ),
      );
    }
    if (status.spool?.trouble) told.push(badge("bad", "disk trouble"));
    told.push(
      badge(
        status.differences?.length ? "bad" : "good",
        status.differences?.length ? "ledger does not close" : "ledger closes",
      ),
    );
  }
  // It is read aloud when it changes, so it changes only when it says something else.
  const words = told.map((each) => each.textContent).join();
  if (place.dataset.said === words) return;
  place.dataset.said = words;
  put(place, told);
}

function showAgent(place, status) {
  put(
    place,
    status
      ? cards(recordOfStatus(status), "As the agent says now.", databaseOf(status))
      : h("p", { class: "hint" }, "The agent does not answer: it is not running, or is starting."),
  );
}
