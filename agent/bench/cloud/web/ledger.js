// Where frames and samples went: the counters of the newest run, as a flow that closes.
//
//   bus:       received = read + dropped;  read = queued + decoded + ... + undecodable
//   campaign:  offered + made = kept + thinned + folded + outside + masked + held
//   uplink:    kept = memory + spooled + lost_disk + lost_end;
//              found + spooled + resent = acknowledged + waiting + evicted + quarantined
//
// Each sum is drawn as what came in and, in the same scale, where it went. Whether it closes is
// computed here from the numbers that are shown, and a difference is said in words.

import { get, ofVehicle, Refresher } from "./api.js";
import { badge, card, h, put } from "./dom.js";
import { count, isNumber, told } from "./format.js";

const GOOD = new Set(["decoded", "read", "kept", "spooled", "acknowledged"]);
const BAD = new Set(["dropped", "lost_disk", "lost_end", "evicted", "quarantined", "undecodable"]);
const WORDS = {
  received: "received",
  read: "read",
  dropped: "dropped by the kernel",
  queued: "queued",
  decoded: "decoded",
  transport: "parts of longer messages",
  remote: "remote frames",
  error: "error frames",
  unknown: "not in the database",
  undecodable: "undecodable",
  offered: "offered",
  made: "made (aggregates)",
  kept: "kept",
  thinned: "thinned",
  folded: "folded into aggregates",
  outside: "outside its condition",
  masked: "masked (privacy)",
  held: "held (not decided yet)",
  memory: "in memory",
  spooled: "on flash",
  lost_disk: "lost to disk",
  lost_end: "lost at the end",
  found: "found from earlier runs",
  resent: "asked for again",
  acknowledged: "acknowledged",
  waiting: "waiting",
  evicted: "evicted",
  quarantined: "quarantined",
};
export const SUMS = {
  bus: [
    [["received"], ["read", "dropped"]],
    [["read"], ["decoded", "transport", "remote", "error", "unknown", "undecodable", "queued"]],
  ],
  campaign: [
    [
      ["offered", "made"],
      ["kept", "thinned", "folded", "outside", "masked", "held"],
    ],
  ],
  uplink: [
    [["kept"], ["spooled", "memory", "lost_disk", "lost_end"]],
    [
      ["found", "spooled", "resent"],
      ["acknowledged", "waiting", "evicted", "quarantined"],
    ],
  ],
};
const STAGES = [
  ["bus", "1. On the buses", "frames"],
  ["campaign", "2. Kept by campaigns", "samples"],
  ["uplink", "3. Stored and sent", "samples"],
];

export function ledgerPart(root, context) {
  const place = h("div", { class: "ledger" }, h("p", { class: "hint" }, "Loading the ledger ..."));
  const cloud = h("div", {});
  put(root, place, cloud);
  let drawn = "";

  const refresher = new Refresher(
    async (signal) => {
      showCloud(await get(ofVehicle(context.name, "completeness"), { signal }));
    },
    { every_ms: 2000, failed: (error) => context.say(error?.status === 404 ? null : error) },
  );
  const silent = context.live.listen((vehicle) => {
    if (vehicle === null || vehicle === context.name) refresher.ask();
  });
  refresher.ask();

  function showCloud(whole) {
    const text = JSON.stringify(
      whole.runs?.map((run) => [run.verdict, run.uplinks, run.gaps?.length]),
    );
    if (cloud.dataset.said === text) return;
    cloud.dataset.said = text;
    const runs = [...(whole.runs ?? [])].reverse();
    put(
      cloud,
      card(
        "4. Received here",
        runs.slice(0, 20).map((run) =>
          h(
            "div",
            { class: "run" },
            h(
              "h3",
              {},
              `Run ${run.run ?? ""} `,
              badge(run.complete ? "good" : "bad", run.complete ? "complete" : "gaps"),
            ),
            h("p", {}, run.verdict),
            (run.uplinks ?? []).map((account) =>
              sum(
                `uplink ${account.uplink}`,
                [["kept", account.kept]],
                [
                  ["received here", account.received, "good"],
                  ["lost on board", account.lost_on_board, "bad"],
                  ["evicted on board", account.evicted, "bad"],
                  ...(isNumber(account.missing)
                    ? [["missing", account.missing, "bad"]]
                    : [
                        [
                          "still on its way",
                          Math.max(
                            0,
                            account.kept -
                              account.received -
                              account.lost_on_board -
                              account.evicted,
                          ),
                          "idle",
                        ],
                      ]),
                ],
                "samples",
              ),
            ),
            run.gaps?.length
              ? h(
                  "ul",
                  { class: "gaps" },
                  run.gaps.slice(0, 20).map((gap) => h("li", {}, gap.text)),
                )
              : null,
          ),
        ),
        runs.length > 20
          ? h("p", { class: "hint" }, `${runs.length - 20} earlier runs are not shown.`)
          : null,
      ),
    );
  }

  return {
    vehicle(answer) {
      const text = JSON.stringify(answer.ledger ?? null);
      if (text === drawn) return;
      drawn = text;
      put(place, flow(answer.ledger));
    },
    stop() {
      refresher.stop();
      silent();
    },
  };
}

