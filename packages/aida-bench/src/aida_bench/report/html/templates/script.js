"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const css = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const colourOf = (optimizer) => css(`c${optimizer.colour % 8}`);
  const dashOf = (optimizer) => DASHES[Math.floor(optimizer.colour / 8) % DASHES.length];
  const phone = () => window.innerWidth < 640;
  const say = (text) => { document.getElementById("status").textContent = text; };

  function faded(hex, alpha) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  }

  // A layer's colour: its place between the stops of the ramp, from the first layer to the last.
  function rampColour(place) {
    const stops = css("ramp").split(/\s+/);
    const at = place * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    const mix = (k) => Math.round(part(stops[i], k) + (at - i) * (part(stops[i + 1], k) - part(stops[i], k)));
    return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
  }

  const axis = (more) => ({
    gridcolor: css("grid"), linecolor: css("line"), zerolinecolor: css("line"), zeroline: false,
    automargin: true, fixedrange: false, tickfont: { size: 11 }, ...more,
  });

  // Whole epochs or steps, about `count` of them.
  function timeAxis(times, count) {
    const last = times.reduce((most, each) => Math.max(most, each), 1), rough = last / count, power = 10 ** Math.floor(Math.log10(rough));
    const dtick = Math.max(1, [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= rough));
    return { tick0: 0, dtick, tickformat: "d" };
  }

  function draw(element, traces, layout) {
    const touch = matchMedia("(pointer: coarse)").matches;
    const config = {
      responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: element.dataset.chart || "panel" },
    };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("soft") },
      margin: { l: 8, r: 12, t: 8, b: 36 }, hovermode: "closest", dragmode: touch ? false : "zoom",
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink"), size: 12 } },
    };
    return Plotly.react(element, traces, { ...base, ...layout }, config);
  }

  // One dot per seed; behind the dots the mean and one standard deviation.
  function drawScores(element, data, state) {
    const rows = data.optimizers.map((optimizer) => ({ optimizer, score: optimizer.scores[state.kind] }));
    const traces = [];
    rows.forEach(({ optimizer, score }, i) => {
      const colour = colourOf(optimizer);
      if (score.mean === null) return;
      const std = score.std === null ? 0 : score.std;
      traces.push({
        type: "scatter", mode: "lines", x: [score.mean - std, score.mean + std], y: [i, i],
        line: { color: faded(colour, 0.28), width: 12 }, hoverinfo: "skip",
      }, {
        type: "scatter", mode: "markers", x: [score.mean], y: [i], name: optimizer.name,
        marker: { symbol: "line-ns", size: 16, line: { color: colour, width: 3 } },
        hovertemplate: `${optimizer.name}<br>mean ${score.text}<extra></extra>`,
      }, {
        type: "scatter", mode: "markers", x: score.values, y: score.aside.map((aside) => i + aside), meta: "seeds",
        customdata: score.seeds.map((seed, k) => [seed, score.shown[k]]),
        marker: { color: colour, size: 8, line: { color: css("card"), width: 1 }, opacity: optimizer.provisional ? 0.35 : 0.9 },
        hovertemplate: `${optimizer.name}, seed %{customdata[0]}<br>%{customdata[1]}<extra></extra>`,
      });
    });
    const lost = rows.flatMap(({ optimizer, score }, i) => score.mean === null
      ? [{ xref: "paper", x: 0.02, y: i, xanchor: "left", showarrow: false, text: optimizer.scores[state.kind].text, font: { color: css(optimizer.diverged ? "bad" : "warn") } }]
      : []);
    return drawRows(element, traces, data, { annotations: lost, xaxis: axis({ title: { text: data.scored } }) });
  }

  function drawDifferences(element, data, state) {
    const traces = [];
    data.optimizers.forEach((optimizer, i) => {
      const found = optimizer.scores[state.kind][state.rival];
      if (!found) return;
      const sure = found.sign !== "", colour = css({ better: "good", worse: "bad" }[found.sign] || "soft");
      if (found.low !== null) {
        traces.push({ type: "scatter", mode: "lines", x: [found.low, found.high], y: [i, i], line: { color: colour, width: 3 }, hoverinfo: "skip" });
      }
      traces.push({
        type: "scatter", mode: "markers", x: [found.mean], y: [i],
        marker: { color: sure ? colour : css("card"), size: 10, line: { color: colour, width: 2 } },
        hovertemplate: `${optimizer.name} − ${found.rival}<br>${found.text}<extra></extra>`,
      });
    });
    const zero = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("soft"), width: 1, dash: "dot" } };
    const bounds = [0, ...traces.flatMap((trace) => trace.x)];
    const low = Math.min(...bounds), high = Math.max(...bounds), margin = 0.06 * (high - low) || 1;
    const none = { xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, text: "nothing to compare yet" };
    return drawRows(element, traces, data, {
      shapes: [zero], annotations: traces.length ? [] : [none],
      xaxis: axis({ title: { text: data.higher ? "better →" : "← better" }, range: [low - margin, high + margin] }),
    });
  }

  function drawRows(element, traces, data, layout) {
    const names = data.optimizers.map((optimizer) => optimizer.name);
    element.style.height = `${64 + 27 * names.length}px`;
    return draw(element, traces, {
      ...layout, margin: { l: 8, r: 12, t: 4, b: 44 },
      yaxis: axis({
        tickvals: names.map((_, i) => i), ticktext: names, range: [names.length - 0.4, -0.6],
        tickfont: { size: 12, color: css("ink") }, showgrid: false, fixedrange: true,
      }),
    });
  }

  function drawCurves(element, data, state) {
    const traces = [], settled = [];
    const epochs = data.optimizers.flatMap((each) => each.curves[state.key].epoch);
    const key = data.keys.find((each) => each.key === state.key);
    for (const optimizer of data.optimizers.filter((each) => !state.off.has(each.name))) {
      const colour = colourOf(optimizer), curve = optimizer.curves[state.key], x = curve[state.x];
      const line = { color: colour, width: 2.2, dash: dashOf(optimizer) };
      if (state.bands && curve.std.some((std) => std > 0)) {
        const low = curve.mean.map((mean, i) => mean - curve.std[i]);
        const high = curve.mean.map((mean, i) => mean + curve.std[i]);
        traces.push({
          type: "scatter", mode: "lines", x: [...x, ...[...x].reverse()], y: [...high, ...low.reverse()], fill: "toself",
          fillcolor: faded(colour, 0.14), line: { width: 0 }, hoverinfo: "skip", meta: "band",
        });
      }
      for (const run of optimizer.runs) {
        const y = run.values[state.key], diverged = run.status === "diverged";
        if (!run.epoch.length || (!state.seeds && !diverged)) continue;
        traces.push({
          type: "scatter", mode: "lines", x: run[state.x], y, meta: "run", line: { ...line, width: 1 }, opacity: 0.55,
          hovertemplate: `${optimizer.name}, seed ${run.seed}<br>%{y:.5~g}<extra></extra>`,
        });
        if (diverged) {
          traces.push({
            type: "scatter", mode: "markers", x: run[state.x].slice(-1), y: y.slice(-1), marker: { symbol: "x", size: 10, color: css("bad") },
            hovertemplate: `${optimizer.name}, seed ${run.seed} diverged after this<extra></extra>`,
          });
        }
      }
      traces.push({
        type: "scatter", mode: curve.epoch.length < 2 ? "markers" : "lines", x, y: curve.mean, line, name: optimizer.name, meta: "mean",
        marker: { color: colour }, hovertemplate: `${optimizer.name}<br>%{x:.5~g}: %{y:.5~g}<extra></extra>`,
      });
      settled.push(...curve.mean.slice(Math.floor(curve.mean.length / 4)));
    }
    const yaxis = { title: { text: key ? key.label : "" }, type: state.log ? "log" : "linear" };
    // The first epochs, where all are bad, would hide the differences at the end.
    if (!state.log && settled.length) {
      const low = Math.min(...settled), high = Math.max(...settled), margin = 0.12 * (high - low) || Math.abs(high) * 0.05 || 1;
      yaxis.range = [low - margin, high + margin];
    }
    return draw(element, traces, {
      xaxis: axis({ title: { text: state.x === "epoch" ? "epoch" : "wall seconds" }, ...(state.x === "epoch" ? timeAxis(epochs, phone() ? 5 : 10) : {}) }),
      yaxis: axis(yaxis), margin: { l: 8, r: 12, t: 10, b: 44 }, hovermode: phone() ? "closest" : "x",
    });
  }

  const lastLayer = (data) => Math.max(1, ...data.optimizers.flatMap((each) => each.layers.map((layer) => layer.layer)));
  const layerColour = (data, layer) => rampColour(lastLayer(data) > 1 ? (layer.layer - 1) / (lastLayer(data) - 1) : 0);

  const layerLine = (data, layer, y, name) => ({
    type: "scatter", mode: layer.time.length < 2 ? "markers" : "lines", x: layer.time, y,
    line: { color: layerColour(data, layer), width: 1.8 }, marker: { color: layerColour(data, layer) },
    hovertemplate: `layer ${layer.layer} ${layer.parameter}<br>${data.time} %{x}: ${name} %{y:.4~g}<extra></extra>`,
  });

  // The paper's form: the means above, the deviations below; panels with one cap share their scales.
  function drawStepsizes(element, data, optimizer) {
    const traces = [];
    for (const layer of optimizer.layers) {
      for (const [measure, yaxis] of [["mean", "y"], ["std", "y2"]]) {
        traces.push({ ...layerLine(data, layer, layer[measure], measure), yaxis });
      }
    }
    // AdaBelief's second epsilon lowers its cap by 3e-6: no reason for scales of its own.
    const peers = data.optimizers.filter(({ cap }) => cap === optimizer.cap || Math.abs(cap - optimizer.cap) < 1e-5 * cap);
    const valuesOf = (measure) => peers.flatMap((each) => each.layers.flatMap((layer) => layer[measure])).filter((each) => each !== null).sort((a, b) => a - b);
    const means = valuesOf("mean"), tallest = valuesOf("std").pop() || 0;
    // A cap far above the usual mean leaves nothing to see on its own linear scale.
    const capped = optimizer.cap !== null && 20 * means[means.length >> 1] >= optimizer.cap;
    const powers = { type: "log", exponentformat: "power", nticks: 5 };
    return draw(element, traces, {
      margin: { l: 8, r: 6, t: 6, b: 34 },
      xaxis: axis({ title: { text: data.time, standoff: 4 }, anchor: "y2", ...timeAxis(optimizer.layers.flatMap((layer) => layer.time), 4) }),
      yaxis: axis({ domain: [0.54, 1], ...(capped ? { range: [0, 1.06 * optimizer.cap] } : powers), title: { text: phone() ? "" : "mean", standoff: 4 } }),
      yaxis2: axis({ domain: [0, 0.46], ...(capped ? { range: [0, 1.06 * Math.max(tallest, optimizer.cap / 300)] } : powers), title: { text: phone() ? "" : "deviation", standoff: 4 } }),
      shapes: optimizer.cap !== null ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: optimizer.cap, y1: optimizer.cap, line: { color: css("soft"), width: 1.2, dash: "dash" } }] : [],
    });
  }

  function drawHistogram(element, data, optimizer, state) {
    const time = data.histograms[state.histogram];
    const traces = optimizer.layers.flatMap((layer) => {
      const found = (layer.histograms || [])[layer.time.indexOf(time)];
      if (!found) return [];
      const total = found.counts.reduce((sum, count) => sum + count, 0) || 1;
      return [{
        type: "scatter", mode: "lines", x: found.edges, y: [...found.counts, 0].map((count) => count / total),
        line: { shape: "hv", color: layerColour(data, layer), width: 1.4 }, fill: "tozeroy", fillcolor: "rgba(128,128,128,.06)",
        hovertemplate: `layer ${layer.layer} ${layer.parameter}<br>from %{x:.3~g}: %{y:.1%}<extra></extra>`,
      }];
    });
    return draw(element, traces, {
      margin: { l: 8, r: 6, t: 6, b: 34 },
      xaxis: axis({ type: "log", title: { text: "stepsize", standoff: 4 }, exponentformat: "power", nticks: 5 }),
      yaxis: axis({ tickformat: ".0%", rangemode: "tozero", title: { text: phone() ? "" : "share", standoff: 4 } }),
    });
  }

  // Panels share one scale, so that optimizers can be compared.
  function drawMeasure(element, data, optimizer, state) {
    const { field, label, log, limits } = data.measures.find((each) => each.field === state.measure);
    const measured = (each) => each.layers.filter((layer) => field in layer.measures);
    const values = data.optimizers.flatMap(measured).flatMap((layer) => layer.measures[field]).filter((y) => y !== null && (!log || y > 0));
    const scaled = values.map((y) => log ? Math.log10(y) : y);
    const low = scaled.reduce((a, b) => Math.min(a, b), Infinity), high = scaled.reduce((a, b) => Math.max(a, b), -Infinity);
    const [least, most] = limits || [low, high], margin = 0.04 * (most - least) || 0.1;
    const yaxis = values.length ? { range: [least - margin, most + margin] } : {};
    return draw(element, measured(optimizer).map((layer) => layerLine(data, layer, layer.measures[field], label)), {
      margin: { l: 8, r: 6, t: 6, b: 34 },
      xaxis: axis({ title: { text: data.time, standoff: 4 }, ...timeAxis(optimizer.layers.flatMap((layer) => layer.time), 4) }),
      yaxis: axis({ ...yaxis, ...(log ? { type: "log", exponentformat: "power", nticks: 5 } : {}) }),
    });
  }

  // Charts are drawn when they come near the screen, and again when what they show changes.
  const charts = [];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      seen.unobserve(entry.target);
      const chart = charts.find((each) => each.element === entry.target);
      chart.visible = true;
      chart.draw();
    }
  }, { rootMargin: "800px" });
  function add(article, kind, element, drawIt) {
    charts.push({ article, kind, element, draw: drawIt, visible: false });
    seen.observe(element);
  }
  function redraw(chosen = () => true) {
    for (const chart of charts.filter((each) => each.visible && chosen(each))) chart.draw();
  }

  function addPanels(article, holder, data, drawIt) {
    const kind = holder.dataset.panels;
    const has = { stepsizes: () => true, histograms: (layer) => layer.histograms, measures: (layer) => Object.keys(layer.measures).length };
    const shown = data.optimizers.filter((each) => each.layers.some(has[kind]));
    for (const optimizer of shown) {
      const figure = document.createElement("figure"), title = document.createElement("h5"), element = document.createElement("div");
      const cap = optimizer.cap === null ? "" : ` – cap ${Number(optimizer.cap.toPrecision(5))}`;
      title.textContent = optimizer.name;
      element.className = "chart";
      element.setAttribute("role", "img");
      element.setAttribute("aria-label", `${optimizer.name}: ${kind} of ${optimizer.layers.length} layers${cap}; numbers in the table below`);
      figure.append(title, element);
      holder.append(figure);
      add(article, kind, element, () => drawIt(element, data, optimizer));
    }
  }

  function colourLayers(holder, data) {
    const layers = new Map(data.optimizers.flatMap((each) => each.layers.map((layer) => [layer.layer, layer])));
    const many = [...layers.values()].sort((a, b) => a.layer - b.layer);
    const shown = many.length <= 12 ? many : [0, 0.25, 0.5, 0.75, 1].map((place) => many[Math.round(place * (many.length - 1))]);
    holder.replaceChildren("layer ", ...shown.map((layer) => {
      const item = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.background = layerColour(data, layer);
      item.append(swatch, String(layer.layer));
      item.title = layer.parameter;
      return item;
    }));
  }

  for (const article of all("article")) {
    const data = DATA[article.id];
    const state = {
      kind: "best", rival: "best_rival", key: data.first, x: "epoch", bands: true, seeds: false, log: false, off: new Set(),
      histogram: data.histograms.length - 1, measure: data.measures.length ? data.measures[0].field : null,
    };
    const forms = { scores: drawScores, differences: drawDifferences, curves: drawCurves };
    for (const element of all("[data-chart]", article)) {
      add(article, element.dataset.chart, element, () => forms[element.dataset.chart](element, data, state));
    }
    const panels = { stepsizes: drawStepsizes, histograms: drawHistogram, measures: drawMeasure };
    for (const holder of all("[data-panels]", article)) {
      addPanels(article, holder, data, (...what) => panels[holder.dataset.panels](...what, state));
    }
    for (const holder of all("[data-layers]", article)) colourLayers(holder, data);
    const redrawKind = (...kinds) => redraw((each) => each.article === article && kinds.includes(each.kind));

    for (const input of all("[data-switch] input", article)) {
      input.addEventListener("change", () => {
        state.kind = article.dataset.kind = input.value;
        redrawKind("scores", "differences");
      });
    }
    for (const select of all("[data-rival]", article)) {
      select.addEventListener("change", () => { state.rival = select.value; redrawKind("differences"); });
    }
    for (const control of all("[data-curve]", article)) {
      control.addEventListener("change", () => {
        state[control.dataset.curve] = control.type === "checkbox" ? control.checked : control.value;
        redrawKind("curves");
      });
    }
    for (const slider of all("[data-histogram]", article)) {
      slider.addEventListener("input", () => {
        state.histogram = Number(slider.value);
        slider.nextElementSibling.value = data.histograms[state.histogram];
        slider.setAttribute("aria-valuetext", `${data.time} ${data.histograms[state.histogram]}`);
        redrawKind("histograms");
      });
    }
    for (const select of all("[data-measure]", article)) {
      select.addEventListener("change", () => { state.measure = select.value; redrawKind("measures"); });
    }
    const toggles = all("[data-toggle]", article);
    const press = () => {
      for (const button of toggles) button.setAttribute("aria-pressed", String(!state.off.has(button.dataset.toggle)));
      redrawKind("curves");
    };
    for (const button of toggles) {
      button.addEventListener("click", () => {
        const name = button.dataset.toggle;
        if (!state.off.delete(name)) state.off.add(name);
        press();
      });
    }
    for (const button of all("[data-toggle-all]", article)) {
      button.addEventListener("click", () => {
        state.off = new Set(state.off.size ? [] : data.optimizers.slice(3).map((each) => each.name));
        press();
      });
    }
  }

  // Tables: a click sorts, another turns the order round; what has no value stays at the end.
  const shownValue = (cell) => {
    const article = cell.closest("article"), kind = article ? article.dataset.kind : "";
    const part = cell.querySelector(`[data-of="${kind}"]`) || cell;
    return part.dataset.sort === undefined ? part.textContent.trim().replace(/,/g, "") : part.dataset.sort;
  };
  for (const header of all("table.sortable thead th")) {
    header.querySelector("button").addEventListener("click", () => {
      const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => ({ row, value: shownValue(row.cells[column]) }));
      const empty = ({ value }) => value === "" || value === "–";
      const numeric = rows.every((each) => empty(each) || !Number.isNaN(parseFloat(each.value)));
      const compare = (a, b) => numeric ? parseFloat(a.value) - parseFloat(b.value) : a.value.localeCompare(b.value);
      rows.sort((a, b) => empty(a) - empty(b) || (down ? compare(b, a) : compare(a, b)));
      body.append(...rows.map(({ row }) => row));
      say(`sorted by ${header.textContent}, ${down ? "descending" : "ascending"}`);
    });
  }

  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
      } catch {
        // A page from a file may not reach the clipboard; the command is selected all the same.
        button.textContent = "selected";
      }
      say(`command ${button.textContent}`);
    });
  }

  const repaint = () => {
    for (const article of all("article")) for (const holder of all("[data-layers]", article)) colourLayers(holder, DATA[article.id]);
    redraw();
  };
  const paint = (theme) => { root.dataset.theme = theme; repaint(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => paint(event.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme === "dark" ? "light" : "dark"));
  // On paper every number is there, and every chart, as wide as its place.
  const closed = () => all("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = closed();
    for (const each of opened) each.open = true;
    for (const chart of charts) { chart.visible = true; chart.draw(); }
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
})();
