// The token with which this page connects, where the gateway asks for one. In: what a person typed, and the tab's own storage
// (sessionStorage): it is kept there and nowhere else, so it goes with the tab, and no other tab has it. Out: the token for the
// client library. It is never shown again, and never part of an address.

const KEY = "bugfeed:token:";

/** A token out of what a person typed or pasted; "Bearer " before it is allowed. Errors do not show it. */
export function parseToken(text) {
  const token = text.trim().replace(/^(authorization:\s*)?bearer(\s+|$)/i, "");
  if (token === "") return { token: null, error: "Enter a token, or ask the operator of this gateway for one." };
  if (/[^\w.~-]/.test(token)) return { token: null, error: "That is no token: it has letters, digits, and - . _ ~ only." };
  return { token, error: null };
}

/** Whether an error of the client library is about the token; if so, what the person is told. `had`: there was one. */
export function tokenTrouble({ code, status }, had) {
  if (status === 403) return had ? "The token is not for this feed." : null;
  if (code === 4403) return "The token was taken away. Another one is needed.";
  if (code !== 4401 && status !== 401) return null;
  return had ? "The token was refused, or has expired. Another one is needed." : "Whoever operates it gives them out.";
}

/** How long the gateway may take to answer, in ms. */
const ANSWER_MS = 5_000;

/**
 * What the gateway has against a token; null: nothing, or it does not answer. A browser does not tell what a WebSocket was
 * refused with, so this asks first. `page`: the address of the feed's page.
 */
export async function wordOn(token, page, fetch) {
  try {
    const headers = { authorization: `Bearer ${token}` };
    const options = { headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) };
    const response = await fetch(new URL("changes?bugs=", page), options);
    if (response.status !== 401 && response.status !== 403) return null;
    const { error } = await response.json();
    return typeof error === "string" ? error.replaceAll(token, "…").slice(0, 300) : null;
  } catch {
    return null;
  }
}

/** What a WebSocket offers: browsers let no header be added. */
export const protocolsOf = (token) => (token ? ["bugfeed", `bugfeed.bearer.${token}`] : []);

export class TokenStore {
  #tab;
  #key;
  #token = null;

  /** @param tab may be null, where the browser forbids it: then a reload asks again. `root`: the gateway's place on this site */
  constructor(tab, root) {
    this.#tab = tab;
    this.#key = KEY + root;
    try {
      this.#token = parseToken(tab?.getItem(this.#key) ?? "").token;
    } catch {
      // As if there were none.
    }
  }

  get token() {
    return this.#token;
  }

  /** null: there is none any more. */
  set token(token) {
    this.#token = token;
    try {
      if (token === null) this.#tab?.removeItem(this.#key);
      else this.#tab?.setItem(this.#key, token);
    } catch {
      // Without storage it holds until the page is left.
    }
  }
}
