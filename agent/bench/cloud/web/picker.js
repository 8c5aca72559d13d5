// A list of signals to choose from: a search box and, below it, only the rows that can be seen,
// however many there are. The keyboard stays in the search box (combobox pattern): arrows move, Enter
// adds or removes, Escape clears. Chosen signals come first.

import { h, say } from "./dom.js";
import { count, many, value } from "./format.js";

const ROW_PX = 44;
const SPARE = 4;

export class Picker {
  constructor(onToggle) {
    this.onToggle = onToggle;
    this.touched = false;
    this.signals = new Map();
    this.texts = new Map();
    this.chosen = new Set();
    this.found = [];
    this.active = 0;
    this.drawn = "";
    this.search = h("input", {
      type: "search",
      role: "combobox",
      "aria-expanded": "true",
      "aria-controls": "signals",
      "aria-autocomplete": "list",
      "aria-label": "Find signals",
      autocomplete: "off",
      placeholder: "Find signals  ( / )",
      spellcheck: "false",
      on: { input: () => this.find(true), keydown: (event) => this.key(event) },
    });
    this.note = h("p", { class: "hint", role: "status" }, "Loading ...");
    this.spacer = h("div", { class: "spacer", role: "presentation" });
    this.list = h(
      "div",
      {
        class: "options",
        id: "signals",
        role: "listbox",
        "aria-label": "Signals",
        "aria-multiselectable": "true",
        tabindex: -1,
        on: {
          scroll: () => this.draw(),
          click: (event) => this.click(event),
          // The box keeps the focus, so that arrows go on working.
          mousedown: (event) => event.preventDefault(),
        },
      },
      this.spacer,
    );
    this.title = h("summary", {}, "Signals");
    this.element = h(
      "details",
      { class: "picker", open: true },
      this.title,
      this.search,
      this.note,
      this.list,
    );
    this.element.open = !matchMedia("(max-width: 800px)").matches;
    this.element.addEventListener("toggle", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.list);
  }

  focus() {
    this.element.open = true;
    this.search.focus();
    this.search.select();
  }

  setSignals(signals) {
    this.signals = signals;
    if (this.texts.size !== signals.size) {
      this.texts = new Map([...signals.keys()].map((id) => [id, id.toLowerCase()]));
      this.find();
    } else this.draw();
  }

  setChosen(chosen) {
    this.chosen = chosen;
    say(this.title, chosen.size ? `Signals (${chosen.size} chosen)` : "Signals");
    this.find();
  }

  /** Which signals fit; `moved` when the words changed, so the first of them is meant. */
  find(moved = false) {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fit = [...this.texts]
      .filter(([, text]) => words.every((word) => text.includes(word)))
      .map(([id]) => id);
    const meant = this.found[this.active];
    this.found = [
      ...fit.filter((id) => this.chosen.has(id)),
      ...fit.filter((id) => !this.chosen.has(id)),
    ];
    this.active = moved ? 0 : Math.max(0, this.found.indexOf(meant));
    if (moved) this.list.scrollTop = 0;
    say(
      this.note,
      this.signals.size === 0
        ? "No signal has come yet."
        : words.length === 0
          ? many(this.signals.size, "signal")
          : this.found.length === 0
            ? "No signal fits."
            : `${count(this.found.length)} of ${many(this.signals.size, "signal")}`,
    );
    this.draw();
  }

  draw() {
    const height = this.list.clientHeight || 400;
    const from = Math.max(0, Math.floor(this.list.scrollTop / ROW_PX) - SPARE);
    const to = Math.min(
      this.found.length,
      Math.ceil((this.list.scrollTop + height) / ROW_PX) + SPARE,
    );
    this.spacer.style.height = `${this.found.length * ROW_PX}px`;
    const rows = this.spacer.children;
    while (rows.length > to - from) this.spacer.lastElementChild.remove();
    while (rows.length < to - from) this.spacer.append(option());
    for (let i = from; i < to; i += 1) this.fill(rows[i - from], i);
    if (this.found.length)
      this.search.setAttribute("aria-activedescendant", `signal-${this.active}`);
    else this.search.removeAttribute("aria-activedescendant");
  }

  fill(element, i) {
    const id = this.found[i];
    const { signal, value: number, label, unit } = this.signals.get(id);
    element.id = `signal-${i}`;
    element.dataset.id = id;
    element.title = id;
    element.style.transform = `translateY(${i * ROW_PX}px)`;
    element.setAttribute("aria-selected", String(this.chosen.has(id)));
    element.setAttribute("aria-setsize", String(this.found.length));
    element.setAttribute("aria-posinset", String(i + 1));
    element.classList.toggle("active", i === this.active);
    const [mark, names, now] = element.children;
    say(mark, this.chosen.has(id) ? "✓" : "");
    say(names.children[0], signal);
    say(names.children[1], id.slice(0, -signal.length - 1));
    say(now, label || (number === null ? "" : `${value(number)}${unit ? ` ${unit}` : ""}`));
  }

  click(event) {
    const element = event.target.closest("[role=option]");
    if (!element) return;
    this.active = this.found.indexOf(element.dataset.id);
    this.toggle();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_PX) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (step) {
      this.active = Math.max(0, Math.min(this.found.length - 1, this.active + step));
      this.reveal();
    } else if (event.key === "Enter") this.toggle();
    else if (event.key === "Escape" && this.search.value) {
      this.search.value = "";
      this.find(true);
    } else return;
    event.preventDefault();
  }

  reveal() {
    const top = this.active * ROW_PX;
    const { scrollTop, clientHeight } = this.list;
    if (top < scrollTop) this.list.scrollTop = top;
    else if (top + ROW_PX > scrollTop + clientHeight)
      this.list.scrollTop = top + ROW_PX - clientHeight;
    this.draw();
  }

  toggle() {
    const id = this.found[this.active];
    if (!id) return;
    this.touched = true;
    this.onToggle(id);
  }
}

function option() {
  return h(
    "div",
    { class: "option", role: "option" },
    h("span", { class: "check", "aria-hidden": "true" }),
    h("span", { class: "names" }, h("span", {}), h("small", {})),
    h("span", { class: "now" }),
  );
}
