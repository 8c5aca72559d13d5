// The signals of a vehicle: a list to choose from, and a chart for each that is chosen. The choice
// and the range of time stay in the address (`?s=Message.Signal&s=...&range=live`), so a link or a
// bookmark shows the same again. All charts share one axis of time, one cursor and one zoom.

import { get, ofVehicle, Refresher } from "./api.js";
import { Chart } from "./chart.js";
import { h, put, say, sync } from "./dom.js";
import { isNumber, sinceBoot, span, stretch } from "./format.js";
import { Picker } from "./picker.js";

const MOST_CHARTS = 12;
const RANGES = [
  ["live", "Live", 120e3],
  ["5m", "5 min", 300e3],
  ["1h", "1 hour", 3600e3],
  ["1d", "1 day", 86400e3],
  ["all", "All", Infinity],
];
const LATEST_MS = 5000;
const SERIES_MS = 1000;
const SHORTEST_MS = 20;
const LEAST_SHOWN_MS = 10e3;

/** What somebody wants to see first, when nothing was chosen yet. */
const FIRST = [
  [/\.VehicleSpeed$/i, /speed$/i],
  [/StateOfCharge$/i, /soc$/i],
  [/PackCurrent$/i, /power$/i, /torque$/i],
  [/gear/i, /state$/i],
];

export function signalsPart(root, context) {
  const { name, query } = context;
  let chosen = [...new Set(query.getAll("s").filter(Boolean))].slice(0, MOST_CHARTS);
  let range = RANGES.some(([id]) => id === query.get("range")) ? query.get("range") : "live";
  let zoom = zoomOf(query);
  let signals = new Map();
  let there = null;
  const charts = new Map();

  const picker = new Picker((id) => (chosen.includes(id) ? remove(id) : add(id)));
  const note = h("p", { class: "hint", role: "status" });
  const buttons = RANGES.map(([id, title]) =>
    h("button", { type: "button", on: { click: () => setRange(id) } }, title),
  );
  const tools = [
    ["◀", "Earlier", () => move(-0.5)],
    ["▶", "Later", () => move(0.5)],
    ["+", "Zoom in", () => scale(0.5)],
    ["−", "Zoom out", () => scale(2)],
  ].map(([sign, title, act]) =>
    h(
      "button",
      { type: "button", class: "icon", "aria-label": title, title, on: { click: act } },
      sign,
    ),
  );
  const when = h("span", { class: "when" });
  const list = h("div", {
    class: "charts",
    role: "group",
    tabindex: 0,
    "aria-label": "Charts; plus and minus zoom, arrows move, 0 resets",
    on: { keydown: keys },
  });
  const empty = h("div", { class: "empty" }, "Loading the signals ...");
  put(
    root,
    h(
      "div",
      { class: "signals" },
      picker.element,
      h(
        "div",
        { class: "plots" },
        h(
          "div",
          { class: "tools" },
          h("div", { class: "group", role: "group", "aria-label": "Range of time" }, buttons),
          h("div", { class: "group", role: "group", "aria-label": "Zoom" }, tools),
          when,
        ),
        note,
        empty,
        list,
      ),
    ),
  );

  const latest = new Refresher(
    async (signal) => {
      const answer = await get(ofVehicle(name, "latest"), { signal });
      signals = named(answer.signals);
      if (chosen.length === 0 && !query.has("s") && !picker.touched) chosen = first(signals);
      picker.setSignals(signals);
      changed();
    },
    { every_ms: LATEST_MS, failed: said },
  );

  const series = new Refresher(
    async (signal) => {
      if (chosen.length === 0) return;
      const asked = [...chosen];
      const ask = new URLSearchParams(asked.map((id) => ["signal", id]));
      ask.set("points", String(Math.max(100, Math.min(1200, Math.round(list.clientWidth || 600)))));
      const [from, to] = window_();
      if (isNumber(from)) ask.set("from", `${Math.floor(from)}000000`);
      if (isNumber(to)) ask.set("to", `${Math.ceil(to)}000000`);
      const answer = await get(`${ofVehicle(name, "series")}?${ask}`, { signal });
      draw(asked, answer);
      return answer.behind > 0;
    },
    { every_ms: SERIES_MS, failed: said },
  );

  const silent = context.live.listen((vehicle) => {
    if (vehicle !== null && vehicle !== name) return;
    latest.ask();
    if (!zoom) series.ask();
  });
  const resized = new ResizeObserver(() => {
    for (const chart of charts.values()) chart.resize(list.clientWidth);
  });
  resized.observe(list);
  const themed = () => charts.forEach((chart) => chart.redraw());
  addEventListener("themechange", themed);
  const slash = (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      picker.focus();
    }
  };
  addEventListener("keydown", slash);
  latest.ask();
  if (chosen.length) changed();
  showRange();

  function said(error) {
    if (error?.status === 404) {
      say(empty, "Nothing has come from this vehicle yet.");
      context.say(null);
    } else context.say(error);
  }

  function add(id) {
    if (chosen.length >= MOST_CHARTS) {
      say(note, `${MOST_CHARTS} charts are as many as can be read at once; remove one first.`);
      return;
    }
    chosen = [...chosen, id];
    changed();
    keep();
  }

  function remove(id) {
    chosen = chosen.filter((each) => each !== id);
    say(note, "");
    changed();
    keep();
  }

  function changed() {
    picker.setChosen(new Set(chosen));
    sync(
      list,
      chosen,
      (id) => id,
      make,
      () => {},
    );
    for (const [id, chart] of charts) {
      if (!chosen.includes(id)) {
        chart.stop();
        charts.delete(id);
      }
    }
    empty.hidden = chosen.length > 0;
    list.hidden = chosen.length === 0;
    if (chosen.length === 0 && signals.size) {
      put(
        empty,
        h("p", {}, h("strong", {}, "No signal is chosen.")),
        h("p", {}, "Find one in the list; Enter adds it, and Enter again takes it away."),
      );
    }
    series.now();
  }

  function make(id) {
    const chart = new Chart(id, {
      onZoom: setZoom,
      onReset: resetZoom,
      onRemove: () => {
        remove(id);
        (list.querySelector(".remove") ?? picker.search).focus();
      },
    });
    charts.set(id, chart);
    return chart.element;
  }

  function draw(asked, answer) {
    const { clock, signals: answers } = answer;
    if (isNumber(answer.to)) there = [answer.from, answer.to];
    const [from, to] = extent();
    charts.forEach((chart, id) => {
      if (asked.includes(id))
        chart.set(
          answers.find((each) => each.signal === id),
          [from, to],
          clock,
        );
    });
    say(
      when,
      !isNumber(from) || !isNumber(to)
        ? ""
        : clock === "boot"
          ? `${sinceBoot(from)} – ${sinceBoot(to)} after the boot (${span(to - from)})`
          : stretch(from, to),
    );
  }

  /** From when to when to ask; undefined is open. */
  function window_() {
    if (zoom) return zoom;
    const [, , length] = RANGES.find(([id]) => id === range);
    const end = there?.[1] ?? newest(signals);
    return [Number.isFinite(length) && isNumber(end) ? end - length : undefined, undefined];
  }

  /** From when to when to show: the newest data is at the right. */
  function extent() {
    if (zoom) return zoom;
    if (!there) return [undefined, undefined];
    const [, , length] = RANGES.find(([id]) => id === range);
    const [begin, end] = there;
    // What has just begun fills the chart: an empty stretch before it says nothing.
    return [Math.max(end - length, Math.min(begin, end - LEAST_SHOWN_MS)), end];
  }

  function setRange(id) {
    range = id;
    zoom = null;
    showRange();
    keep();
    series.now();
  }

  function setZoom(from, to) {
    const middle = (from + to) / 2;
    const half = Math.max(SHORTEST_MS, to - from) / 2;
    zoom = [Math.round(middle - half), Math.round(middle + half)];
    showRange();
    keep();
    series.now();
  }

  function resetZoom() {
    if (zoom) setRange(range);
  }

  function scale(factor) {
    const [from, to] = extent();
    if (!isNumber(from)) return;
    const half = ((to - from) * factor) / 2;
    const middle = (from + to) / 2;
    setZoom(middle - half, middle + half);
  }

  function move(part) {
    const [from, to] = extent();
    if (isNumber(from)) setZoom(from + (to - from) * part, to + (to - from) * part);
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      "+": () => scale(0.5),
      "=": () => scale(0.5),
      "-": () => scale(2),
      ArrowLeft: () => move(-0.25),
      ArrowRight: () => move(0.25),
      0: resetZoom,
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  function showRange() {
    RANGES.forEach(([id], i) =>
      buttons[i].setAttribute("aria-pressed", String(!zoom && id === range)),
    );
  }

  function keep() {
    const words = new URLSearchParams(chosen.map((id) => ["s", id]));
    if (chosen.length === 0) words.set("s", "");
    if (range !== "live") words.set("range", range);
    if (zoom) {
      words.set("from", String(zoom[0]));
      words.set("to", String(zoom[1]));
    }
    context.keep(words);
  }

  return {
    stop() {
      latest.stop();
      series.stop();
      silent();
      resized.disconnect();
      removeEventListener("themechange", themed);
      removeEventListener("keydown", slash);
      charts.forEach((chart) => chart.stop());
    },
  };
}

