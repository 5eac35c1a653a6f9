"use strict";
{
  const $ = (id) => document.getElementById(id);

  // Sorting: a button in each header. Numbers by value, words by the alphabet; what is empty comes last.
  const table = $("linears");
  const body = table.tBodies[0];
  const headers = [...table.querySelectorAll("th[aria-sort]")];
  const collator = new Intl.Collator("en", { numeric: true });
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    const text = cell.textContent.trim(), factors = text.replaceAll(",", "").split("×");  // a shape counts as its weights
    return text !== "" && !factors.some(isNaN) ? factors.reduce((product, one) => product * one, 1) : text;
  };
  const compare = (a, b) => {
    if ((a === "") !== (b === "")) return a === "" ? Infinity : -Infinity;
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
  };
  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => {
      const order = compare(a, b);
      return Number.isFinite(order) && down ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  }));

  // Filter: rows that hold every word.
  const filter = $("filter"), found = $("found");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    let left = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    found.textContent = words.length ? `${left} of ${body.rows.length} linears` : `${left} linears`;
  });

  // What is folded is opened for paper, and folded again after.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

  // A map, large: its own SVG again, with axes in rows and columns of W.
  const dialog = $("zoom"), stage = $("zoom-stage"), readout = $("zoom-tile");
  const maps = [...document.querySelectorAll("button.map")];
  if (dialog && maps.length) {
    const PAD = { left: 52, top: 26, right: 16, bottom: 12 };
    let current = null, zoom = 1, drawn = null;

    const svg = (name, attributes, text) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const key in attributes) one.setAttribute(key, attributes[key]);
      if (text !== undefined) one.textContent = text;
      return one;
    };
    const numbers = (text) => text.split(" ").map(Number);
    const stepOf = (size, pixels) => {
      const least = size / Math.max(pixels / 64, 1);
      const power = 10 ** Math.floor(Math.log10(least));
      return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= least);
    };

    const draw = () => {
      const [rows, columns] = numbers(current.dataset.shape);
      const tallest = parseFloat(getComputedStyle(stage).maxHeight) || innerHeight * 0.64;
      const room = [stage.clientWidth - PAD.left - PAD.right - 20, tallest - PAD.top - PAD.bottom - 20];
      // Long and flat linears fill the room instead of being slivers.
      const fit = Math.min(room[0] / columns, room[1] / rows);
      const width = Math.max(columns * fit, room[0] / 4) * zoom, height = Math.max(rows * fit, room[1] / 4) * zoom;
      const whole = svg("svg", { width: width + PAD.left + PAD.right, height: height + PAD.top + PAD.bottom, role: "img",
        "aria-label": current.getAttribute("aria-label") });
      const map = current.querySelector("svg").cloneNode(true);
      map.removeAttribute("style");
      for (const [key, value] of Object.entries({ x: PAD.left, y: PAD.top, width, height })) map.setAttribute(key, value);
      const ground = svg("rect", { class: "ground", x: PAD.left, y: PAD.top, width, height });
      whole.append(ground, map);
      const [high, wide] = numbers(current.dataset.tile);
      if (Math.min((wide / columns) * width, (high / rows) * height) >= 6) {
        let edges = "";
        for (let k = wide; k < columns; k += wide) edges += `M${PAD.left + (k / columns) * width} ${PAD.top}v${height}`;
        for (let n = high; n < rows; n += high) edges += `M${PAD.left} ${PAD.top + (n / rows) * height}h${width}`;
        whole.append(svg("path", { class: "tiles", d: edges }));
      }
      const across = stepOf(columns, width), down = stepOf(rows, height);
      for (let k = 0; k <= columns; k += across) {
        const x = PAD.left + (k / columns) * width;
        whole.append(svg("line", { class: "tick", x1: x, x2: x, y1: PAD.top - 5, y2: PAD.top }),
          svg("text", { x, y: PAD.top - 9, "text-anchor": "middle" }, k));
      }
      for (let n = 0; n <= rows; n += down) {
        const y = PAD.top + (n / rows) * height;
        whole.append(svg("line", { class: "tick", x1: PAD.left - 5, x2: PAD.left, y1: y, y2: y }),
          svg("text", { x: PAD.left - 9, y: y + 4, "text-anchor": "end" }, n));
      }
      stage.replaceChildren(whole);
      drawn = { map, ground, rows, columns };
      readout.textContent = "Rows of W downwards (outputs), columns across (inputs). Point at a tile.";
    };

    const zoomTo = (factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
      const before = zoom;
      zoom = Math.min(32, Math.max(1, zoom * factor));
      if (zoom === before) return;
      const grown = zoom / before;
      const left = (stage.scrollLeft + x - PAD.left) * grown, top = (stage.scrollTop + y - PAD.top) * grown;
      draw();
      stage.scrollTo(left + PAD.left - x, top + PAD.top - y);
    };

    const show = (map) => {
      current = map;
      zoom = 1;
      const about = map.getAttribute("aria-label");
      $("zoom-name").textContent = map.dataset.name;
      $("zoom-about").textContent = about.slice(map.dataset.name.length + 2);
      if (!dialog.open) dialog.showModal();
      draw();
      stage.scrollTo(0, 0);
    };

    const tileAt = (event) => {
      const box = drawn.ground.getBoundingClientRect();  // the box of the map itself is that of its path
      const k = Math.floor(((event.clientX - box.left) / box.width) * drawn.columns);
      const n = Math.floor(((event.clientY - box.top) / box.height) * drawn.rows);
      if (k < 0 || n < 0 || k >= drawn.columns || n >= drawn.rows) return "";
      const [height, width] = numbers(current.dataset.tile).map((size, i) => Math.min(size, [drawn.rows, drawn.columns][i]));
      const row = Math.floor(n / height), column = Math.floor(k / width);
      const middle = new DOMPoint(column + 0.25, row + 0.25);
      const path = [...drawn.map.querySelectorAll("path")].find((one) => one.isPointInFill(middle));
      const to = (i, size, end) => `${i * size}–${Math.min((i + 1) * size, end) - 1}`;
      return `rows ${to(row, height, drawn.rows)}, columns ${to(column, width, drawn.columns)}: ${path ? path.dataset.kind : "dense"}`;
    };

    const step = (by) => show(maps[(maps.indexOf(current) + by + maps.length) % maps.length]);
    for (const map of maps) map.addEventListener("click", () => show(map));
    stage.addEventListener("pointermove", (event) => { readout.textContent = tileAt(event) || readout.textContent; });
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      zoomTo(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    dialog.addEventListener("click", (event) => {
      const { zoom: how, step: by } = event.target.dataset;
      if (how === "in") zoomTo(1.5);
      else if (how === "out") zoomTo(1 / 1.5);
      else if (how === "fit") show(current);
      else if (by) step(Number(by));
      else if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "+" || event.key === "=") zoomTo(1.5);
      else if (event.key === "-") zoomTo(1 / 1.5);
      else if (event.key === "0") show(current);
      else if (event.key === "n") step(1);
      else if (event.key === "p") step(-1);
      else return;
      event.preventDefault();
    });
    dialog.addEventListener("close", () => current && current.focus());
    addEventListener("resize", () => dialog.open && draw());
  }
}
