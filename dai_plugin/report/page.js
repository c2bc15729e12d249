"use strict";
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
for (const label of document.querySelectorAll(".chooser")) {
  const select = label.querySelector("select");
  const show = label.matches(".layers") ? oneLayer : oneOption;
  label.hidden = false;
  select.addEventListener("change", () => show(select));
  show(select);
}

// Numbers before words; what is not known comes last in both directions.
function sort(head) {
  const up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
  const first = head.cellIndex === 0;
  const rising = first ? head.getAttribute("aria-sort") !== "ascending" : up > 0;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const body = head.closest("table").tBodies[0];
  const key = (row) => {
    const cell = row.cells[head.cellIndex];
    const text = cell.textContent;
    const number = first ? Number(text.trim() || NaN) : Number(cell.dataset.key);
    return { number, text };
  };
  const rows = [...body.rows].map((row) => ({ row, ...key(row) }));
  rows.sort((a, b) => {
    const sign = rising ? 1 : -1;
    const unknown = Number.isNaN(a.number) - Number.isNaN(b.number);
    if (unknown) return unknown;
    if (!Number.isNaN(a.number)) return sign * (a.number - b.number);
    return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
  });
  body.append(...rows.map((each) => each.row));
}

function oneOption(select) {
  const options = select.closest(".choice").querySelectorAll(":scope > .option");
  options.forEach((option, i) => {
    option.hidden = select.value !== "all" && select.value !== String(i);
  });
}

function oneLayer(select) {
  for (const row of document.querySelectorAll("[data-row]")) {
    row.hidden = select.value !== "" && row.dataset.row !== select.value;
  }
  for (const line of document.querySelectorAll("svg [data-layer]")) {
    line.classList.toggle("faint", select.value !== "" && line.dataset.layer !== select.value);
  }
}
