// ==UserScript==
// @name         bugfeed for Bugzilla
// @description  Says at once when the open bug has changed, before you lose a comment to it; keeps bug lists current.
// @version      1.0
// @license      MIT OR Apache-2.0
// @match        https://bugs.example.org/show_bug.cgi*
// @match        https://bugs.example.org/process_bug.cgi*
// @match        https://bugs.example.org/buglist.cgi*
// @run-at       document-end
// @grant        none
// ==/UserScript==

// As a userscript: put your Bugzilla above and the two settings below, then install it (Violentmonkey, Tampermonkey).
// As a part of Bugzilla itself: examples/bugzilla. There the settings, and the texts in other languages, are data-
// attributes of the script element, such as data-gateway="/bugfeed/" or data-text-changed="…".

(() => {
  "use strict";

  const settings = {
    /** The gateway. Behind the tracker's own name, no Content-Security-Policy is in the way: see the README. */
    gateway: "http://127.0.0.1:8844/",
    /** The time zone of Bugzilla's server, in which it writes the hidden field delta_ts. */
    timezone: "UTC",
    /** The client library. */
    client: "",
    /** A list is asked for again no more often than this. */
    refreshMs: "10000",
    textChanged: "This bug has changed since this page was loaded.",
    textGap: "This bug may have changed since this page was loaded.",
    textList: "Bugs of this list have changed.",
    textRefreshed: "Bugs that changed and are shown anew: {bugs}",
    textGone: "No longer found by this search",
    textShow: "Show it as it is now",
    textDismiss: "Dismiss",
    textStale: "This bug has changed meanwhile, and your page does not show it. Send your changes all the same?",
    ...document.currentScript?.dataset,
  };
  /** One's own change arrives before the page that shows it, within this time. */
  const SUBMITTING_MS = 15_000;
  /** A list may be this old, in ms, by the reader's clock, when it begins to listen. */
  const LIST_AGE_MS = 60_000;

  /** The moment at which a clock in Bugzilla's time zone showed this. In an hour that is repeated, its first pass. */
  function moment(text) {
    const naive = Date.parse(`${text.trim().replace(" ", "T")}Z`);
    const numeric = { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric" };
    const options = { ...numeric, second: "numeric", hourCycle: "h23", timeZone: settings.timezone };
    const clock = new Intl.DateTimeFormat("en-US", options);
    const shown = (ms) => {
      const at = Object.fromEntries(clock.formatToParts(ms).map(({ type, value }) => [type, value]));
      return Date.UTC(at.year, at.month - 1, at.day, at.hour, at.minute, at.second);
    };
    const [first, second] = [-864e5, 864e5].map((day) => naive - (shown(naive + day) - (naive + day)));
    return shown(second) === naive && shown(first) !== naive ? second : first;
  }

  /** Hears of the bugs' changes, from a moment on where one is given. */
  async function listen(bugs, since, { change, gap }) {
    // With its slash at the end, below which the client library is.
    const gateway = new URL(settings.gateway.replace(/\/*$/, "/"), location.href);
    const { Bugfeed } = await import(settings.client || new URL("client.js", gateway).href);
    const cursor = Number.isFinite(since) ? `since:${new Date(since).toISOString().slice(0, 19)}` : null;
    const feed = new Bugfeed(gateway, { bugs, cursor });
    feed.addEventListener("change", ({ detail }) => change(detail));
    feed.addEventListener("gap", ({ detail }) => gap(detail));
    feed.addEventListener("error", ({ detail }) => console.warn("bugfeed:", detail.message));
  }

  // One place for all that is said: over the page, so that nothing moves; in system colours, dark where the reader's
  // are; there before it has something to say, or screen readers would not read it out.
  const place = document.createElement("div");
  place.id = "bugfeed";
  place.setAttribute("role", "status");
  Object.assign(place.style, {
    position: "fixed",
    insetInline: "0",
    bottom: "1rem",
    width: "fit-content",
    margin: "auto",
    zIndex: "2147483647",
    colorScheme: "light dark",
  });

  function element(name, text, style) {
    const made = document.createElement(name);
    made.textContent = text;
    Object.assign(made.style, style);
    return made;
  }

  function showBanner(text, href) {
    const look = { margin: "0 0 0 1rem", font: "inherit" };
    const link = element("a", settings.textShow, { ...look, color: "LinkText" });
    // A link and no reload: a reload may send a form again, or keep what was in its fields, delta_ts too.
    link.href = href;
    const dismiss = element("button", settings.textDismiss, look);
    dismiss.type = "button";
    dismiss.onclick = hideBanner;
    const banner = element("div", "", {
      padding: "0.75rem 1rem",
      border: "2px solid",
      borderRadius: "0.5rem",
      background: "Canvas",
      color: "CanvasText",
      font: "1rem/1.4 sans-serif",
    });
    banner.append(element("span", text), link, dismiss);
    place.replaceChildren(banner);
  }

  function hideBanner() {
    place.replaceChildren();
  }

  /** For screen readers only: who can see the list sees the rows light up. */
  function announce(text) {
    if (place.querySelector("a")) return;
    place.replaceChildren(element("span", text, { position: "absolute", clipPath: "inset(50%)" }));
  }

  function watchBug(bug, form) {
    const deltaTs = form?.querySelector("input[name=delta_ts]");
    let newest = -Infinity;
    let gap = false;
    let submitted = -Infinity;
    // Read each time: where a page saves without being loaded again, it writes the new date here.
    const shown = () => (deltaTs ? moment(deltaTs.value) : -Infinity);
    const isStale = () => gap || newest > shown();
    const look = () => {
      if (!isStale()) return hideBanner();
      const wait = submitted + SUBMITTING_MS - Date.now();
      if (wait > 0) return setTimeout(look, wait);
      const text = newest > shown() ? settings.textChanged : settings.textGap;
      showBanner(text, new URL(`show_bug.cgi?id=${bug}`, document.baseURI));
    };
    if (deltaTs) {
      new MutationObserver(() => {
        gap = false;
        submitted = -Infinity;
        look();
      }).observe(deltaTs, { attributeFilter: ["value"] });
    }
    // First of all who listen, as pages may send the form in their own way.
    const submit = (event) => {
      if (event.target !== form) return;
      if (isStale() && !confirm(settings.textStale)) {
        event.preventDefault();
        event.stopImmediatePropagation();
      } else {
        submitted = Date.now();
        hideBanner();
      }
    };
    window.addEventListener("submit", submit, true);
    return listen([bug], shown(), {
      change({ when }) {
        newest = Math.max(newest, Date.parse(`${when}Z`));
        look();
      },
      gap() {
        gap = true;
        look();
      },
    });
  }

  const rowsOf = (page) =>
    new Map([...page.querySelectorAll("table.bz_buglist tr.bz_bugitem[id]")].map((row) => [+row.id.slice(1), row]));

  /** Takes over what differs. The checkbox stays as it is, and what has the focus, if it did not change. */
  function replaceRow(row, fresh) {
    if (!fresh) {
      row.title = settings.textGone;
      row.style.opacity = 0.5;
      row.dataset.bugfeed = "gone";
      return;
    }
    if (fresh.cells.length !== row.cells.length) throw new Error("other columns than before");
    const parity = /\bbz_row_(odd|even)\b/;
    row.className = fresh.className.replace(parity, parity.exec(row.className)?.[0] ?? "");
    [...row.cells].forEach((cell, column) => {
      const next = fresh.cells[column];
      if (!cell.classList.contains("bz_checkbox_column") && cell.outerHTML !== next.outerHTML)
        cell.replaceWith(document.importNode(next, true));
    });
    row.removeAttribute("title");
    row.style.opacity = "";
    row.dataset.bugfeed = "changed";
    row.animate({ backgroundColor: ["Mark", "transparent"] }, 3000);
  }

  function watchList(rows) {
    const pending = new Set();
    let timer;
    let last = -Infinity;
    const refresh = async () => {
      timer = undefined;
      last = Date.now();
      const bugs = [...pending];
      pending.clear();
      try {
        const url = new URL(location.href);
        // To Firefox, Bugzilla sends a list in parts unless it is told not to.
        url.searchParams.set("serverpush", "0");
        const answer = await fetch(url, { credentials: "same-origin", cache: "no-store" });
        const found = rowsOf(new DOMParser().parseFromString(await answer.text(), "text/html"));
        // Logged out, or a list that was asked for by POST: its address alone says nothing.
        if (!answer.ok || !found.size) throw new Error(`no list there (${answer.status})`);
        for (const bug of bugs) replaceRow(rows.get(bug), found.get(bug));
        announce(settings.textRefreshed.replace("{bugs}", bugs.slice(0, 10).join(", ")));
      } catch (error) {
        console.warn("bugfeed:", error.message);
        showBanner(settings.textList, location.href);
      }
    };
    // Not all readers of a list at the same moment, and none who does not look.
    const soon = () => {
      if (!pending.size || timer || document.hidden) return;
      timer = setTimeout(refresh, Math.max(200 + Math.random() * 800, last + +settings.refreshMs - Date.now()));
    };
    document.addEventListener("visibilitychange", soon);
    const changed = ({ bugs }) => {
      for (const bug of bugs) pending.add(bug);
      soon();
    };
    return listen([...rows.keys()], performance.timeOrigin - LIST_AGE_MS, { change: changed, gap: changed });
  }

  async function start() {
    const form = document.querySelector("form#changeform, form[name=changeform]");
    const id = form?.querySelector("input[type=hidden][name=id]")?.value;
    const asked = /\/show_bug\.cgi$/.test(location.pathname) && new URLSearchParams(location.search).get("id");
    const bug = /^\d+$/.exec(id ?? (asked || ""))?.[0];
    const rows = rowsOf(document);
    if (!bug && !rows.size) return;
    document.body.append(place);
    await (rows.size ? watchList(rows) : watchBug(+bug, form));
  }
  start().catch((error) => console.warn("bugfeed: not connected:", error.message));
})();
