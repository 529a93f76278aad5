import type { Transport } from "./bugfeed.js";

/**
 * One connection for all pages of this origin that watch a feed, of which each hears only of its own bugs: for
 * `transport`, where no other is wanted. Without Web Locks (pages on plain http) a connection cannot be shared: then each
 * page asks every 10 s, every 45 s while nobody looks, and holds none. Pages with different tokens share nothing.
 * @param name for `Bugfeed.transport`
 * @param upstream what the connection is: `eventStream()` or `longPoll()` of `@bugfeed/client/fallback`
 * @param fetch another one than the global one
 */
export function shared(name: string, upstream: Transport, fetch?: typeof globalThis.fetch): Transport;