/** The accounts in an answer, wherever they stand in it. */
export function accounts(ledger) {
  return (
    [ledger, ledger?.counts, ledger?.run, ledger?.totals, ledger?.accounts].find(
      (each) =>
        each &&
        typeof each === "object" &&
        ["bus", "campaign", "uplink"].some((k) => typeof each[k] === "object"),
    ) ?? null
  );
}

/** The three stages of a ledger, as elements. */
export function flow(ledger) {
  const found = accounts(ledger);
  if (!found) {
    return h(
      "div",
      { class: "empty" },
      h("p", {}, h("strong", {}, "No ledger has come yet.")),
      h("p", {}, "Every batch brings the totals of its run; the next one will."),
    );
  }
  const open = Object.entries(SUMS).flatMap(([account, sums]) =>
    Object.entries(found[account] ?? {}).flatMap(([name, row]) =>
      sums.filter(([a, b]) => total(row, a) !== total(row, b)).map(() => `${account} ${name}`),
    ),
  );
  const at = ledger.time || ledger.time_ns ? `, as of ${told(ledger)}` : "";
  return [
    h(
      "p",
      { class: "closing", role: "status" },
      open.length ? badge("bad", "does not close") : badge("good", "every sum closes"),
      h(
        "span",
        {},
        open.length
          ? ` Differences: ${[...new Set(open)].join(", ")}`
          : " Nothing came in that is not accounted for",
        at,
        ".",
      ),
    ),
    h(
      "div",
      { class: "stages" },
      STAGES.map(([account, title, what]) => {
        const rows = Object.entries(found[account] ?? {});
        return card(
          title,
          rows.length === 0
            ? h("p", { class: "hint" }, "Not told.")
            : rows.map(([name, row]) =>
                h(
                  "div",
                  { class: "account" },
                  h("h3", {}, `${account} ${name}`),
                  SUMS[account].map(([left, right]) =>
                    sum(
                      null,
                      left.map((c) => [WORDS[c], row[c] ?? 0]),
                      right.map((c) => [
                        WORDS[c],
                        row[c] ?? 0,
                        GOOD.has(c) ? "good" : BAD.has(c) ? "bad" : "idle",
                      ]),
                      what,
                    ),
                  ),
                ),
              ),
        );
      }),
    ),
  ];
}

const total = (row, names) => names.reduce((all, name) => all + (row[name] ?? 0), 0);

/** What came in, where it went, and whether the two are equal. Parts that are 0 are not drawn. */
function sum(title, into, parts, what) {
  const came = into.reduce((all, [, n]) => all + (n || 0), 0);
  const went = parts.reduce((all, [, n]) => all + (n || 0), 0);
  const most = Math.max(came, went, 1);
  const closes = came === went;
  const left = into.filter(([, n], i) => n || i === 0);
  return h(
    "div",
    { class: "sum" },
    title ? h("h4", {}, title) : null,
    h(
      "div",
      { class: "came" },
      left.map(([name, n]) => h("span", {}, `${name} `, h("b", {}, count(n)))),
      ` ${what}`,
    ),
    bar(parts, most),
    h(
      "table",
      { class: "parts", "aria-label": `where ${what} went` },
      h(
        "tbody",
        {},
        parts
          .filter(([, n]) => n)
          .map(([name, n, kind]) =>
            h(
              "tr",
              {},
              h(
                "td",
                { class: "what" },
                h("i", { class: `dot ${kind}`, "aria-hidden": "true" }),
                name,
              ),
              h("td", { class: "number" }, count(n)),
              h("td", { class: "number share" }, share(n, came)),
            ),
          ),
      ),
    ),
    h(
      "p",
      { class: closes ? "closes" : "closes open" },
      closes
        ? `✓ ${count(came)} = ${terms(parts)}`
        : `! ${count(came)} came in, ${count(went)} are accounted for: ` +
            `${count(Math.abs(came - went))} ${came > went ? "are missing" : "too many"}`,
    ),
  );
}

function terms(parts) {
  const found = parts.filter(([, n]) => n).map(([, n]) => count(n));
  return found.length ? found.join(" + ") : "0";
}

function share(n, all) {
  if (!all) return "";
  const percent = (100 * n) / all;
  // Nearly all is not all.
  if (n < all && percent >= 99.95) return "> 99.9 %";
  return percent >= 10
    ? `${percent.toFixed(1)} %`
    : percent >= 0.01
      ? `${percent.toFixed(2)} %`
      : "< 0.01 %";
}

function bar(parts, most) {
  const element = h("div", { class: "stack", "aria-hidden": "true" });
  for (const [, n, kind] of parts) {
    if (!n) continue;
    const piece = h("i", { class: kind });
    piece.style.width = `max(3px, ${(100 * n) / most}%)`;
    element.append(piece);
  }
  return element;
}
