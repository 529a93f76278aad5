/** How a feed is made. */
export interface Options {
  /**
   * The bugs to begin with; the same as calling `subscribe`. `"all"`: every bug of the feed, where the operator allows it
   * (`--allow-all`).
   */
  bugs?: Iterable<number | string> | "all";
  /** Closes the feed when it is aborted. */
  signal?: AbortSignal;
  /**
   * Keeps the cursor, so that the next page load or the next run resumes where this one ended: `localStorage`, or
   * anything with these two methods. A change is dealt with, and its cursor stored, once a listener was called with it;
   * or, while the feed is iterated over, once the loop asks for the next event, so that a bot that dies in between gets it
   * again. While nobody listens, nothing is stored that was not told. In Node, `files` of `@bugfeed/client/files`.
   */
  storage?: Pick<Storage, "getItem" | "setItem">;
  /** Under which name. Pages and bots that watch different bugs need different keys. Required with `storage`. */
  key?: string;
  /**
   * Where to resume, instead of what the storage says. `since:2014-04-03T21:13:45` begins by date (UTC): what changed
   * from then on comes first, perhaps with some that is older, as far back as the gateway remembers; there is no verdict,
   * nor a gap where that is not far enough. What is no date is a subscription that is refused.
   */
  cursor?: string | null;
  /** How often the gateway should be heard, in seconds, 1 to 300 (30). Silence for 2.5 times as long is a dead link. */
  heartbeat?: number;
  /**
   * For gateways that ask for a token: the token, or a function that gives one, which is asked before each attempt to
   * connect, and before a token expires. Refused or expired, a token that is a text ends the feed; a function is asked for
   * another one. Letters, digits, and `- . _ ~`, as JWTs are. It is sent as a subprotocol (WebSocket) or as `Authorization`
   * (SSE, long-poll), and shown nowhere. Nothing, null and `""` are no token.
   */
  token?: string | (() => string | Promise<string>) | null | undefined;
  /** The WebSocket class where there is no global one: that of the package `ws` in Node 20. */
  WebSocket?: unknown;
  /**
   * The only way to reach the gateway. Without it WebSocket is, and where that does not pass, SSE or long-poll: see the
   * README. `webSocket(WebSocket)`, or `eventStream()` and `longPoll()` of `@bugfeed/client/fallback`.
   */
  transport?: Transport;
  /**
   * Sends cookies along with SSE and long-poll, where a proxy in front of the gateway asks for a login; over WebSocket
   * browsers always do. The answers must name the page's origin (`--allow-origin https://…`) and allow credentials.
   */
  withCredentials?: boolean;
}

/** A bug changed. What changed is for the tracker's own API to say. */
export interface Change {
  type: "change";
  bug: number;
  /** The same as a list, as in `Gap`. */
  bugs: [number];
  /** UTC, as the tracker wrote it: `2014-04-03T21:13:45`, perhaps with a fraction. Neither unique nor ascending. */
  when: string;
}

/** Nobody can tell what these bugs went through: treat all of them as changed, ask the tracker. */
export interface Gap {
  type: "gap";
  bugs: number[];
  /** Any bug of the feed, and `bugs` is empty: told to who watches all. */
  all?: true;
}

/** `waiting` until the next attempt, `connecting` until the gateway has answered, `open`, or `closed` for good. */
export type State = "connecting" | "open" | "waiting" | "closed";

/** `paused`: the gateway knows that nothing can arrive just now. What is not said is `live`. */
export type FeedState = "live" | "paused";

/** The gateway on what was missed: every change follows, the newest of each bug follows, or nobody knows. */
export type Replay = "complete" | "latest" | "gap";

/**
 * The gateway's reply to `hello`. One of 2014 has none of these members; by long-poll, and where pages share a connection,
 * there are the last two.
 */
export interface Welcome {
  version?: string;
  feed?: string;
  limits?: { subscriptions: number; message_bytes: number };
  /** How often the gateway is heard, in seconds. */
  heartbeat?: number;
  cursor?: string | null;
  /** When the token expires, UTC. */
  expires?: string;
}

/** What the events carry as their `detail`. */
export interface Details {
  change: Change;
  gap: Gap;
  /** `reason` and `delay` (ms until the next attempt) when waiting. */
  state: { state: State; reason?: string; delay?: number };
  /** When that changes, and since when (UTC, by the gateway's clock), where it was told. */
  feed: { state: FeedState; since?: string };
  /** From now on these bugs are watched. `replay` is null where nothing was resumed. */
  subscribed: { bugs: number[]; all?: true; replay: Replay | null };
  error: BugfeedError;
}

/**
 * What went wrong: a subscription was refused (`bugs` are not watched), the cursor could not be stored, three attempts in
 * a row were answered with the same `status` (the feed goes on trying; it is told once, and no loop throws it), or, if
 * `final`, the feed ended because trying again would not mend it.
 */
export class BugfeedError extends Error {
  final: boolean;
  /** The WebSocket close code, if that was it. */
  code?: number;
  /** The HTTP status, if that was it and could be seen; otherwise 0 or undefined. */
  status?: number;
  /** The bugs that were refused. */
  bugs?: number[];
  /** All were, and `bugs` is empty. */
  all?: true;
}

