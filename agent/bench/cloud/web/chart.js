// One signal over time, drawn by uPlot. A number is a line with the band between the least and the
// greatest value of each point; a state is steps, and its axis has the names of the states, at equal
// distances however their codes are spread. Times are milliseconds.

import { colour, h, say } from "./dom.js";
import { isNumber, moment, sinceBoot, value } from "./format.js";

const HEIGHT = 170;
const MOST_STATES = 12;
const GROUP = "time";
const FONT = "12px system-ui, sans-serif";

export class Chart {
  constructor(id, { onZoom, onReset, onRemove }) {
    this.id = id;
    this.onZoom = onZoom;
    this.onReset = onReset;
    this.plot = null;
    this.form = "";
    this.data = null;
    this.range = [0, 1];
    this.states = [];
    const [message, signal] = split(id);
    this.now = h("span", { class: "now" }, "–");
    this.canvas = h("div", { class: "canvas", role: "img", "aria-label": `${id}: loading` });
    this.empty = h("p", { class: "hint" }, "Loading ...");
    this.element = h(
      "figure",
      { class: "chart" },
      h(
        "figcaption",
        {},
        h("span", { class: "name" }, signal),
        h("small", {}, message),
        this.now,
        h(
          "button",
          {
            type: "button",
            class: "remove quiet icon",
            "aria-label": `Remove ${id}`,
            title: "Remove",
            on: { click: onRemove },
          },
          "×",
        ),
      ),
      this.canvas,
      this.empty,
    );
    this.canvas.style.height = `${HEIGHT}px`;
  }

  /** Show what the cloud answered about this signal between two times. */
  set(answer, [from, to], clock) {
    this.range = [from, to];
    this.unit = answer?.unit ?? "";
    this.clock = clock;
    if (!answer?.t?.length || answer.kind === "text") {
      this.drop();
      say(
        this.empty,
        !answer
          ? "Nothing is known of this signal."
          : answer.kind === "text" && answer.t?.length
            ? `Text: ${answer.last[answer.last.length - 1]}`
            : "No sample in this time.",
      );
      this.label("no sample in this time");
      return;
    }
    this.empty.hidden = true;
    const state = answer.kind === "state";
    this.states = state ? statesOf(answer) : [];
    this.data = columns(answer, this.states);
    const form = `${state} ${clock === "boot"}`;
    if (form !== this.form) this.drop();
    this.form = form;
    if (!this.plot) this.make(state);
    else {
      this.plot.setData(this.data, false);
      this.plot.setScale("x", { min: from, max: to });
    }
    this.empty.hidden = true;
    this.canvas.dataset.points = String(answer.t.length);
    this.canvas.dataset.last = String(answer.t[answer.t.length - 1]);
    this.label(`last ${this.text(answer.last[answer.last.length - 1])}`);
    this.show(this.plot.cursor.left >= 0 ? this.plot.cursor.idx : null);
  }

  drop() {
    this.plot?.destroy();
    this.plot = null;
    this.form = "";
    this.data = null;
    this.empty.hidden = false;
    say(this.now, "–");
  }

  label(words) {
    this.canvas.setAttribute("aria-label", `${this.id}: ${words}`);
  }

