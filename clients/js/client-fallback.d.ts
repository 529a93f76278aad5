import type { Transport } from "./bugfeed.js";

/**
 * The transport over SSE, a stream of events that is read with `fetch`. For `transport` in the options of a feed, where
 * no other is wanted.
 * @param fetch another one than the global one
 */
export function eventStream(fetch?: typeof globalThis.fetch): Transport;

/** The transport over long-poll: asks for changes, and is answered when there are some, or after 30 s. */
export function longPoll(fetch?: typeof globalThis.fetch): Transport;

/**
 * What a feed without the option `transport` changes to when two attempts in a row were in vain: a transport that takes
 * turns between `socket`, SSE and long-poll, one at each attempt. In pages, the latter two are shared by all of them.
 * @param socket the transport over WebSocket; one that was made by this function is returned as it is
 * @param proven whether WebSocket has worked before
 */
export function fallback(socket: Transport, proven: boolean, options?: { withCredentials?: boolean }): Transport;