/**
 * A feed of changes. Connects as soon as it is made, and again whenever the connection breaks, until it is closed.
 * What was missed in between is asked for, and comes as ordinary changes, or, where nobody knows, as a gap.
 *
 * Delivery is at least once: a change may come twice after a reconnect, rarely; and while this client or its network is
 * slow, only the newest change of each bug comes.
 */
export class Bugfeed extends EventTarget implements AsyncIterable<Change | Gap> {
  /**
   * @param url the feed's address: `wss://HOST/`, `wss://HOST/NAME/`, `https:` likewise, or relative to the page's
   * @throws TypeError if the address or the token is none, there is no WebSocket class, or `storage` has no `key`
   * @throws RangeError if a bug or the heartbeat is no number in range
   */
  constructor(url: string | URL, options?: Options);

  readonly url: string;
  readonly state: State;
  /** `classic`: a gateway of 2014, which resumes by date and cannot tell of every gap. Null until it has answered. */
  readonly protocol: "modern" | "classic" | null;
  /** How the gateway was reached last: `websocket`, `sse`, `long-poll`, or what `Link.name` says. Null until then. */
  readonly transport: string | null;
  /** What the gateway said of itself when this connection began. Null until the first one has. */
  readonly welcome: Welcome | null;
  /** Whether anything can arrive just now. Until a new connection has said so, as the last one said. */
  readonly feedState: FeedState;
  /** The verdict of the last subscription. */
  readonly replay: Replay | null;
  /**
   * The feed's end when this connection began, null until the gateway has answered. To start afresh and miss nothing:
   * wait for the state `open`, set `cursor = head`, ask the tracker which bugs there are, subscribe.
   */
  readonly head: string | null;
  /**
   * Up to here everything was received. The first `subscribe` of a connection resumes from here. Opaque text, but for
   * `since:` and a date. It may lie beyond what was told, such as a gap that is told later: what shall outlive the page is
   * for `storage` to keep.
   */
  cursor: string | null;
  /** What is watched, or will be once there is a connection. */
  readonly bugs: number[];
  /** Whether every bug of the feed is watched; then the single ones make no difference. */
  readonly all: boolean;

  /**
   * Watches bugs, from now on, also across reconnects. With a cursor, name the bugs it speaks for in the first call.
   * @throws RangeError if one is no whole number from 1 to 2^53 - 1; then nothing changes
   */
  subscribe(all: "all"): void;
  subscribe(...bugs: (number | string | readonly (number | string)[])[]): void;
  /** Stops watching bugs. No change of them comes any more. */
  unsubscribe(...bugs: (number | string | readonly (number | string)[])[]): void;
  /** Connects now, if the feed is waiting: for a button. It does so by itself when the network is back. */
  reconnect(): void;
  /** Ends the feed for good, and iteration with it. May be called twice, and passed on as a function. */
  close(): void;

  /**
   * Changes and gaps, one at a time, one reader at a time, with what came while nobody listened. Ends when the feed is
   * closed; throws the `BugfeedError` when it fails or a subscription is refused.
   *
   * A `next()` before the last one was answered is the same question: its promise may be waited for again, after a
   * timeout for example. `return()` ends the wait at once, and nothing else: what comes then waits for another loop.
   */
  [Symbol.asyncIterator](): FeedReader;

  addEventListener<K extends keyof Details>(
    type: K,
    listener: ((event: CustomEvent<Details[K]>) => void) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof Details>(
    type: K,
    listener: ((event: CustomEvent<Details[K]>) => void) | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** What a loop reads from. */
export interface FeedReader extends AsyncIterableIterator<Change | Gap, void, void> {
  next(): Promise<IteratorResult<Change | Gap, void>>;
  return(): Promise<IteratorResult<Change | Gap, void>>;
  [Symbol.asyncIterator](): FeedReader;
}

/** One connection, as a transport made it. */
export interface Link {
  /** For `Bugfeed.transport`. */
  name?: string;
  /** Sends a command of the protocol. Only after `open`. */
  send(command: { command: string; [member: string]: unknown }): void;
  /** Ends the connection; nothing that it reports afterwards counts. */
  close(): void;
}

/**
 * Opens a connection and reports what happens to it, never before it has returned. A transport that carries messages
 * only one way (SSE, long-poll) turns the commands into requests and answers them itself.
 */
export type Transport = (
  url: string,
  on: {
    open(): void;
    /** A message of the protocol, as JSON text. */
    message(text: string): void;
    /**
     * The end, or that there was no beginning: a close code of RFC 6455, an HTTP status, where they are known; whether
     * that is the gateway's own last word (`final`); how many ms it wants to be left alone.
     */
    close(why: { code?: number; reason?: string; status?: number; final?: boolean; delay?: number }): void;
  },
  /** The token of this attempt, where the feed has the option. */
  token?: string,
) => Link;

/** The transport over WebSocket. */
export function webSocket(Socket: unknown): Transport;
