"use strict";
/* Charts that say what a mark is, tables that sort and filter, CSV files to save. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);

  /* A mark of a chart says what it is where it is pointed at, and opens its scan. */
  function setUpCharts() {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    document.body.append(tip);
    const hide = () => { tip.hidden = true; };
    document.querySelectorAll(".chart").forEach((chart) => {
      chart.addEventListener("pointerover", (event) => {
        const mark = event.target.closest("[data-tip]");
        if (!mark) return hide();
        tip.textContent = mark.dataset.tip;
        tip.hidden = false;
        /* Beside the pointer, and within the window. */
        tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 4))}px`;
        tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
      });
      chart.addEventListener("pointerleave", hide);
      chart.addEventListener("click", (event) => {
        const mark = event.target.closest("[data-scan-id]");
        if (mark) Viewer.open(mark.dataset.scanId);
      });
    });
    window.addEventListener("scroll", hide, { passive: true });
    document.querySelectorAll(".key").forEach((key) => {
      const runs = () => key.closest(".chart").querySelectorAll(`g[data-run="${key.dataset.run}"]`);
      const apply = () => {
        const shown = key.getAttribute("aria-pressed") === "true";
        runs().forEach((group) => group.classList.toggle("away", !shown));
      };
      key.addEventListener("click", () => {
        /* The two curves of a run come and go together. */
        const shown = key.getAttribute("aria-pressed") !== "true";
        key.parentElement.querySelectorAll(`[data-run="${key.dataset.run}"]`).forEach((other) => other.setAttribute("aria-pressed", String(shown)));
        apply();
      });
      apply();
    });
  }

  function sortBy(header) {
    const table = header.closest("table");
    const column = [...header.parentElement.children].indexOf(header);
    const upward = header.getAttribute("aria-sort") !== "ascending";
    const numeric = header.classList.contains("number");
    for (const other of header.parentElement.children) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const key = (row) => row.children[column].dataset.value;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      /* What is undefined stands last either way. */
      if (left === "" || right === "") return (left === "") - (right === "");
      const order = numeric ? Number(left) - Number(right) : left.localeCompare(right, "en", { numeric: true });
      return upward ? order : -order;
    });
    body.append(...rows);
  }

  function columnOf(table, title) {
    return [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === title);
  }

  function setUpFilters() {
    const table = byId("table-cases");
    const places = Object.fromEntries(["Run", "Scan", "Patient", "Size (mL)", "Dice"].map((title) => [title, columnOf(table, title)]));
    const value = (id) => (byId(id) ? byId(id).value : "");
    const cell = (row, title) => (places[title] < 0 ? "" : row.cells[places[title]].dataset.value);
    const apply = () => {
      const text = value("filter-text").toLowerCase();
      const [run, size, dice] = [value("filter-run"), value("filter-size"), value("filter-dice")];
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const fits =
          `${cell(row, "Scan")} ${cell(row, "Patient")}`.toLowerCase().includes(text) &&
          (!run || cell(row, "Run") === run) &&
          (!size || cell(row, "Size (mL)") === size) &&
          (dice === "" || (cell(row, "Dice") !== "" && Number(cell(row, "Dice")) <= Number(dice)));
        row.classList.toggle("hidden", !fits);
        shown += fits;
      }
      byId("filter-count").textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    };
    for (const id of ["filter-text", "filter-run", "filter-size", "filter-dice"]) if (byId(id)) byId(id).addEventListener("input", apply);
    apply();
    for (const row of table.tBodies[0].rows) {
      const place = row.cells[places.Scan];
      if (!Viewer.has || !Viewer.has(place.dataset.value)) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "open";
      button.title = "Show in the viewer";
      button.textContent = place.textContent;
      button.addEventListener("click", () => Viewer.open(place.dataset.value));
      place.replaceChildren(button);
    }
  }

  function save(key) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([data.csv[key]], { type: "text/csv" }));
    link.download = `${key}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  document.querySelectorAll("table.sortable th button").forEach((button) => {
    button.addEventListener("click", () => sortBy(button.parentElement));
  });
  document.querySelectorAll("[data-csv]").forEach((button) => button.addEventListener("click", () => save(button.dataset.csv)));
  setUpFilters();
  setUpCharts();
  document.documentElement.dataset.ready = "true";
})();
