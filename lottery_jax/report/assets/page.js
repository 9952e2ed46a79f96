"use strict";
// Shows the data of the page. All of it becomes text (textContent), never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const WINNING = "winning", DENSE = 0;
  const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#a0522d", "#7f8794"];
  const DASHES = [[6, 4], [2, 3]];
  const LEVELS = [[253, 180, 47], [229, 92, 48], [186, 54, 85], [120, 60, 160], [50, 110, 190]];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const several = data.runs.length > 1;
  const metrics = [...new Set(data.runs.map((r) => `test ${r.metric}${r.share ? ", %" : ""}`))];
  const QUANTITIES = { metric: metrics.join(" / "), test_loss: "test loss", train_loss: "training loss" };
  const OVER = { left: "weights left, %", spent: "epochs to find and train the ticket, from nothing" };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const unique = (list) => [...new Set(list)];
  const label = (control) => data.labels[control] ?? control;
  const number = (n) => (n == null ? "–" : String(Number(n.toPrecision(5))));

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    if (text != null) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function options(select, pairs) {
    for (const [value, text] of pairs) element("option", text, select).value = value;
  }

  // Each trial, or means over seeds with their sample standard deviation.
  function view() {
    const run = at("run").value, seed = at("seed").value, control = at("control").value;
    const found = data.trials.filter((t) => (run === "all" || t.run === +run)
      && (seed === "mean" || seed === "all" || t.seed === +seed)
      && (control === "all" || t.control === control || (t.level === DENSE && t.control === WINNING)));
    if (seed !== "mean") return found;
    const groups = new Map();
    for (const t of found) {
      const key = JSON.stringify([t.run, t.level, t.control]);
      groups.set(key, [...(groups.get(key) ?? []), t]);
    }
    return [...groups.values()].map((group) => {
      const mean = { ...group[0], seed: null, count: group.length, card: null, curve: null };
      for (const name of ["left", "metric", "test_loss", "train_loss", "epochs", "seconds"]) {
        const values = group.map((t) => t[name]).filter((n) => n != null);
        mean[name] = values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
        const squares = values.reduce((sum, n) => sum + (n - mean[name]) ** 2, 0);
        mean[`sd_${name}`] = values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null;
      }
      return mean;
    });
  }

  // ---- figures ----
  // 1, 2 and 5 times powers of ten; evenly spaced numbers where the range has few of those.
  function ticks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const n of [1, 2, 5]) found.push(Number(`${n}e${power}`));
    const inside = found.filter((n) => n >= low * 0.999 && n <= high * 1.001);
    return inside.length > 2 ? inside : [0, 1, 2, 3, 4].map((i) => Number((low + (i * (high - low)) / 4).toPrecision(3)));
  }

  function scale(log, reversed) {
    const range = (u, low, high) => {
      if (low == null) return [1, 10];
      if (log) return [low / 1.04, high * 1.04];
      const margin = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - margin, high + margin];
    };
    return { time: false, distr: log ? 3 : 1, dir: reversed ? -1 : 1, range };
  }

  function axis(text, log, more) {
    const line = { stroke: () => colour("--line"), width: 1 };
    const made = { label: text, stroke: () => colour("--text"), grid: line, ticks: line, values: (u, all) => all.map(number), ...more };
    return log ? { ...made, splits: (u, i, low, high) => ticks(low, high), filter: (u, all) => all } : made;
  }

  const charts = {};

  // Lines have a name, a colour and points [x, y, sd]; they may have a `dash`, be hidden, or have a level `dense`.
  function draw(id, lines, { x, y, logx, logy, reversed }) {
    const place = at(id);
    const hidden = charts[id] ? new Set(charts[id].series.slice(1).filter((s) => !s.show).map((s) => s.label)) : null;
    charts[id]?.destroy();
    place.textContent = "";
    delete charts[id];
    const usable = (n, log) => n != null && (!log || n > 0);
    const points = lines.map((l) => new Map(l.points.filter((p) => usable(p[0], logx) && usable(p[1], logy)).map((p) => [p[0], p])));
    const xs = unique(points.flatMap((p) => [...p.keys()])).sort((a, b) => a - b);
    if (!xs.length) return void element("p", "Nothing was recorded for this choice.", place);
    const column = (p, i) => xs.map((n) => p.get(n)?.[i] ?? null);
    const spreads = points.map((p) => column(p, 2));
    const extras = (u) => {
      const pen = u.ctx;
      pen.save();
      pen.beginPath();
      pen.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      pen.clip();
      lines.forEach((line, i) => {
        if (!u.series[i + 1].show) return;
        pen.strokeStyle = line.colour;
        pen.lineWidth = devicePixelRatio;
        pen.beginPath();
        spreads[i].forEach((sd, j) => {
          const mean = u.data[i + 1][j];
          if (sd == null || mean == null || (logy && mean <= sd)) return;
          const across = u.valToPos(xs[j], "x", true);
          pen.moveTo(across, u.valToPos(mean - sd, "y", true));
          pen.lineTo(across, u.valToPos(mean + sd, "y", true));
        });
        pen.stroke();
        if (!usable(line.dense, logy)) return;
        pen.setLineDash([2, 4]);
        pen.beginPath();
        const height = u.valToPos(line.dense, "y", true);
        pen.moveTo(u.bbox.left, height);
        pen.lineTo(u.bbox.left + u.bbox.width, height);
        pen.stroke();
        pen.setLineDash([]);
      });
      pen.restore();
    };
    const size = () => ({ width: Math.max(place.clientWidth - 8, 200), height: place.clientWidth < 600 ? 280 : 380 });
    const series = lines.map((line) => ({
      label: line.name, stroke: line.colour, width: 2, dash: line.dash, spanGaps: true,
      show: hidden?.size && !hidden.has(line.name) ? true : hidden?.has(line.name) ? false : !line.hidden,
      points: { show: line.points.length < 60, size: 6 }, value: (u, n) => number(n),
    }));
    const chart = new uPlot({
      ...size(), series: [{ label: x, value: (u, n) => number(n) }, ...series],
      scales: { x: scale(logx, reversed), y: scale(logy) },
      axes: [axis(x, logx), axis(y, logy, { size: 58 })],
      focus: { alpha: 0.35 }, cursor: { focus: { prox: 20 } }, hooks: { draw: [extras] },
    }, [xs, ...points.map((p) => column(p, 1))], place);
    charts[id] = chart;
    for (const name of place.querySelectorAll(".u-series th")) {
      name.tabIndex = 0;
      name.addEventListener("keydown", (event) => event.key === "Enter" && name.click());
    }
    chart.fit = () => size().width !== chart.width && chart.setSize(size());
  }

  function drawCurve(rows) {
    const groups = new Map();
    for (const t of rows) {
      const key = JSON.stringify([t.run, t.control, t.seed]);
      groups.set(key, [...(groups.get(key) ?? []), t]);
    }
    const quantity = at("quantity").value, control = at("control").value, over = at("over").value;
    const controls = unique(data.trials.map((t) => t.control));
    const severalSeeds = unique(rows.map((t) => t.seed)).length > 1;
    const lines = [...groups.values()].filter((g) => control === "all" || g[0].control === control).map((group) => {
      const [first] = group;
      const names = [several && data.runs[first.run].name, (control === "all" || !several) && label(first.control), severalSeeds && `seed ${first.seed}`];
      return {
        name: names.filter(Boolean).join(", "),
        colour: PALETTE[(several ? first.run : controls.indexOf(first.control)) % PALETTE.length],
        dash: first.control === WINNING ? undefined : several ? [6, 4] : DASHES[Math.floor(controls.indexOf(first.control) / PALETTE.length) % DASHES.length],
        points: group.map((t) => [t[over], t[quantity], t[`sd_${quantity}`]]),
        dense: first.control === WINNING ? group.find((t) => t.level === DENSE)?.[quantity] : null,
      };
    });
    at("bars").textContent = at("seed").value === "mean" ? "Bars: one standard deviation over seeds. Dotted: the dense network." : "Dotted: the dense network.";
    draw("curve", lines.filter((l) => l.points.some((p) => p[0] != null)), { x: OVER[over], y: QUANTITIES[quantity], logx: at("logx").checked, logy: at("logy").checked, reversed: over === "left" });
  }

  // Some of many series are shown at first: evenly chosen, with the first and the last one.
  const isHidden = (i, last) => last > 7 && ![0, 1, 2, 3].some((n) => Math.round((n * last) / 3) === i);
  const gradient = (i, last) => {
    const place = (last ? i / last : 0) * (LEVELS.length - 1), low = Math.min(Math.floor(place), LEVELS.length - 2);
    return `rgb(${LEVELS[low].map((n, c) => Math.round(n + (place - low) * (LEVELS[low + 1][c] - n)))})`;
  };

  function drawTraining() {
    const run = +at("training-run").value, seed = +at("training-seed").value;
    const control = at("training-control").value, quantity = at("training-quantity").value;
    const trials = data.trials.filter((t) => t.run === run && t.seed === seed
      && (t.control === control || (t.level === DENSE && t.control === WINNING)));
    const trained = trials.filter((t) => t.curve), last = trained.length - 1;
    const lines = trained.map((t, i) => ({
      name: `level ${t.level} (${number(t.left)} %)`, colour: gradient(i, last), hidden: isHidden(i, last),
      points: t.curve.step.map((step, j) => [step, t.curve[quantity][j], null]),
    }));
    draw("training", lines, { x: "step", y: QUANTITIES[quantity], logx: at("training-logx").checked, logy: at("training-logy").checked });
    const tickets = trials.filter((t) => t.layers), names = unique(tickets.flatMap((t) => Object.keys(t.layers)));
    const layers = names.map((name, i) => ({
      name: data.texts[name], colour: gradient(i, names.length - 1), hidden: isHidden(i, names.length - 1),
      points: tickets.filter((t) => t.layers[name]?.[1]).map((t) => [t.left, (100 * t.layers[name][0]) / t.layers[name][1], null]),
    }));
    draw("layers", layers, { x: OVER.left, y: "weights left in the layer, %", logx: true, logy: true, reversed: true });
  }

  // ---- the table ----
  const digits = data.runs[0].share ? 2 : 4;
  const fixed = (n, places) => (n == null ? "–" : n.toFixed(places));
  const NAMES = ["run", "control"];
  const COLUMNS = [
    ...(several ? [["run", "run", (t) => data.runs[t.run].name]] : []),
    ["seed", "seed", (t) => t.seed ?? `mean of ${t.count}`], ["level", "level"], ["control", "control", (t) => label(t.control)],
    ["left", "left, %", (t) => fixed(t.left, 2)],
    ["metric", QUANTITIES.metric, (t) => fixed(t.metric, digits)], ["sd_metric", "±", (t) => (t.sd_metric == null ? "" : fixed(t.sd_metric, digits))],
    ["test_loss", "test loss", (t) => fixed(t.test_loss, 4)], ["train_loss", "training loss", (t) => fixed(t.train_loss, 4)],
    ["epochs", "epochs"], ["seconds", "seconds", (t) => fixed(t.seconds, 1)],
  ];
  const order = { key: null, down: false };

  function fillTable(rows) {
    const sorted = [...rows];
    if (order.key) {
      const text = order.key === "control" ? (t) => label(t.control) : (t) => t[order.key];
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
      sorted.sort((a, b) => {
        const [left, right] = [text(a), text(b)];
        if (left == null || right == null) return (left == null) - (right == null);
        return order.down ? compare(right, left) : compare(left, right);
      });
    }
    const body = document.createElement("tbody");
    for (const t of sorted) {
      const line = element("tr", null, body);
      for (const [key, , show] of COLUMNS) {
        const cell = element("td", show ? show(t) : number(t[key]), line);
        if (NAMES.includes(key)) cell.className = "name";
      }
      const last = element("td", null, line);
      if (!t.card) continue;
      element("a", "open", last).href = t.url;
      last.append(" ");
      element("button", "card", last).addEventListener("click", () => openCard(t));
    }
    at("trials").tBodies[0].replaceWith(body);
    for (const head of at("trials").tHead.rows[0].cells)
      head.ariaSort = head.dataset.key === order.key ? (order.down ? "descending" : "ascending") : "none";
  }

  function openCard(t) {
    const card = at("card"), facts = card.querySelector("dl"), body = card.querySelector("tbody");
    card.querySelector("h2").textContent = `Seed ${t.seed}, level ${t.level}, ${label(t.control)}`;
    card.querySelector("a").href = t.url;
    card.querySelector("pre").textContent = `python -m lottery_jax.tickets show '${t.path.replaceAll("'", "'\\''")}'`;
    facts.textContent = body.textContent = "";
    for (const [name, text] of Object.entries(t.card)) {
      const pair = element("div", null, facts);
      element("dt", name.replaceAll("_", " "), pair);
      element("dd", data.texts[text], pair);
    }
    for (const [name, [left, all]] of Object.entries(t.layers)) {
      const line = element("tr", null, body);
      for (const text of [data.texts[name], left, all, all ? number((100 * left) / all) : "–"]) element("td", text, line);
    }
    card.showModal();
  }

  // ---- start ----
  function update() {
    const rows = view();
    drawCurve(rows);
    fillTable(rows);
  }

  const seeds = unique(data.trials.map((t) => t.seed)).sort((a, b) => a - b).map((s) => [s, s]);
  const controls = unique(data.trials.map((t) => t.control)).map((c) => [c, label(c)]);
  const runs = data.runs.map((r, i) => [i, r.name]);
  options(at("run"), [["all", "all"], ...runs]);
  options(at("seed"), seeds.length > 1 ? [["mean", "mean over seeds"], ["all", "each"], ...seeds] : seeds);
  options(at("control"), [["all", "all"], ...controls]);
  options(at("quantity"), Object.entries(QUANTITIES));
  options(at("over"), Object.entries(OVER).filter(([key]) => data.trials.some((t) => t[key] != null)));
  if (several) at("control").value = WINNING;
  options(at("training-run"), runs);
  options(at("training-seed"), seeds);
  options(at("training-control"), controls);
  options(at("training-quantity"), [["train_loss", QUANTITIES.train_loss], ["test_loss", QUANTITIES.test_loss], ["metric", QUANTITIES.metric]]);
  at("pick-run").hidden = at("pick-training-run").hidden = !several;
  at("thinned").textContent = `Each curve has at most ${data.most} of its steps, evenly chosen; metrics.jsonl has all of them.`;
  const head = at("trials").tHead.rows[0];
  for (const [key, text] of COLUMNS) {
    const cell = element("th", null, head);
    cell.dataset.key = key;
    if (NAMES.includes(key)) cell.className = "name";
    element("button", text, cell).addEventListener("click", () => {
      order.down = order.key === key ? !order.down : false;
      order.key = key;
      update();
    });
  }
  element("th", "ticket", head);
  at("close").addEventListener("click", () => at("card").close());
  at("filters").addEventListener("change", update);
  at("training-filters").addEventListener("change", drawTraining);
  addEventListener("resize", () => requestAnimationFrame(() => Object.values(charts).forEach((chart) => chart.fit())));
  dark.addEventListener("change", () => (update(), drawTraining()));
  update();
  drawTraining();
})();
