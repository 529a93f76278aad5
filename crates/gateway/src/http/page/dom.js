// What every part of the page needs of the document. Text only ever becomes textContent.

export const $ = (id) => document.getElementById(id);

export function element(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}

/** Writing the same text again would disturb selections and screen readers. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts a text on the clipboard; pages served without TLS have only the old way. Whether that worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}

/** Calls `draw` once per frame however often it is asked; a hidden tab draws when it is looked at. */
export function perFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
