// What can be seen of the page while another tab is in front: its title and its icon. In: the state of the connection,
// and what has come that nobody has looked at. The pure parts are tested by themselves.

import { $ } from "./dom.js";

const WORDS = { paused: "Paused", waiting: "Disconnected", closed: "Stopped" };
const GROUNDS = { open: "#2f5bd8", paused: "#a15c00", connecting: "#6b7585", waiting: "#6b7585", closed: "#6b7585" };

/** `(3) Gap · Paused · bugfeed`: the count first, because tabs are narrow. */
export function titleOf(title, { state, unseen, gap }) {
  const parts = [gap ? "Gap" : null, WORDS[state], title].filter(Boolean).join(" · ");
  return unseen > 0 ? `(${unseen}) ${parts}` : parts;
}

/** The logo on the colour of the state; struck through without a connection; with a mark for what nobody has seen. */
export function iconOf({ state, unseen, gap }) {
  const waves = "<path d='M9 16a7 7 0 0 1 7 7M9 9a14 14 0 0 1 14 14'/>";
  const bars = "<path d='M11 9v14M21 9v14'/>";
  const strike = "<path d='M7 7l18 18'/>";
  const lines = state === "paused" ? bars : waves + (state === "waiting" || state === "closed" ? strike : "");
  const dot = state === "paused" ? "" : "<circle cx='10' cy='22' r='2.6' fill='#fff'/>";
  const badge = gap || unseen > 0 ? `<circle cx='25' cy='7' r='7' fill='${gap ? "#ffb400" : "#e5383b"}'/>` : "";
  const call = gap ? "<path d='M25 3v5M25 10.5v.5' stroke='#000' stroke-width='2.4'/>" : "";
  const ground = `<rect width='32' height='32' rx='8' fill='${GROUNDS[state]}'/>`;
  const stroke = "<g fill='none' stroke='#fff' stroke-width='3' stroke-linecap='round'>";
  const svg = `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'>${ground}${stroke}${lines}</g>${dot}${badge}${call}</svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

export class Sign {
  #title;
  #shown = "";
  #state = "connecting";
  #unseen = 0;
  #gap = false;

  constructor(title) {
    this.#title = title;
    this.#show();
  }

  became(state) {
    this.#state = state;
    this.#show();
  }

  /** Something has come. A gap stays marked until somebody does something here, also where the page was in front. */
  arrived({ kind }) {
    if (document.hidden) this.#unseen += 1;
    if (kind === "gap") this.#gap = true;
    this.#show();
  }

  /** Somebody looks. */
  looked() {
    this.#unseen = 0;
    this.#gap = false;
    this.#show();
  }

  #show() {
    const at = { state: this.#state, unseen: this.#unseen, gap: this.#gap };
    document.title = titleOf(this.#title, at);
    const icon = iconOf(at);
    // Browsers draw it anew each time, whether or not it is the same.
    if (icon !== this.#shown) $("icon").href = icon;
    this.#shown = icon;
  }
}
