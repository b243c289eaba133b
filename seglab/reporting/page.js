"use strict";
for (const head of document.querySelectorAll("table:not(.plain) thead th")) {
  head.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const order = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");  // undefined goes last, both ways
      const x = Number(key(a)), y = Number(key(b));
      const gap = Number.isNaN(x) || Number.isNaN(y) ? key(b).localeCompare(key(a)) : y - x;
      return down ? gap : -gap;
    };
    body.append(...[...body.rows].sort(order));
  });
}
for (const box of document.querySelectorAll(".filter input")) {
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of box.closest("section").querySelectorAll("table:not(.plain) tbody tr")) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
for (const choice of document.querySelectorAll(".toggle input")) {
  choice.addEventListener("change", () => choice.closest(".gallery").classList.toggle("showp", choice.value === "p"));
}