function zoomOf(query) {
  const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
  return query.has("from") && Number.isFinite(from) && to > from ? [from, to] : null;
}

/** Signals by the name that asks for them: with bus and source (`id` of the answer) where
 * `Message.Signal` fits more than one. */
function named(rows) {
  const times = new Map();
  const short = (row) => `${row.message}.${row.signal}`;
  for (const row of rows) times.set(short(row), (times.get(short(row)) ?? 0) + 1);
  return new Map(
    rows.map((row) => {
      const id = times.get(short(row)) > 1 ? (row.id ?? `${row.bus}.${short(row)}`) : short(row);
      return [id, { ...row, id }];
    }),
  );
}

function first(signals) {
  const found = [];
  const ids = [...signals.keys()];
  for (const patterns of FIRST) {
    const fit = patterns.map((pattern) =>
      ids.find((id) => pattern.test(id) && !found.includes(id)),
    );
    const id = fit.find((each) => each);
    if (id) found.push(id);
  }
  return found.length ? found : ids.slice(0, 3);
}

/** Milliseconds of the newest value of any signal, of the clock that series are told in. */
function newest(signals) {
  const rows = [...signals.values()];
  for (const clock of ["wall", "recorded", "boot"]) {
    const ends = rows.filter((row) => row.clock === clock).map((row) => row.time_ns / 1e6);
    if (ends.length) return Math.max(...ends);
  }
  return undefined;
}
