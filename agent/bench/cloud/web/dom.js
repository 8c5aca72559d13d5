// Elements without markup: everything becomes text nodes and attributes, never HTML. Names of
// vehicles, signals, events and verdicts come from outside, so this is the only way that the page
// makes elements.

/** An element. `on` has listeners, `class` and other keys are attributes; null and false are left
 * out. Children are nodes, texts, numbers, or lists of them. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((c) => c !== null && c !== undefined && c !== false)
    .map((c) => (c instanceof Node ? c : document.createTextNode(String(c))));
}

/** Put children in place of what is there. */
export function put(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** Set a text only where it differs, so that nothing is laid out again for nothing. */
export function say(element, text) {
  const words = String(text ?? "");
  if (element.textContent !== words) element.textContent = words;
  return element;
}

/** Make the children of `parent` those of `items`, in order, keeping elements whose key stays.
 * `make(item)` gives an element; `update(element, item)` changes it. Focus survives. */
export function sync(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((e) => [e.dataset.key, e]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = known.get(name);
    if (element) known.delete(name);
    else {
      element = make(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of known.values()) element.remove();
}

/** A card with a heading. */
export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), children);
}

/** A word with a colour and a mark: the colour is never the only sign. */
export function badge(kind, words) {
  const marks = { good: "✓", bad: "!", warn: "!", idle: "–" };
  return h(
    "span",
    { class: `badge ${kind}` },
    h("span", { class: "mark", "aria-hidden": "true" }, marks[kind] ?? ""),
    words,
  );
}

/** A list of names and values; what has no value is left out. */
export function facts(rows, attributes = { class: "facts" }) {
  return h(
    "dl",
    attributes,
    rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A colour of the style sheet as canvas understands it, for the scheme that is on. */
export function colour(name) {
  let probe = document.getElementById("probe");
  if (!probe) document.body.append((probe = h("span", { id: "probe", hidden: true })));
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
