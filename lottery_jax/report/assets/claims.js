"use strict";
// Sorts and filters the table of claims.
(() => {
  const table = document.getElementById("claims"), body = table.tBodies[0], outcome = document.getElementById("outcome");
  const rows = [...body.rows];
  for (const text of ["all", ...new Set(rows.map((row) => row.dataset.outcome))]) {
    const option = document.createElement("option");
    option.value = option.textContent = text;
    outcome.append(option);
  }
  outcome.addEventListener("change", () => {
    for (const row of rows) row.hidden = outcome.value !== "all" && row.dataset.outcome !== outcome.value;
  });
  [...table.tHead.rows[0].cells].forEach((head, i, heads) => {
    head.firstChild.addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = down ? "descending" : "ascending";
      const number = (row) => (row.cells[i].dataset.value === "nan" ? Infinity : Number(row.cells[i].dataset.value));
      const compare = rows[0]?.cells[i].dataset.value == null
        ? (a, b) => a.cells[i].textContent.localeCompare(b.cells[i].textContent, "en", { numeric: true })
        : (a, b) => number(a) - number(b) || 0;
      body.append(...[...rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
    });
  });
})();
