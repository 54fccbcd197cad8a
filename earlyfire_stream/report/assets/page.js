// Draws the charts of a report from the JSON in the page. Rules: strangers' words are only ever set
// as text (textContent, fillText); nothing is fetched; every chart is drawn again at any width.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [begin, end] = data.span;
  const charts = {};
  const { GROUPS, readColours, drawStrip, drawDetail, describe, drawLegend } =
    timeline({ begin, end, fates: data.fates, faults: data.faults });

  const {
    svg, element, fixed, short, clock, duration, cut, view, steps, scale, hush, hover, nearest, plot,
    caption, line, highest, column, kept,
  } = drawing;
  const brief = end - begin < 10;  // clocks would tell the same second twice
  const moment = (v) => brief ? `${short(v)} s` : clock(v);
  const time = () => ({ low: begin, high: end, text: moment, timed: true, label: "scenario time" });

  // --- where the seconds went ---

  charts.parts = (figure) => {
    const parts = data.parts;
    const words = parts.names.map((n) => n.replace("_", " "));
    const legend = element("ul", "legend", figure);
    words.forEach((word, i) => {
      const item = element("li", "", legend);
      element("i", "", item).style.background = `var(--p${i})`;
      item.append(word);
    });
    const rows = parts.rows.map((r) => ({ label: r.fire, sub: r.camera, parts: r.parts, total: r.ttfd }));
    if (rows.length > 1) {
      const total = parts.mean.reduce((a, b) => a + b, 0);
      rows.unshift({ label: `mean of ${parts.n}`, sub: "", parts: parts.mean, total, mean: true });
    }
    const width = Math.max(240, figure.clientWidth), narrow = width < 560;
    const left = narrow ? 0 : 200, rowHeight = narrow ? 40 : 28;
    const most = Math.max(...rows.map((r) => r.parts.reduce((a, b) => a + Math.max(0, b), 0)), 1e-9);
    const height = rows.length * rowHeight + 26;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, figure);
    const X = scale(0, most, left, width - 74);
    for (const v of steps(0, most, narrow ? 3 : 6, true)) {
      svg("line", { class: "grid", x1: X(v), x2: X(v), y1: 0, y2: height - 22 }, root);
      svg("text", { x: X(v), y: height - 8, "text-anchor": v ? "middle" : "start" }, root, most < 60 ? `${short(v)} s` : clock(v));
    }
    rows.forEach((row, r) => {
      const y = r * rowHeight;
      const bar = svg("g", {}, root);
      const label = view(row.label, row.sub);
      const clipped = cut(label, narrow ? 48 : 29);
      if (narrow) svg("text", { x: 0, y: y + 13, class: row.mean ? "strong" : "" }, bar, clipped);
      else svg("text", { x: left - 10, y: y + 18, "text-anchor": "end", class: row.mean ? "strong" : "" }, bar, clipped);
      let at = 0;
      row.parts.forEach((seconds, i) => {
        if (seconds <= 0) return;
        svg("rect", { x: X(at), y: y + (narrow ? 18 : 5), width: Math.max(0.4, X(at + seconds) - X(at)), height: 17, style: `fill:var(--p${i})` }, bar);
        at += seconds;
      });
      svg("text", { x: X(at) + 7, y: y + (narrow ? 31 : 18), class: "strong" }, bar, duration(row.total));
      svg("rect", { x: 0, y, width, height: rowHeight, fill: "transparent" }, bar);
      hover(bar, () => `${label}\n` + words.map((w, i) => `${w}: ${duration(row.parts[i])}`).join("\n") + `\n= ${duration(row.total)}`);
    });
    if (parts.n > parts.rows.length) element("p", "small dim", figure, `The slowest ${parts.rows.length} of ${parts.n} detected views; all stand in score.json.`);
  };

  // --- survival ---

  charts.survival = (figure) => {
    const s = data.survival;
    const p = plot(figure, 318, { low: 0, high: s.shown, ticks: s.ticks, text: s.shown < 100 ? (v) => `${short(v)} s` : clock, label: "since the onset" },
      { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${Math.round(v * 100)} %`, label: "views detected" }, 52, 86);
    if (s.band.length) {
      const upper = [], lower = [];
      let low = 0, high = 0, until = s.shown;
      for (const [t, a, b] of s.band) {
        if (t > s.shown) break;
        upper.push([p.X(t), p.Y(high)]); lower.push([p.X(t), p.Y(low)]);
        if (a === null) { until = t; break; }  // all are detected: no band can be had any more
        low = a; high = b;
        upper.push([p.X(t), p.Y(high)]); lower.push([p.X(t), p.Y(low)]);
      }
      upper.push([p.X(until), p.Y(high)]); lower.push([p.X(until), p.Y(low)]);
      svg("path", { class: "band", d: line([...upper, ...lower.reverse()]) + "Z" }, p.root);
    }
    const apart = p.X(Math.min(120, s.shown)) - p.X(0);  // of 1, 3 and 5 min
    for (const t of [60, 180, 300]) if (t < s.shown) {
      svg("line", { class: "ref", x1: p.X(t), x2: p.X(t), y1: p.top, y2: p.floor }, p.root);
      if (t === 300 || apart > 38) svg("text", { class: "minutes", x: p.X(t) + 3, y: p.floor - 5 }, p.root, `${t / 60} min`);
    }
    const points = [[p.X(0), p.Y(0)]];
    let share = 0;
    for (const [t, next] of s.steps) {
      if (t > s.shown) break;
      points.push([p.X(t), p.Y(share)], [p.X(t), p.Y(next)]);
      share = next;
    }
    points.push([p.X(s.shown), p.Y(share)]);
    svg("path", { class: "curve", d: line(points) }, p.root);
    const at = (t) => s.steps.reduce((value, [when, next]) => when <= t ? next : value, 0);
    for (const t of s.censored) if (t <= s.shown) {
      svg("path", { d: `M${p.X(t)} ${p.Y(at(t)) - 5}v10`, style: "stroke:var(--ink);stroke-width:1.5" }, p.root);
    }
    if (s.median !== null) {
      svg("circle", { cx: p.X(s.median), cy: p.Y(0.5), r: 4, style: "fill:var(--accent)" }, p.root);
      caption(p, [], [points], p.X(s.median), p.Y(0.5), `median ${duration(s.median)}`, true);
    }
    svg("text", { x: p.left, y: p.floor + 52 }, p.root, s.censored.length && p.width > 460 ? "still undetected and watched (bars on the curve: the watching ended)" : "still undetected and watched");
    s.ticks.forEach((t, i) => svg("text", { x: p.X(t), y: p.floor + 70, "text-anchor": "middle", class: "strong" }, p.root, s.at_risk[i]));
    hover(p.root, (fx) => {
      const t = (fx * p.width - p.left) / (p.right - p.left) * s.shown;
      if (t < 0 || t > s.shown) return "";
      const ends = s.band.reduce((found, row) => row[0] <= t ? row : found, null);
      const range = ends && ends[1] !== null ? ` (95 %: ${fixed(ends[1] * 100, 0)} to ${fixed(ends[2] * 100, 0)} %)` : "";
      return `${duration(t)} after the onset\n${fixed(at(t) * 100, 0)} % of ${s.n} detected${range}`;
    });
  };

  // --- operating curve ---

  // Two charts over one axis: how many fires are found, and how soon, against false alarms.
  charts.operating = (figure) => {
    const all = data.operating.filter((o) => o.rate !== null);
    if (!all.length) { element("p", "empty", figure, "The false alarm rate cannot be measured in this run."); return; }
    const most = Math.max(1, ...all.map((o) => o.rate)) * 1.08;
    if (all.every((o) => o.recall === null)) { element("p", "empty", figure, "No fire: the table has the false alarms by threshold."); return; }
    const panel = (points, height, y, value, label, below) => {
      if (!points.length) return;
      const p = plot(figure, height, { low: -0.03 * most, high: most, ticks: steps(0, most, 6), label: below }, y, 56, below ? 40 : 26);
      const curve = points.filter((o) => !o.chosen).sort((a, b) => a.threshold - b.threshold);
      const way = curve.map((o) => [p.X(o.rate), p.Y(value(o))]);
      svg("path", { class: "curve", d: line(way) }, p.root);
      const taken = [[p.left, -2, 6.2 * y.label.length]];
      for (const o of [...points.filter((q) => q.chosen), ...curve]) {
        const x = p.X(o.rate), at = p.Y(value(o));
        caption(p, taken, [way], x, at, o.chosen ? "as played" : String(o.threshold), o.chosen, o.chosen ? 10 : 7);
        const dot = svg("circle", { cx: x, cy: at, r: o.chosen ? 6.5 : 3.6, style: o.chosen ? "fill:none;stroke:var(--ink);stroke-width:2.2;pointer-events:all" : "fill:var(--accent)" }, p.root);
        const range = o.rate_interval ? ` (95 %: ${short(o.rate_interval[0])} to ${short(o.rate_interval[1])})` : "";
        const found = o.recall_interval ? ` (95 %: ${Math.round(100 * o.recall_interval[0])} to ${Math.round(100 * o.recall_interval[1])} %)` : "";
        hover(dot, () => `${o.chosen ? "as played" : "threshold " + o.threshold}\ndetected ${o.detected} of ${o.views}${found}\n${short(o.rate)} false a camera-day${range}\nmedian TTFD ${o.ttfd === null ? "n/a" : duration(o.ttfd)}`);
      }
    };
    panel(all.filter((o) => o.recall !== null), 190, { low: 0, high: 1.04, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => `${Math.round(v * 100)} %`, label: "views detected" }, (o) => o.recall, "", "");
    const timed = all.filter((o) => o.ttfd !== null);
    panel(timed, 190, { low: 0, high: highest(timed.map((o) => o.ttfd), 1), timed: true, text: (v) => !v ? "0" : v < 60 ? `${short(v)} s` : clock(v), label: "median TTFD of the detected" }, (o) => o.ttfd, "", "false alarms per camera-day");
  };

  // --- false alarms ---

  charts.hours = (figure) => {
    const rows = data.hours.filter((r) => r[3] !== null);
    const most = highest(rows.map((r) => r[3]), 0);
    const top = most > 0 ? most * 1.6 : highest(rows.map((r) => r[5]), 1);
    const p = plot(figure, 240, { low: 0, high: 24, ticks: [0, 6, 12, 18, 24], text: (v) => `${v} h`, label: "hour of day" },
      { low: 0, high: top, label: "per camera-day" });
    for (const [hour, episodes, hours, rate, low, high] of rows) {
      const x = p.X(hour), w = p.X(hour + 1) - x;
      const bar = svg("g", {}, p.root);
      svg("rect", { x, y: p.top, width: w, height: p.floor - p.top, style: "fill:var(--soft);opacity:.7" }, bar);
      svg("rect", { x: x + 1, y: p.Y(rate), width: Math.max(1, w - 2), height: p.floor - p.Y(rate), style: "fill:var(--false)" }, bar);
      const peak = Math.min(high, top);
      svg("path", { d: `M${x + w / 2} ${p.Y(low)}V${p.Y(peak)}`, style: "stroke:var(--dim);stroke-width:1.3" }, bar);
      if (high > top) svg("path", { d: `M${x + w / 2 - 3} ${p.Y(peak) + 5}l3 -5l3 5`, style: "stroke:var(--dim);fill:none;stroke-width:1.3" }, bar);
      hover(bar, () => `${hour} to ${hour + 1} h\n${episodes} in ${short(hours)} camera-hours\n${short(rate)} a camera-day (95 %: ${short(low)} to ${short(high)})`);
    }
    element("p", "small dim", figure, "Shaded hours were watched; lines are exact Poisson intervals, arrows leave the chart.");
  };

  // Bars: false alarms a camera-day; lines: their exact Poisson intervals.
  charts.blamed = (figure) => {
    const width = Math.max(240, figure.clientWidth), height = data.blamed.length * 24 + 4;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, figure);
    const left = Math.min(170, width * 0.36), right = width - 96;
    const rates = data.blamed.map((r) => r[3] || 0);
    const top = Math.max(...rates, 1e-9) * 1.7;
    const X = scale(0, top, left, right);
    data.blamed.forEach(([camera, count, hours, rate, low, high], i) => {
      const y = i * 24;
      const name = cut(camera, Math.floor(left / 7));
      const bar = svg("g", {}, root);
      svg("text", { x: left - 8, y: y + 16, "text-anchor": "end" }, bar, name);
      if (rate !== null) {
        svg("rect", { x: left, y: y + 3, width: Math.max(1, X(rate) - left), height: 17, rx: 2, style: "fill:var(--false)" }, bar);
        const peak = Math.min(high, top);
        svg("path", { d: `M${X(low)} ${y + 11.5}H${X(peak)}`, style: "stroke:var(--ink);stroke-width:1.3;opacity:.75" }, bar);
        if (high > top) svg("path", { d: `M${X(peak) - 5} ${y + 8.5}l5 3l-5 3`, style: "stroke:var(--ink);fill:none;stroke-width:1.3;opacity:.75" }, bar);
      }
      svg("text", { x: width, y: y + 16, "text-anchor": "end", class: "strong" }, bar, `${count} in ${short(hours)} h`);
      svg("rect", { x: 0, y, width, height: 24, fill: "transparent" }, bar);
      hover(bar, () => `${camera}\n${count} in ${short(hours)} camera-hours\n` + (rate === null ? "" : `${short(rate)} a camera-day (95 %: ${short(low)} to ${short(high)})`));
    });
    element("p", "small dim", figure, "Bars: per camera-day; lines: exact Poisson intervals, arrows leave the chart.");
  };

  // --- latency, tokens, harness ---

  charts.latency = (figure) => {
    const bins = data.latency.bins;
    const p = plot(figure, 240, { low: 0, high: bins.length, ticks: [], label: "seconds, logarithmic" },
      { low: 0, high: highest(bins.map((b) => b[2]), 1), label: `answers (n ${data.latency.n.toLocaleString("en")})` });
    const room = Math.ceil(bins.length / (p.width < 420 ? 5 : 8));
    bins.forEach(([from, to, count], i) => {
      const [x, w] = column(p, i, bins.length);
      const bar = svg("rect", { x: x + 1, y: p.Y(count), width: Math.max(1, w - 2), height: p.floor - p.Y(count), rx: 1.5, style: "fill:var(--n)" }, p.root);
      if (i % room === 0) svg("text", { x, y: p.floor + 16, "text-anchor": i ? "middle" : "start" }, p.root, from < 0.1 ? String(+from.toPrecision(2)) : short(from));
      hover(bar, () => `${duration(from)} to ${to === null ? "more" : duration(to)}\n${count.toLocaleString("en")} answers`);
    });
    for (const mark of [0.25, 1]) {
      const i = bins.findIndex(([from, to]) => from <= mark && (to === null || mark < to));
      if (i < 0) continue;
      const [x, w] = column(p, i, bins.length);
      const [from, to] = bins[i];
      const at = x + w * Math.log(mark / (from || 0.001)) / Math.log((to || mark) / (from || 0.001));
      svg("line", { class: "ref", x1: at, x2: at, y1: p.top, y2: p.floor }, p.root);
    }
  };

  // Faults behind a chart over time; each named as far as there is room beside the one before.
  function troubled(p, named) {
    let free = p.left;
    for (const [id, kind, start, over] of data.faults) {
      const x = Math.max(p.left, p.X(start)), to = Math.min(p.right, p.X(over));
      if (x > p.right) continue;
      const w = Math.max(2, to - x);
      svg("rect", { class: "fault", x, y: p.top, width: w, height: p.floor - p.top }, p.root);
      const bar = svg("rect", { class: "fault-top", x, y: p.top, width: w, height: 3 }, p.root);
      svg("title", {}, bar, id === kind ? id : `${id} (${kind})`);
      const room = 6.2 * id.length;
      if (named && x >= free && x + room < p.right) {
        svg("text", { class: "fault-name", x: x + 3, y: p.top + 14 }, p.root, id);
        free = x + room + 8;
      }
    }
  }
  charts.latency_time = (figure) => {
    const rows = data.latency.over_time;
    const top = highest(rows.map((r) => r[2]), 0);
    const p = plot(figure, 240, time(), { low: 0, high: top, label: "seconds: worst and median" });
    troubled(p, true);
    for (const mark of [0.25, 1]) if (mark < top) svg("line", { class: "ref", x1: p.left, x2: p.right, y1: p.Y(mark), y2: p.Y(mark) }, p.root);
    const width = Math.max(1.5, (p.right - p.left) / 120 * 0.55);
    for (const [at, median, worst] of rows) {
      svg("rect", { x: p.X(at) - width / 2, y: p.Y(worst), width, height: p.Y(0) - p.Y(worst), style: "fill:var(--n);opacity:.35" }, p.root);
      svg("circle", { cx: p.X(at), cy: p.Y(median), r: 2.2, style: "fill:var(--n)" }, p.root);
    }
    const wrong = (at) => data.faults.filter(([, , start, over]) => start <= at && at < over).map(([id]) => `\nfault: ${id}`).join("");
    nearest(p, rows, ([at, median, worst, n]) => `${clock(at)}\nmedian ${duration(median)}, worst ${duration(worst)}\n${n} answers${wrong(at)}`);
  };

  charts.tokens = (figure) => {
    const t = data.tokens, count = t.per_s.length;
    const known = [...t.per_s, ...t.learned.map((r) => r[1]), t.budget];
    const spent = Math.max(...t.per_s);
    const budgets = known.slice(count).filter((v) => v !== null);
    // A budget far above what was spent would flatten the chart; it is told in words then.
    const shown = budgets.filter((v) => v < 6 * spent);
    const p = plot(figure, 250, time(), { low: 0, high: highest([...t.per_s, ...shown], 1), label: "visual tokens a wall second" }, 58);
    t.per_s.forEach((v, i) => {
      const [x, w] = column(p, i, count);
      if (v > 0) svg("rect", { x: x + 0.5, y: p.Y(v), width: Math.max(1, w - 1), height: p.floor - p.Y(v), style: "fill:var(--n)" }, p.root);
    });
    const draw = (points) => svg("path", { d: line(points), style: "fill:none;stroke:var(--accent);stroke-width:2;stroke-dasharray:6 4" }, p.root);
    if (t.budget !== null && shown.includes(t.budget)) {
      draw([[p.left, p.Y(t.budget)], [p.right, p.Y(t.budget)]]);
      svg("text", { x: p.right, y: p.Y(t.budget) - 5, "text-anchor": "end", class: "strong" }, p.root, `budget ${short(t.budget)}`);
    } else if (t.budget === null && t.learned.length > 1 && shown.length) {
      const points = t.learned.filter((r) => shown.includes(r[1]));
      if (points.length > 1) draw(points.map(([at, v]) => [p.X(at), p.Y(v)]));
    }
    const hidden = budgets.length && !shown.length;
    element("p", "small dim", figure, hidden ? `The budget, ${short(Math.min(...budgets))} tokens a second or more, lies above this chart.`
      : budgets.length ? (t.budget === null ? "Dashed: the rate that was learned from the engine." : "Dashed: the budget.") : "No budget in tokens a second was recorded.");
    hover(p.root, (fx) => {
      const i = Math.floor((fx * p.width - p.left) / (p.right - p.left) * count);
      return i >= 0 && i < count ? `${clock(begin + (end - begin) * (i + 0.5) / count)}\n${short(t.per_s[i])} tokens a second` : "";
    });
  };

  charts.lateness = (figure) => {
    const p = plot(figure, 170, time(), { low: 0, high: highest(data.lateness.map((r) => r[1]), 0.001), label: "seconds", text: (v) => String(+v.toPrecision(2)) });
    const width = Math.max(1.5, (p.right - p.left) / 120 * 0.7);
    for (const [at, late] of data.lateness) svg("rect", { x: p.X(at) - width / 2, y: p.Y(late), width, height: p.floor - p.Y(late), style: "fill:var(--g)" }, p.root);
    nearest(p, data.lateness, ([at, late]) => `${clock(at)}: ${fixed(late * 1000, 1)} ms at worst`);
  };

  charts.pulses = (figure) => {
    const rows = data.pulses;
    const memory = rows.filter((r) => r[1] !== null), cores = rows.filter((r) => r[2] !== null);
    const pair = (found, index, label, colour) => {
      if (found.length < 2) return;
      const p = plot(figure, 130, { ...time(), label: "" }, { low: 0, high: highest(found.map((r) => r[index]), 0.1), label, ticks: undefined });
      svg("path", { d: line(found.map((r) => [p.X(Math.min(Math.max(r[0], begin), end)), p.Y(r[index])])), style: `fill:none;stroke:var(${colour});stroke-width:2` }, p.root);
      nearest(p, found, (r) => `${clock(r[0])}: ${short(r[index])} ${label}`);
    };
    pair(memory, 1, "MB resident", "--n");
    pair(cores, 2, "cores busy", "--S");
  };

  // The engine's server: one small chart a series, whatever its unit is.
  function amount(v) {
    const size = Math.abs(v);
    for (const [factor, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= factor) return `${+(v / (letter === "k" ? 1e3 : factor)).toPrecision(3)} ${letter}`;
    }
    return String(+v.toPrecision(3));
  }
  charts.gauges = (figure) => {
    for (const one of data.gauges) {
      const cell = element("div", "gauge", figure);
      const head = element("p", "small", cell, one.title);
      head.title = one.name;
      if (one.how) element("span", "dim", head, ` ${one.how}`);
      const values = one.points.map((r) => r[1]);
      const low = Math.min(0, ...values), high = Math.max(...values);
      const p = plot(cell, 104, { ...time(), label: "", ticks: steps(begin, end, 3, true) },
        { low, high: high > low ? high : low + 1, ticks: steps(low, high > low ? high : low + 1, 2), text: amount }, 50, 22);
      const points = one.points.map(([t, v]) => [p.X(Math.min(Math.max(t, begin), end)), p.Y(v)]);
      svg("path", { d: line(points), style: "fill:none;stroke:var(--n);stroke-width:1.7;stroke-linejoin:round" }, p.root);
      if (points.length < 40) for (const [x, y] of points) svg("circle", { cx: x, cy: y, r: 1.8, style: "fill:var(--n)" }, p.root);
      nearest(p, one.points, ([t, v]) => `${clock(t)}: ${amount(v)}${one.how ? " " + one.how : ""}`);
    }
  };

  // --- timelines ---

  charts.fleet = (figure) => {
    const count = data.fleet.n.length;
    const totals = data.fleet.n.map((_, i) => Object.keys(GROUPS).reduce((sum, g) => sum + data.fleet[g][i], 0));
    const p = plot(figure, 150, time(), { low: 0, high: highest(totals, 1), label: "frames of all cameras", ticks: undefined });
    troubled(p, false);
    totals.forEach((total, i) => {
      const [x, w] = column(p, i, count);
      let at = 0;
      for (const g of ["S", "f", "g", "n", "c"]) {
        const n = data.fleet[g][i];
        if (n) svg("rect", { x: x + 0.4, y: p.Y(at + n), width: Math.max(0.8, w - 0.8), height: p.Y(at) - p.Y(at + n), style: `fill:var(--${g})` }, p.root);
        at += n;
      }
    });
    hover(p.root, (fx) => {
      const i = Math.floor((fx * p.width - p.left) / (p.right - p.left) * count);
      if (i < 0 || i >= count) return "";
      return `${clock(begin + (end - begin) * (i + 0.5) / count)}\n` + Object.keys(GROUPS).filter((g) => data.fleet[g][i]).map((g) => `${GROUPS[g]}: ${data.fleet[g][i]}`).join("\n");
    });
  };

  const lanes = [];
  const seen = new IntersectionObserver((found) => {
    for (const one of found) {
      const entry = one.target.entry;
      entry.near = one.isIntersecting;
      if (entry.near) drawLane(entry);
    }
  }, { rootMargin: "400px" });
  function drawLane(entry) {
    drawStrip(entry);
    if (entry.node.classList.contains("open")) { open(entry); drawDetail(entry); }
  }
  function open(entry) {
    if (entry.canvas) return;
    const { lane, detail } = entry;
    entry.window = [begin, end];
    const views = [["whole run", begin, end]];
    const step = lane.frames.t.length > 1 ? (lane.frames.t[lane.frames.t.length - 1] - lane.frames.t[0]) / (lane.frames.t.length - 1) : 0;
    for (const [id, onset] of lane.fires.slice(0, 8)) {
      const first = lane.alarms.find(([at, kind]) => kind === "true" && at >= onset);
      const back = Math.max(10 * step, (first ? first[0] - onset : 30 * step) * 0.5);
      const from = Math.max(begin, onset - back), to = Math.min(end, (first ? first[0] : onset + 30 * step) + back);
      if (to > from && to - from < 0.6 * (end - begin)) views.push([`around ${id}`, from, to]);
    }
    const begun = views.length > 1 && lane.frames.t.length < entry.total ? 1 : 0;
    [, ...entry.window] = views[begun];
    if (views.length > 1) {
      const row = element("div", "zoom", detail);
      for (const [label, from, to] of views) {
        const button = element("button", "", row, label);
        button.type = "button";
        button.setAttribute("aria-pressed", String(label === views[begun][0]));
        button.addEventListener("click", () => {
          for (const other of row.children) other.setAttribute("aria-pressed", String(other === button));
          entry.window = [from, to];
          drawDetail(entry);
        });
      }
    }
    entry.canvas = element("canvas", "", detail);
    hover(entry.canvas, (fx) => describe(entry, fx));
  }
  let showAll;
  function buildLanes() {
    const place = document.getElementById("lanes");
    let opened = 0;
    for (const lane of data.lanes) {
      const node = element("div", "lane", place);
      const head = element("button", "", node);
      head.type = "button";
      const name = element("span", "name", head);
      element("b", "", name, lane.id).title = lane.id;
      const told = [];
      if (lane.fires.length) told.push(lane.fires.length === 1 ? "fire" : `${lane.fires.length} fires`);
      if (lane.alarms.length) {
        const count = lane.alarms.length + lane.alarms_hidden;
        told.push(count === 1 ? "1 alarm" : `${count} alarms`);
      }
      if (!lane.truth) told.push("no truth");
      element("span", "", name, told.join(" · "));
      const strip = element("canvas", "strip", head);
      const detail = element("div", "detail", node);
      const entry = { lane, node, strip, detail, words: [lane.id, ...lane.fires.map((f) => f[0])].join(" ").toLowerCase() };
      entry.total = Object.values(lane.bins).reduce((sum, counts) => sum + counts.reduce((a, b) => a + b, 0), 0);
      node.entry = entry;
      lanes.push(entry);
      if ((lane.fires.length || lane.alarms.length) && opened < (innerWidth < 620 ? 4 : 12)) { node.classList.add("open"); opened += 1; }
      head.setAttribute("aria-expanded", String(node.classList.contains("open")));
      head.addEventListener("click", () => {
        head.setAttribute("aria-expanded", String(node.classList.toggle("open")));
        drawLane(entry);
      });
      seen.observe(node);
    }
    const filter = document.getElementById("filter"), filtered = document.getElementById("filtered");
    const chips = document.getElementById("kinds"), more = document.getElementById("more");
    const raised = (lane, kind) => lane.alarms.some((a) => a[1] === kind);
    const kinds = {
      "all": () => true,
      "fires": (lane) => lane.fires.length > 0,
      "missed fires": (lane) => lane.fires.length > 0 && !raised(lane, "true"),
      "false alarms": (lane) => raised(lane, "false"),
      "quiet": (lane) => !lane.fires.length && !lane.alarms.length,
    };
    let chosen = "all", room = innerWidth < 620 ? 24 : 40;
    const apply = () => {
      const wanted = filter.value.trim().toLowerCase();
      const met = lanes.filter((entry) => entry.words.includes(wanted) && kinds[chosen](entry.lane));
      for (const entry of lanes) entry.node.hidden = true;
      for (const entry of met.slice(0, room)) entry.node.hidden = false;
      filtered.textContent = met.length < lanes.length ? `${met.length} of ${lanes.length} cameras` : `${lanes.length} cameras`;
      more.hidden = met.length <= room;
      more.textContent = `show the other ${(met.length - room).toLocaleString("en")} cameras`;
    };
    for (const kind in kinds) {
      const count = lanes.filter((entry) => kinds[kind](entry.lane)).length;
      if (lanes.length < 9 || !count || (kind !== "all" && count === lanes.length)) continue;
      const chip = element("button", "", chips, `${kind} ${count}`);
      chip.type = "button";
      chip.setAttribute("aria-pressed", String(kind === chosen));
      chip.addEventListener("click", () => {
        chosen = kind;
        for (const other of chips.children) other.setAttribute("aria-pressed", String(other === chip));
        apply();
      });
    }
    showAll = () => { room = lanes.length; apply(); };
    more.addEventListener("click", showAll);
    filter.addEventListener("input", apply);
    apply();
  }
  // --- the page ---

  function draw() {
    hush();
    readColours();
    for (const figure of document.querySelectorAll("[data-chart]")) {
      figure.textContent = "";
      charts[figure.dataset.chart](figure);
    }
    drawLegend(document.getElementById("legend"), data.lanes);
    for (const entry of lanes) if (entry.near) drawLane(entry);
  }
  for (const bar of document.querySelectorAll("[data-share]")) bar.style.width = `${100 * bar.dataset.share}%`;
  for (const bar of document.querySelectorAll("[data-from]")) {
    bar.style.left = `min(${100 * bar.dataset.from}%, 100% - 2px)`;
    bar.style.width = `${100 * (bar.dataset.to - bar.dataset.from)}%`;
  }

  // Paper has other colours and shows what was never scrolled to.
  function print() {
    if (lanes.length <= 200) showAll();
    draw();
    for (const entry of lanes) if (!entry.near && (entry.node.classList.contains("open") || lanes.length <= 200)) drawLane(entry);
  }
  buildLanes();
  kept(draw, print);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
