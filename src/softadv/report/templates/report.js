"use strict";
// Values of a figure: what is pointed at, or, with the figure in focus, what the arrow keys reach.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll(".hit > title")) {
  title.parentNode.dataset.said = title.textContent; // the browser's own tip would cover ours
  title.remove();
}
function show(hit) {
  hide();
  hit.classList.add("on");
  tip.textContent = hit.dataset.said;
  tip.hidden = false;
  place(hit);
}
function place(hit) {
  const box = hit.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(8, Math.min(box.left + box.width / 2 - tip.offsetWidth / 2, room))}px`;
  tip.style.top = `${above > 4 ? above : Math.min(box.bottom + 6, innerHeight - tip.offsetHeight - 4)}px`;
}
function hide() {
  tip.hidden = true;
  document.querySelector(".hit.on")?.classList.remove("on");
}
for (const figure of document.querySelectorAll("svg.figure")) {
  const hits = [...figure.querySelectorAll(".hit")];
  if (!hits.length) continue;
  let at = hits.length - 1;
  hits.forEach((hit, place) => hit.addEventListener("pointerenter", () => show(hits[at = place])));
  figure.addEventListener("pointerleave", hide);
  figure.addEventListener("focus", () => figure.matches(":focus-visible") && show(hits[at]));
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show(hits[at = (at + step + hits.length) % hits.length]);
  });
}
// The focus scrolls a figure into view, and its values go along.
addEventListener("scroll", () => {
  const hit = document.activeElement.querySelector(".hit.on");
  if (hit) place(hit);
  else hide();
}, {passive: true});

// Tables: a click on a header sorts within each setting; a button copies the table.
const plain = (cell) => cell.innerText.replace(/\u00a0/g, " ").trim();
const number = (text) => parseFloat(text.replace("−", "-").replace(/,/g, ""));
function compare(one, other) {
  const [a, b] = [number(one), number(other)];
  if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1;
  return isNaN(a) ? one.localeCompare(other, "en", {numeric: true}) : a - b;
}
function sort(table, column, sign) {
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.matches(".setting"));
    rows.sort((a, b) => sign * compare(plain(a.cells[column] ?? a.cells[0]), plain(b.cells[column] ?? b.cells[0])));
    body.append(...rows);
  }
}
function csv(table) {
  const quoted = (text) => /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  const grouped = table.querySelector(".setting") !== null;
  const lines = [[...(grouped ? ["Setting"] : []), ...[...table.tHead.rows[0].cells].map(plain)]];
  for (const body of table.tBodies) {
    const setting = body.querySelector(".setting b");
    for (const row of body.rows) {
      if (row.matches(".setting")) continue;
      lines.push([...(grouped ? [plain(setting)] : []), ...[...row.cells].map(plain)]);
    }
  }
  return lines.map((line) => line.map((text) => quoted(text.replace(/−/g, "-"))).join(",")).join("\n") + "\n";
}
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page that was not served safely may still ask as of old
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
for (const table of document.querySelectorAll("table.data")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.ariaSort !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.ariaSort = up ? "ascending" : "descending";
      sort(table, column, up ? 1 : -1);
    });
  });
  const button = document.createElement("button");
  button.className = "copy";
  button.textContent = "Copy as CSV";
  button.addEventListener("click", async () => {
    await copy(csv(table));
    button.textContent = "Copied";
    setTimeout(() => button.textContent = "Copy as CSV", 1500);
  });
  table.before(button);
}
