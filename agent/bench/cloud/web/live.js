// What arrives at the cloud, as it arrives (server-sent events), for whoever listens. A page that
// nobody looks at lets go of its connection: a browser has only six of them for a host. Where the
// cloud serves no more streams, and in any case every ten seconds, listeners are asked to look.

const LOOK_MS = 10_000;

export class Live {
  constructor(showState) {
    this.listeners = new Set();
    this.showState = showState;
    this.source = null;
    document.addEventListener("visibilitychange", () => this.sync());
    setInterval(() => document.hidden || this.tell(null), LOOK_MS);
    this.sync();
  }

  /** `listener(vehicle)` is called with a vehicle's name, or null for all; gives what ends that. */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell(vehicle) {
    for (const listener of this.listeners) listener(vehicle);
  }

  sync() {
    if (document.hidden) {
      this.source?.close();
      this.source = null;
      return;
    }
    if (this.source && this.source.readyState !== EventSource.CLOSED) return;
    this.source = new EventSource("/v1/stream");
    this.source.addEventListener("open", () => {
      this.showState("live");
      this.tell(null);
    });
    this.source.addEventListener("error", () => {
      this.showState("polling");
      if (this.source?.readyState === EventSource.CLOSED) setTimeout(() => this.sync(), LOOK_MS);
    });
    this.source.addEventListener("received", (event) => {
      try {
        this.tell(JSON.parse(event.data).vehicle);
      } catch (error) {
        console.warn("an event of the stream is no JSON", error);
      }
    });
  }
}
