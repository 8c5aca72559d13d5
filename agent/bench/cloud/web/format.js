// Numbers and times in words. Times are those of the browser's zone, 24 hours.

const whole = new Intl.NumberFormat("en-GB");
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 12,345; a dash for what is no number. */
export const count = (value) => (isNumber(value) ? whole.format(value) : "–");

/** A number of things: 1 batch, 2 batches. */
export function many(n, one, more = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : more}`;
}

/** Of bytes, in decimal units. */
export function bytes(value) {
  if (!isNumber(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit && size < 100 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** A value of a signal with at most six digits that count. */
export function value(number) {
  if (!isNumber(number)) return "–";
  if (Number.isInteger(number) && Math.abs(number) < 1e9) return whole.format(number);
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e9 || size < 1e-4)) return number.toExponential(3);
  const digits = Math.max(0, Math.min(6, 5 - Math.floor(Math.log10(size))));
  return String(Number(number.toFixed(digits)));
}

/** Milliseconds since 1970 as a time of day, with the day where it is not today. */
export function moment(ms, { withDay = false, fraction = false } = {}) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return "–";
  const time =
    clock.format(at) + (fraction ? `.${String(at.getMilliseconds()).padStart(3, "0")}` : "");
  const today = new Date().toDateString() === at.toDateString();
  return today && !withDay ? time : `${day.format(at)}, ${time}`;
}

/** From one time to another, the day once where it is one. */
export function stretch(from, to) {
  const one = new Date(from).toDateString() === new Date(to).toDateString();
  const end = one ? clock.format(new Date(to)) : moment(to, { withDay: true });
  return `${moment(from, { withDay: true })} – ${end} (${span(to - from)})`;
}

/** Of a span of milliseconds: 850 ms, 12.5 s, 3 min, 2.5 h, 3 days. */
export function span(ms) {
  if (!isNumber(ms)) return "–";
  const short = (n) => String(Number(n.toFixed(n < 10 ? 1 : 0)));
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120e3) return `${short(ms / 1e3)} s`;
  if (ms < 7200e3) return `${short(ms / 60e3)} min`;
  if (ms < 48 * 3600e3) return `${short(ms / 3600e3)} h`;
  return `${short(ms / 86400e3)} days`;
}

/** How long ago an ISO time was. */
export function ago(iso) {
  const at = Date.parse(iso ?? "");
  if (Number.isNaN(at)) return "never";
  const past = Date.now() - at;
  return past < 1500 ? "just now" : `${span(past)} ago`;
}

/** Milliseconds since a boot as a clock shows them: 13:48:31, or 2 d 01:02:03. */
export function sinceBoot(ms, fraction = false) {
  const at = new Date(ms).toISOString();
  const days = Math.floor(ms / 86400e3);
  return (days ? `${days} d ` : "") + at.slice(11, fraction ? 23 : 19);
}

/** A time as the cloud gives it ({time, time_ns, clock}): only wall time is a date. */
export function told(when) {
  if (!when) return "–";
  if (when.time) return moment(Date.parse(when.time));
  if (!isNumber(when.time_ns) || Math.abs(when.time_ns) > 8e21) return "–";
  if (when.clock === "recorded" && when.time_ns > 1e17)
    return moment(when.time_ns / 1e6, { withDay: true });
  return `${sinceBoot(when.time_ns / 1e6)} after the ${when.clock === "boot" ? "boot" : "start"}`;
}
