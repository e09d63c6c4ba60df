for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentNode, body = head.closest("table").tBodies[0], k = head.cellIndex;
  const value = row => {
    const text = row.cells[k].firstChild?.textContent ?? "";
    const number = parseFloat(text.replace("−", "-").replace(/,/g, ""));
    return isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a !== typeof b ? (typeof a === "number" ? -1 : 1)
    : typeof a === "number" ? a - b : a.localeCompare(b);
  const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
  const mean = row => row.cells[0].querySelector("strong") ? 1 : 0; // stays below
  body.append(...[...body.rows].sort((a, b) =>
    mean(a) - mean(b) || down * compare(value(a), value(b))));
};
const mark = () => { for (const one of document.querySelectorAll(".wide"))
  one.classList.toggle("more", one.scrollWidth > one.clientWidth + 1); };
addEventListener("resize", mark);
addEventListener("toggle", mark, true);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(
  one => { one.open = true; }));
mark();