  make(state) {
    const narrow = innerWidth < 600;
    const line = () => colour("--line");
    const axis = {
      font: FONT,
      stroke: () => colour("--soft"),
      grid: { stroke: () => colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    const stepped = uPlot.paths.stepped({ align: 1 });
    const drawn = (more) => ({
      points: { show: state ? false : undefined, size: 4 },
      ...(state ? { paths: stepped } : {}),
      ...more,
    });
    const edge = drawn({ stroke: "transparent", width: 0, points: { show: false } });
    this.plot = new uPlot(
      {
        width: this.canvas.clientWidth || 600,
        height: HEIGHT,
        ms: 1,
        padding: [8, 12, 0, 0],
        legend: { show: false },
        scales: {
          x: { range: (_, min, max) => (isNumber(this.range[0]) ? this.range : [min, max]) },
          y: { range: (_, min, max) => this.extent(state, min, max) },
        },
        axes: [
          {
            ...axis,
            size: 26,
            gap: 4,
            space: narrow ? 70 : 90,
            // A label that would be cut off at the right is left out.
            values: (plot, ticks, _, __, step) =>
              ticks.map((t) =>
                plot.valToPos(t, "x") > plot.over.clientWidth - 18 ? "" : this.tick(t, step),
              ),
          },
          {
            ...axis,
            size: narrow ? 62 : 88,
            gap: 6,
            space: 26,
            ...(state ? { splits: () => this.states.map((_, i) => i) } : {}),
            values: (_, ticks) =>
              ticks.map((t) =>
                state ? clipped(this.states[t]?.text ?? "", narrow ? 8 : 13) : value(t),
              ),
          },
        ],
        series: [{}, edge, { ...edge }, drawn({ stroke: line, width: 1.75 })],
        bands: state ? [] : [{ series: [2, 1], fill: () => colour("--band") }],
        cursor: {
          sync: { key: GROUP },
          y: false,
          drag: { x: true, y: false, setScale: false },
          points: { show: false },
          bind: { dblclick: () => () => this.onReset() },
        },
        hooks: {
          setCursor: [(plot) => this.show(plot.cursor.idx)],
          setSelect: [
            (plot) => {
              const { left, width } = plot.select;
              if (width < 4) return;
              plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
              this.onZoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
            },
          ],
        },
      },
      this.data,
      this.canvas,
    );
  }

  extent(state, min, max) {
    if (state) return [-0.4, Math.max(0.4, this.states.length - 0.6)];
    if (!isNumber(min) || !isNumber(max)) return [0, 1];
    if (min === max) return [min - (Math.abs(min) || 1) * 0.1, max + (Math.abs(max) || 1) * 0.1];
    return uPlot.rangeNum(min, max, 0.08, true);
  }

  tick(t, step) {
    const at = new Date(t);
    const days = step >= 86400e3;
    if (days && this.clock === "boot") return `${value(t / 86400e3)} d`;
    if (days) return `${at.getDate()}/${at.getMonth() + 1}`;
    const zone_ms = this.clock === "boot" ? 0 : at.getTimezoneOffset() * 60e3;
    const time = new Date(t - zone_ms).toISOString();
    return time.slice(11, step >= 60e3 ? 16 : step >= 1000 ? 19 : 23);
  }

  /** The value at the cursor, else the last one. */
  show(index) {
    if (!this.data) return;
    const [times, low, high, last] = this.data;
    let i = index;
    if (!isNumber(i)) {
      i = last.length - 1;
      while (i > 0 && last[i] === null) i -= 1;
    }
    if (last[i] === null || last[i] === undefined) {
      say(this.now, "–");
      return;
    }
    const at = isNumber(index)
      ? `${this.clock === "boot" ? sinceBoot(times[i], true) : moment(times[i], { fraction: true })}  `
      : "";
    const state = this.states.length > 0;
    const band =
      !state && isNumber(index) && low[i] !== high[i]
        ? `  (${value(low[i])} – ${value(high[i])})`
        : "";
    say(this.now, at + (state ? (this.states[last[i]]?.text ?? "") : this.text(last[i])) + band);
  }

  text(number) {
    const state = this.states.find((each) => each.code === number);
    return state
      ? state.text
      : `${isNumber(number) ? value(number) : (number ?? "–")}${this.unit ? ` ${this.unit}` : ""}`;
  }

  resize(width) {
    if (this.plot && width > 0 && this.canvas.clientWidth !== this.plot.width) {
      this.plot.setSize({ width: this.canvas.clientWidth, height: HEIGHT });
    }
  }

  redraw() {
    this.plot?.redraw(true, true);
  }

  stop() {
    this.plot?.destroy();
    this.plot = null;
  }
}

function split(id) {
  const at = id.lastIndexOf(".");
  return at < 0 ? ["", id] : [id.slice(0, at), id.slice(at + 1)];
}

function clipped(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** The states that occur, by their codes: the axis has a place for each of them. */
function statesOf(answer) {
  const names = new Map(
    Object.entries(answer.choices ?? {}).map(([code, name]) => [Number(code), name]),
  );
  const codes = new Set(
    [...answer.last, ...(answer.min ?? []), ...(answer.max ?? [])].filter(isNumber),
  );
  let found = [...codes].sort((a, b) => a - b);
  if (found.length > MOST_STATES)
    found = found.filter((code) => names.has(code)).slice(0, MOST_STATES);
  return found.map((code) => ({ code, text: names.get(code) ?? value(code) }));
}

/** What uPlot draws: times, least, greatest and last, with a hole where samples stayed away. */
function columns(answer, states) {
  const places = new Map(states.map(({ code }, i) => [code, i]));
  const place = states.length ? (v) => places.get(v) ?? null : (v) => (isNumber(v) ? v : null);
  const { t, last } = answer;
  const [min, max] = [answer.min ?? last, answer.max ?? last];
  const found = [[], [], [], []];
  const push = (...row) => row.forEach((each, i) => found[i].push(each));
  const gap_ms = isNumber(answer.gap) && answer.gap > 0 ? answer.gap : Infinity;
  for (let i = 0; i < t.length; i += 1) {
    if (i > 0 && t[i] - t[i - 1] > gap_ms) push(t[i - 1] + 1e-3, null, null, null);
    push(t[i], place(min[i]), place(max[i]), place(last[i]));
  }
  return found;
}
