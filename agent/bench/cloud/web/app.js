// The page: one document, its views by the address after `#`.
//
//   #/                   the fleet           fleet.js
//   #/v/NAME             charts of signals   vehicle.js, signals.js
//   #/v/NAME/events      events, trips       events.js
//   #/v/NAME/health      buses, upload, updates   health.js
//   #/v/NAME/ledger      where samples went  ledger.js
//   #/bench              faults to press     bench.js, only below `edge-agent bench`
//   #/gbt32960           the platform        platform.js, only with `--gbt32960`
//   #/gbt32960/VIN       one of its vehicles
//
// A view is a function (root, context) that shows itself in `root` and gives {stop()}, which ends
// all that it began. `context` has live (what arrives), path (parts of the address), query
// (URLSearchParams), keep(query) to keep a choice in the address, and say(error) for the banner.

import { isBench, isPlatform } from "./api.js";
import { benchView } from "./bench.js";
import { h, put, say } from "./dom.js";
import { fleetView } from "./fleet.js";
import { Live } from "./live.js";
import { platformView } from "./platform.js";
import { vehicleView } from "./vehicle.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const link = document.getElementById("link");
let view = null;
let shown = "";

const live = new Live((state) => {
  link.className = `link ${state}`;
  say(link, state === "live" ? "live" : "looking every 10 s");
});

/** The address after `#`, taken apart. */
export function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path
    .split("/")
    .filter(Boolean)
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
  return { path: parts, query: new URLSearchParams(query) };
}

function keep(query) {
  const path = location.hash.split("?", 1)[0] || "#/";
  const words = query.toString();
  history.replaceState(null, "", words ? `${path}?${words}` : path);
  shown = location.hash;
}

function sayError(error) {
  banner.hidden = !error;
  say(banner, error ? `${error.message} Trying again.` : "");
}

function show() {
  if (location.hash === "#main") {
    // The skip link: focus goes there, the view stays.
    history.replaceState(null, "", shown || "#/");
    main.focus();
    return;
  }
  if (view && location.hash === shown) return;
  shown = location.hash;
  view?.stop();
  sayError(null);
  const { path, query } = address();
  const context = { live, path, query, keep, say: sayError };
  put(main);
  window.scrollTo(0, 0);
  const which = ["bench", "gbt32960"].includes(path[0]) ? path[0] : "fleet";
  for (const item of document.querySelectorAll("[data-view]")) {
    if (item.dataset.view === which && path[0] !== "v") item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  if (path[0] === "v" && path[1]) view = vehicleView(main, context);
  else if (path[0] === "bench") view = benchView(main, context);
  else if (path[0] === "gbt32960") view = platformView(main, context);
  else if (path.length === 0) view = fleetView(main, context);
  else {
    view = { stop() {} };
    put(
      main,
      h("p", { class: "hint" }, "There is no such view. ", h("a", { href: "#/" }, "To the fleet")),
    );
  }
  document.title = path[0] === "v" ? `${path[1]} – Vehicle data` : "Vehicle data";
}

/** The scheme: that of the system, or the one that was chosen. */
function themes() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const changed = () => {
    say(button, dark() ? "Light" : "Dark");
    button.setAttribute("aria-label", `Use the ${dark() ? "light" : "dark"} colour scheme`);
    window.dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // It is forgotten with the page, then.
    }
    changed();
  });
  system.addEventListener("change", changed);
  changed();
}

themes();
addEventListener("hashchange", show);
show();
isBench().then((there) => {
  document.querySelector('[data-view="bench"]').hidden = !there;
});
isPlatform().then((there) => {
  document.querySelector('[data-view="gbt32960"]').hidden = !there;
});
