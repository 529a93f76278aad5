// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * Tokens, for gateways that ask for one. Gets one before each attempt to connect, and another one before it expires while a
 * WebSocket stands. bugfeed.js loads this module where there is the option `token`. It shows no token to anybody.
 */

/** What a subprotocol may hold: that is how it travels with a WebSocket. */
const TOKEN = /^[\w.~-]+$/;
/** One that expires sooner is not renewed, in ms: then the session ends, and another begins. */
const LEAST_MS = 10_000;
/** No timer runs longer, in ms. */
const MOST_MS = 2 ** 31 - 1;

const get = async (source) => {
  const given = await (typeof source === "function" ? source() : source);
  // From a file, with the end of its line.
  const token = given?.trim?.();
  if (TOKEN.test(token ?? "")) return token;
  throw new TypeError("a token is letters, digits, and - . _ ~");
};

const parsed = (json) => {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return {};
  }
};

/** How long the token is good for, in ms by the clock here. No number, if nobody knows. */
const left = (expires) => Date.parse(`${expires}`.replace(/Z?$/, "Z")) - Date.now();

/**
 * Makes the connection, with a token.
 * @param link what is made is added to it; nothing is made once it has `isOver`
 * @param {string | (() => string | Promise<string>)} source
 * @throws what `source` throws
 */
export const connect = async (link, source, transport, url, on) => {
  let token = await get(source);
  if (link.isOver) return;
  let hello; // As the client says it.
  let timer;

  /** In the same session, about a tenth of its time before the token expires. */
  const renewBefore = (expires) => {
    const ms = left(expires);
    clearTimeout(timer);
    if (!(ms > LEAST_MS)) return;
    timer = setTimeout(renew, Math.min(ms * (0.85 + Math.random() / 10), MOST_MS));
    timer.unref?.();
  };
  const renew = async () => {
    try {
      const next = await get(source);
      if (link.isOver) return;
      token = next;
      made.send({ ...hello, token });
    } catch {
      // The session goes on until its token expires; the next one asks again, and tells.
    }
  };

  let made;
  try {
    made = transport(url, {
      open: on.open,
      message: (json) => {
        const { command, expires } = json.includes('"hello"') ? parsed(json) : {};
        // Those that are requests begin anew, which costs the same.
        if (command === "hello" && typeof source === "function" && made.name === "websocket") renewBefore(expires);
        // The client passes over the answer to what it has not asked.
        on.message(json);
      },
      close: ({ reason, ...why }) => on.close({ ...why, reason: reason?.replaceAll(token, "…") }),
    }, token);
  } catch ({ message: reason }) {
    return on.close({ reason, final: true });
  }
  Object.assign(link, {
    name: made.name,
    send: (command) => {
      if (command.command === "hello") hello = command;
      made.send(command);
    },
    close: () => {
      link.isOver = true;
      clearTimeout(timer);
      made.close();
    },
  });
};
