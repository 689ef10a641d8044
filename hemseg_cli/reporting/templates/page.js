"use strict";
/* Charts that follow the page's colours, tables that sort and filter, CSV files to save. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function resolved(value, style) {
    if (typeof value === "string") {
      const name = value.match(/^var\((--[a-z0-9-]+)\)$/);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((entry) => resolved(entry, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, resolved(entry, style)]));
    }
    return value;
  }

  function axis(own) {
    const title = { standoff: 8, ...(own && own.title) };
    return { gridcolor: "var(--grid)", linecolor: "var(--line)", zerolinecolor: "var(--line)", automargin: true, ...own, title };
  }

  function drawChart(figure) {
    const place = byId(`plot-${figure.key}`);
    if (!place) return;
    const style = getComputedStyle(document.documentElement);
    const layout = {
      ...figure.layout,
      height: figure.height,
      margin: { l: 52, r: 14, t: figure.layout.showlegend ? 36 : 10, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--text)" },
      hoverlabel: { bgcolor: "var(--panel)", bordercolor: "var(--line)", font: { color: "var(--text)" }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--text)" },
      dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
    };
    const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };
    const first = !place.classList.contains("js-plotly-plot");
    Plotly.react(place, resolved(figure.data, style), resolved(layout, style), config);
    if (!first) Plotly.Plots.resize(place);
    if (first) {
      place.on("plotly_click", (event) => {
        const scan = event.points.length ? event.points[0].customdata : undefined;
        if (typeof scan === "string") Viewer.open(scan);
      });
    }
  }

  /* A chart is drawn when it comes near the screen, and all of them before printing. */
  const seen = new Set();
  function drawSeen() {
    data.figures.filter((figure) => seen.has(figure.key)).forEach(drawChart);
    if (Viewer.redraw) Viewer.redraw();
  }
  function beforePrint() {
    /* Chromium lays out the paper after this event: draw at the paper's width. */
    document.documentElement.classList.add("printing");
    data.figures.forEach((figure) => seen.add(figure.key));
    drawSeen();
  }
  function afterPrint() {
    document.documentElement.classList.remove("printing");
    drawSeen();
  }
  function watchCharts() {
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        watcher.unobserve(entry.target);
        const figure = data.figures.find((one) => `plot-${one.key}` === entry.target.id);
        if (figure && !seen.has(figure.key)) {
          seen.add(figure.key);
          drawChart(figure);
        }
      }
    }, { rootMargin: "400px" });
    for (const figure of data.figures) {
      const place = byId(`plot-${figure.key}`);
      if (!place) continue;
      place.style.height = `${figure.height}px`;
      watcher.observe(place);
    }
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
  watchCharts();
  dark.addEventListener("change", drawSeen);
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
  document.documentElement.dataset.ready = "true";
})();
