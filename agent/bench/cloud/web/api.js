// Questions to the cloud, and when to ask them again. The cloud that served this page is the only
// host that it talks to.

/** What the cloud or the network said, as a sentence. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON at a path.
 * @throws {ApiError} for a status over 399, and with status 0 when nobody answers. */
export async function get(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-cache", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The cloud does not answer.");
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(response.status, `The cloud answered ${response.status} without JSON.`);
  }
  if (!response.ok) {
    throw new ApiError(
      response.status,
      body?.error?.message ?? `The cloud answered ${response.status}.`,
    );
  }
  return body;
}

export const ofVehicle = (name, what = "") =>
  `/v1/vehicles/${encodeURIComponent(name)}${what ? `/${what}` : ""}`;

let health = null;

/** What belongs to this cloud; asking for something that is not there would be an error. */
function has(what) {
  health ??= get("/healthz").catch(() => {
    health = null;
    return {};
  });
  return health.then((answer) => answer[what] === true);
}

/** Whether this cloud belongs to a bench. */
export const isBench = () => has("bench");

/** Whether a GB/T 32960 platform runs beside it. */
export const isPlatform = () => has("platform");

/** Asks now, and again when told to: never twice at once, never more often than `every_ms`.
 * `load(signal)` asks and shows, and gives true when there is more to come: the cloud takes batches in
 * a moment after they arrive. `failed(error)` says what went wrong (null: it went well). */
export class Refresher {
  constructor(load, { every_ms = 1000, failed = () => {} } = {}) {
    this.load = load;
    this.every_ms = every_ms;
    this.failed = failed;
    this.abort = new AbortController();
    this.busy = false;
    this.again = false;
    this.last = -Infinity;
    this.timer = 0;
  }

  /** Something may be new. */
  ask() {
    if (this.abort.signal.aborted) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    if (this.timer) return;
    const wait_ms = Math.max(0, this.last + this.every_ms - performance.now());
    this.timer = setTimeout(() => this.run(), wait_ms);
  }

  /** Somebody waits for it: do not keep to the interval. */
  now() {
    this.last = -Infinity;
    clearTimeout(this.timer);
    this.timer = 0;
    this.ask();
  }

  async run() {
    this.timer = 0;
    this.busy = true;
    this.again = false;
    try {
      if (await this.load(this.abort.signal)) this.again = true;
      if (!this.abort.signal.aborted) this.failed(null);
    } catch (error) {
      if (error.name === "AbortError" || this.abort.signal.aborted) return;
      this.failed(error);
      if (!(error instanceof ApiError)) console.error(error);
    } finally {
      this.busy = false;
      this.last = performance.now();
    }
    if (this.again) this.ask();
  }

  stop() {
    this.abort.abort();
    clearTimeout(this.timer);
  }
}
