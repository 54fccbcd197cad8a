// Draws the charts of a comparison from the JSON in the page. Rules: as in drawing.js. A side has a
// colour, and beside it a letter, a shape or a dash, so that nothing hangs on its colour alone.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {
    svg, element, fixed, short, clock, duration, cut, view, steps, scale, hush, hover, plot, caption, line,
    highest, kept,
  } = drawing;
  const charts = {};
  const sides = data.sides;
  const colour = (side) => `var(--s${side % 6})`;
  const dash = (side) => side === 0 ? "" : ["7 4", "2 3", "10 3 2 3", "5 2", "1 3"][(side - 1) % 5];
  const percent = (v) => `${Math.round(v * 100)} %`;
  const between = (ends, say) => ends ? ` (95 %: ${say(ends[0])} to ${say(ends[1])})` : "";
  const seconds = (most) => (v) => most < 100 ? `${short(v)} s` : clock(v);

  // A side's mark: A a disc, B a diamond, C a square, others discs; hollow where nothing is sure.
  function dot(side, x, y, size, parent, hollow = false) {
    const paint = hollow ? `fill:var(--card);stroke:${colour(side)};stroke-width:2` : `fill:${colour(side)}`;
    if (side % 3 === 1) return svg("path", { d: `M${x} ${y - size * 1.25}L${x + size * 1.25} ${y}L${x} ${y + size * 1.25}L${x - size * 1.25} ${y}Z`, style: paint }, parent);
    if (side % 3 === 2) return svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, style: paint }, parent);
    return svg("circle", { cx: x, cy: y, r: size, style: paint }, parent);
  }
  function key(figure, from = 0, lined = false) {
    const list = element("ul", "key", figure);
    sides.forEach((side, i) => {
      if (i < from) return;
      const item = element("li", "", list);
      const root = svg("svg", { width: lined ? 34 : 16, height: 16, viewBox: `0 0 ${lined ? 34 : 16} 16`, style: "width:auto;flex:none" }, item);
      if (lined) svg("path", { d: "M1 8H33", style: `stroke:${colour(i)};stroke-width:2.4;stroke-dasharray:${dash(i)};fill:none` }, root);
      else dot(i, 8, 8, 5, root);
      item.append(`${side.label} · ${side.name}`);
    });
  }
  function canvas(figure, height) {
    const width = Math.max(240, figure.clientWidth);
    return [svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, figure), width];
  }
  function stairs(p, rows, shown, from) {
    const points = [[p.X(0), p.Y(from)]];
    let value = from;
    for (const [t, next] of rows) {
      if (t > shown) break;
      points.push([p.X(t), p.Y(value)], [p.X(t), p.Y(next)]);
      value = next;
    }
    points.push([p.X(shown), p.Y(value)]);
    return points;
  }

  // --- differences ---

  charts.forest = (figure) => {
    if (sides.length > 2) key(figure, 1);
    for (const panel of data.forest) {
      const marks = panel.rows.flatMap((row) => row.marks);
      const ends = marks.flatMap((m) => [m.gain, ...(m.ends || [])]).filter((v) => v !== null);
      const most = Math.max(...ends.map(Math.abs), 0) * 1.08 || 1;
      const narrow = figure.clientWidth < 620;
      const lines = Math.max(1, sides.length - 1);
      const step = lines > 1 ? 17 : narrow ? 17 : 26;
      const head = 22, rowHeight = (narrow ? 19 : 6) + step * lines;
      const height = head + panel.rows.length * rowHeight + 38;
      const [root, width] = canvas(figure, height);
      const left = narrow ? 4 : 176, right = narrow ? width - 4 : width - 236;
      const X = scale(-most, most, left + 8, right - 8);
      svg("text", { x: 0, y: 13, class: "strong" }, root, panel.title);
      svg("text", { x: narrow ? width - 4 : right, y: 13, "text-anchor": "end" }, root, narrow ? panel.unit : `${panel.unit} · better →`);
      const write = panel.seconds ? (most < 100 ? (v) => `${short(v)} s` : clock) : (v) => Math.abs(v) >= 1000 ? `${short(v / 1000)}k` : String(+v.toPrecision(3));
      const floor = height - 36;
      let ticks = steps(-most, most, narrow ? 3 : 6, panel.seconds);
      if (ticks.length < 3) ticks = steps(-most, most, 6, panel.seconds);
      const told = [];  // from the middle outwards: a word for each line that has room for one
      for (const v of ticks.sort((a, b) => Math.abs(a) - Math.abs(b))) {
        svg("line", { class: v ? "grid" : "zero", x1: X(v), x2: X(v), y1: head, y2: floor }, root);
        const words = v > 0 ? `${write(v)} better` : v < 0 ? `${write(-v)} worse` : "0";
        const half = 3.3 * words.length + 3;
        if (told.some(([x, w]) => Math.abs(x - X(v)) < w + half)) continue;
        told.push([X(v), half]);
        svg("text", { x: X(v), y: floor + 14, "text-anchor": "middle" }, root, words);
      }
      panel.rows.forEach((row, r) => {
        const top = head + r * rowHeight;
        if (narrow) svg("text", { x: left, y: top + 13, class: "strong" }, root, row.title);
        else svg("text", { x: left - 12, y: top + 3 + step * lines / 2 + 4, "text-anchor": "end" }, root, row.title);
        row.marks.forEach((mark, i) => {
          const y = top + (narrow ? 19 : 3) + step * i + step / 2;
          const g = svg("g", {}, root);
          svg("rect", { x: 0, y: y - step / 2, width, height: step, fill: "transparent" }, g);
          if (mark.gain !== null) {
            if (mark.ends) svg("path", { d: `M${X(mark.ends[0])} ${y}H${X(mark.ends[1])}M${X(mark.ends[0])} ${y - 4}v8M${X(mark.ends[1])} ${y - 4}v8`, style: `stroke:${colour(mark.side)};stroke-width:1.8;fill:none` }, g);
            dot(mark.side, X(mark.gain), y, 4.6, g, !mark.ends);
          }
          const tone = mark.sure ? (mark.gain > 0 ? "sure-good" : "sure-bad") : "";
          const told = mark.gain === null ? "n/a" : mark.said;
          const prefix = lines > 1 ? `${sides[mark.side].label} ` : "";
          if (narrow) {
            if (lines === 1) svg("text", { x: width - 4, y: top + 13, "text-anchor": "end", class: tone }, g, told + (mark.p ? `  p ${mark.p}` : ""));
          } else {
            svg("text", { x: right + 10, y: y + 4, class: tone }, g, prefix + told);
            svg("text", { x: width, y: y + 4, "text-anchor": "end" }, g, mark.p ? `p ${mark.p}` : mark.gain === null ? "" : "no p");
          }
          hover(g, () => `${row.title}, ${sides[mark.side].label} against A\n${mark.values}\n${told}${mark.between ? ` (95 %: ${mark.between})` : ""}${mark.p ? `\np ${mark.p}` : ""}\nn ${mark.n}${mark.why ? `\n${mark.why}` : ""}`);
        });
      });
    }
  };

  // --- fires ---

  charts.views = (figure) => {
    key(figure);
    const rows = data.views.rows;
    const known = rows.flatMap((r) => r.ttfd).filter((v) => v !== null);
    const missed = rows.some((r) => r.ttfd.includes(null));
    const most = Math.max(...known, 1e-3) * 1.04;
    const narrow = figure.clientWidth < 620, rowHeight = narrow ? 38 : 25;
    const height = rows.length * rowHeight + 30;
    const [root, width] = canvas(figure, height);
    const left = narrow ? 6 : 220, gap = missed ? 74 : 8;
    const right = width - gap - (narrow ? 0 : 78);
    const X = scale(0, most, left + 6, right - 6), lane = right + gap / 2 + 6;
    const floor = height - 24, write = seconds(most);
    for (const v of steps(0, most, narrow ? 3 : 6, true)) {
      svg("line", { class: "grid", x1: X(v), x2: X(v), y1: 0, y2: floor }, root);
      svg("text", { x: X(v), y: floor + 16, "text-anchor": v ? "middle" : "start" }, root, write(v));
    }
    if (missed) {
      svg("rect", { x: right + 10, y: 0, width: gap - 8, height: floor, style: "fill:var(--soft)" }, root);
      svg("text", { x: lane, y: floor + 16, "text-anchor": "middle" }, root, "missed");
    }
    rows.forEach((row, r) => {
      const g = svg("g", {}, root);
      const top = r * rowHeight, y = top + (narrow ? 25 : rowHeight / 2);
      const label = view(row.fire, row.camera);
      if (narrow) svg("text", { x: 0, y: top + 12 }, g, cut(label, 46));
      else svg("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, g, cut(label, 32));
      const at = row.ttfd.map((v) => v === null ? lane : X(v));
      const low = Math.min(...at), high = Math.max(...at);
      const [first, last] = [row.ttfd[0], row.ttfd[row.ttfd.length - 1]];
      const worse = last === null ? first !== null : first !== null && last > first;
      const moved = high - low > 0.5;
      if (moved) svg("line", { x1: low, x2: high, y1: y, y2: y, style: `stroke:${sides.length > 2 ? "var(--dim)" : worse ? "var(--false)" : "var(--true)"};stroke-width:3;opacity:.45;stroke-linecap:round` }, g);
      // of marks in one place the first is drawn larger, so that each is to be seen
      row.ttfd.forEach((v, i) => {
        const beneath = row.ttfd.slice(i + 1).some((_, j) => Math.abs(at[i + 1 + j] - at[i]) < 6);
        dot(i, at[i], y, beneath ? 7 : 4.4, g);
      });
      if (!narrow && sides.length === 2) {
        const change = first !== null && last !== null ? last - first : null;
        const told = change === null ? (first === null && last === null ? "" : last === null ? "lost" : "gained") : Math.abs(change) < 1e-3 ? "=" : `${change > 0 ? "+" : "-"}${duration(Math.abs(change))}`;
        svg("text", { x: width, y: y + 4, "text-anchor": "end", class: told === "lost" || change > 1e-3 ? "sure-bad" : told === "gained" || change < -1e-3 ? "sure-good" : "" }, g, told);
      }
      svg("rect", { x: 0, y: top, width, height: rowHeight, fill: "transparent" }, g);
      hover(g, () => `${label}\n` + row.ttfd.map((v, i) => `${sides[i].label}: ${v === null ? "missed" : duration(v)}`).join("\n"));
    });
    if (data.views.n > rows.length) element("p", "small dim", figure, `${rows.length} of ${fixed(data.views.n, 0)} views: those that moved most; all stand in the JSON.`);
  };

  charts.parts = (figure) => {
    const { names, rows, hidden } = data.parts;
    const legend = element("ul", "legend", figure);
    names.forEach((word, i) => {
      const item = element("li", "", legend);
      element("i", "", item).style.background = `var(--p${i})`;
      item.append(word);
    });
    const bars = rows.flatMap((row) => row.bars).filter((bar) => bar !== null);
    const total = (bar) => bar.reduce((a, b) => a + b, 0);
    const most = Math.max(...bars.map((bar) => bar.reduce((a, b) => a + Math.max(0, b), 0)), 1e-9);
    const narrow = figure.clientWidth < 620, thick = 15;
    const head = narrow ? 18 : 0, rowHeight = head + sides.length * (thick + 3) + 10;
    const height = rows.length * rowHeight + 22;
    const [root, width] = canvas(figure, height);
    const left = narrow ? 20 : 240, floor = height - 22;
    const X = scale(0, most, left, width - 76);
    for (const v of steps(0, most, narrow ? 3 : 6, true)) {
      svg("line", { class: "grid", x1: X(v), x2: X(v), y1: 0, y2: floor }, root);
      svg("text", { x: X(v), y: floor + 15, "text-anchor": v ? "middle" : "start" }, root, seconds(most)(v));
    }
    rows.forEach((row, r) => {
      const top = r * rowHeight;
      const middle = top + head + sides.length * (thick + 3) / 2;
      const style = { class: row.mean ? "strong" : "" };
      if (narrow) svg("text", { x: 0, y: top + 13, ...style }, root, cut(row.label, 46));
      else svg("text", { x: left - 30, y: middle + 3, "text-anchor": "end", ...style }, root, cut(row.label, 33));
      row.bars.forEach((bar, i) => {
        const y = top + head + i * (thick + 3) + 2;
        const g = svg("g", {}, root);
        svg("text", { x: left - 16, y: y + 12, style: `fill:${colour(i)};font-weight:680` }, g, sides[i].label);
        let at = 0;
        (bar || []).forEach((part, place) => {
          if (part <= 0) return;
          svg("rect", { x: X(at), y, width: Math.max(0.4, X(at + part) - X(at)), height: thick, style: `fill:var(--p${place})` }, g);
          at += part;
        });
        svg("text", { x: X(at) + 7, y: y + 12, class: bar ? "strong" : "sure-bad" }, g, bar ? duration(total(bar)) : "missed");
        svg("rect", { x: 0, y: y - 2, width, height: thick + 3, fill: "transparent" }, g);
        hover(g, () => `${row.label}\n${sides[i].label}: ${bar ? duration(total(bar)) : "missed"}` + (bar || []).map((part, place) => `\n${names[place]}: ${duration(part)}`).join(""));
      });
    });
    if (hidden) element("p", "small dim", figure, `${fixed(hidden, 0)} more views moved; the table of moved views names the part of each.`);
  };

  // --- survival ---

  charts.survival = (figure) => {
    key(figure, 0, true);
    const s = data.survival, count = s.sides.length;
    const p = plot(figure, 292 + 17 * count, { low: 0, high: s.shown, ticks: s.ticks, text: s.shown < 100 ? (v) => `${short(v)} s` : clock, label: "since the onset" },
      { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: percent, label: "views detected" }, 52, 58 + 17 * count);
    for (const t of [60, 180, 300]) if (t < s.shown) svg("line", { class: "ref", x1: p.X(t), x2: p.X(t), y1: p.top, y2: p.floor }, p.root);
    s.sides.forEach((side, i) => {
      if (!side.band.length) return;
      const upper = stairs(p, side.band.map(([t, , b]) => [t, b]), s.shown, 0);
      const lower = stairs(p, side.band.map(([t, a]) => [t, a]), s.shown, 0);
      svg("path", { d: line([...upper, ...lower.reverse()]) + "Z", style: `fill:${colour(i)};opacity:.15` }, p.root);
    });
    s.sides.forEach((side, i) => {
      svg("path", { class: "side-curve", d: line(stairs(p, side.steps, s.shown, 0)), style: `fill:none;stroke:${colour(i)};stroke-width:2.3;stroke-dasharray:${dash(i)};stroke-linejoin:round` }, p.root);
      const value = (t) => side.steps.reduce((share, [when, next]) => when <= t ? next : share, 0);
      for (const t of side.censored) if (t <= s.shown) svg("path", { d: `M${p.X(t)} ${p.Y(value(t)) - 4}v8`, style: `stroke:${colour(i)};stroke-width:1.6` }, p.root);
      if (side.median !== null && side.median <= s.shown) dot(i, p.X(side.median), p.Y(0.5), 4, p.root);
    });
    svg("text", { x: p.left, y: p.floor + 48 }, p.root, p.width > 460 ? "still undetected and watched (bars on a curve: the watching ended)" : "still undetected and watched");
    s.sides.forEach((side, i) => {
      const y = p.floor + 65 + 17 * i;
      svg("text", { x: p.left - 34, y, style: `fill:${colour(i)};font-weight:680` }, p.root, sides[i].label);
      side.at_risk.forEach((n, j) => svg("text", { x: p.X(s.ticks[j]), y, "text-anchor": "middle", class: "strong" }, p.root, n));
    });
    hover(p.root, (fx) => {
      const t = (fx * p.width - p.left) / (p.right - p.left) * s.shown;
      if (t < 0 || t > s.shown) return "";
      return `${duration(t)} after the onset\n` + s.sides.map((side, i) => {
        const share = side.steps.reduce((value, [when, next]) => when <= t ? next : value, 0);
        const ends = side.band.reduce((value, [when, a, b]) => when <= t ? [a, b] : value, null);
        return `${sides[i].label}: ${percent(share)} of ${side.n} detected${between(ends, percent)}`;
      }).join("\n");
    });
  };

  // --- operating curves ---

  charts.operating = (figure) => {
    key(figure, 0, true);
    const all = data.operating.flat();
    // rates reach from none to hundreds: linear up to one a day, then logarithmic
    const bent = (v) => Math.asinh(v);
    const most = Math.max(1, ...all.map((o) => o.rate)) * 1.15;
    const width = Math.max(240, figure.clientWidth);
    const at = scale(-0.04 * bent(most), bent(most), 56, width - 18);
    const ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000].filter((v) => v <= most);
    const p = plot(figure, 300, { at: (v) => at(bent(v)), ticks, label: "false alarms per camera-day" },
      { low: 0, high: 1.04, ticks: [0, 0.25, 0.5, 0.75, 1], text: percent, label: "views detected" }, 56, 40);
    const ways = data.operating.map((points) => points.filter((o) => !o.chosen).map((o) => [p.X(o.rate), p.Y(o.recall)]));
    const taken = [];
    ways.forEach((way, i) => {
      svg("path", { d: line(way), style: `fill:none;stroke:${colour(i)};stroke-width:2.2;stroke-dasharray:${dash(i)};stroke-linejoin:round` }, p.root);
    });
    data.operating.forEach((points, i) => {
      for (const o of points) {
        const x = p.X(o.rate), y = p.Y(o.recall);
        const made = o.chosen ? svg("circle", { cx: x, cy: y, r: 7 + i, style: `fill:none;stroke:${colour(i)};stroke-width:2.4;pointer-events:all` }, p.root) : dot(i, x, y, 3.2, p.root);
        if (o.chosen) caption(p, taken, ways, x, y, sides[i].label, true, 9 + i);
        hover(made, () => `${sides[i].label}, ${o.chosen ? "as played" : `threshold ${o.threshold}`}\ndetected ${o.detected} of ${o.views}${between(o.recall_interval, percent)}\n${short(o.rate)} false a camera-day${between(o.rate_interval, short)}${o.ttfd === null ? "" : `\nmedian TTFD ${duration(o.ttfd)}`}`);
      }
    });
  };

  // --- latency, false alarms, tokens ---

  charts.latency = (figure) => {
    key(figure, 0, true);
    const { bounds } = data.latency, count = bounds.length - 1;
    const p = plot(figure, 260, { low: 0, high: count, ticks: [], label: "seconds, logarithmic" },
      { low: 0, high: highest(data.latency.sides.flatMap((s) => s.shares), 0.05), text: percent, label: "share of the answers" });
    const room = Math.ceil(count / (p.width < 420 ? 5 : 10));
    for (let i = 0; i < count; i += room) svg("text", { x: p.X(i), y: p.floor + 16, "text-anchor": i ? "middle" : "start" }, p.root, bounds[i] < 0.1 ? String(+bounds[i].toPrecision(2)) : short(bounds[i]));
    const place = (v) => {
      let i = bounds.findIndex((b) => b === null || b > v) - 1;
      i = Math.max(0, Math.min(count - 1, i < -1 ? count - 1 : i));
      const [from, to] = [bounds[i] || 0.001, bounds[i + 1] || v];
      return p.X(i) + (p.X(1) - p.X(0)) * Math.max(0, Math.min(1, Math.log(v / from) / Math.log(to / from || 2)));
    };
    for (const mark of [0.25, 1]) if (mark > bounds[0] && (bounds[count] === null || mark < bounds[count])) svg("line", { class: "ref", x1: place(mark), x2: place(mark), y1: p.top, y2: p.floor }, p.root);
    data.latency.sides.forEach((side, i) => {
      const points = [[p.X(0), p.floor]];
      side.shares.forEach((share, j) => points.push([p.X(j), p.Y(share)], [p.X(j + 1), p.Y(share)]));
      points.push([p.X(count), p.floor]);
      svg("path", { d: line(points), style: `fill:${colour(i)};fill-opacity:.13;stroke:${colour(i)};stroke-width:2;stroke-dasharray:${dash(i)}` }, p.root);
    });
    data.latency.sides.forEach((side, i) => { if (side.p50 !== null) dot(i, place(side.p50), p.floor, 4.5, p.root); });
    element("p", "small dim", figure, "Marks on the axis are the medians.");
    hover(p.root, (fx) => {
      const j = Math.floor((fx * p.width - p.left) / (p.right - p.left) * count);
      if (j < 0 || j >= count) return "";
      return `${duration(bounds[j])} to ${bounds[j + 1] === null ? "more" : duration(bounds[j + 1])}\n` + data.latency.sides.map((side, i) => `${sides[i].label}: ${(100 * side.shares[j]).toFixed(1)} % of ${fixed(side.n, 0)}`).join("\n");
    });
  };

  charts.rates = (figure) => {
    const known = data.rates.filter((r) => r.rate[0] !== null);
    if (!known.length) { element("p", "empty", figure, "No time without smoke was watched."); return; }
    const most = Math.max(...known.map((r) => r.rate[2]), 1e-6) * 1.05;
    const height = data.rates.length * 30 + 26;
    const [root, width] = canvas(figure, height);
    const X = scale(0, most, 34, width - 14), floor = height - 24;
    for (const v of steps(0, most, 5)) {
      svg("line", { class: "grid", x1: X(v), x2: X(v), y1: 0, y2: floor }, root);
      svg("text", { x: X(v), y: floor + 16, "text-anchor": "middle" }, root, short(v));
    }
    data.rates.forEach((row, i) => {
      const y = i * 30 + 15, g = svg("g", {}, root);
      svg("text", { x: 6, y: y + 4, style: `fill:${colour(i)};font-weight:680` }, g, sides[i].label);
      const [rate, low, high] = row.rate;
      if (rate === null) { svg("text", { x: 34, y: y + 4 }, g, "n/a"); return; }
      svg("path", { d: `M${X(low)} ${y}H${X(high)}M${X(low)} ${y - 5}v10M${X(high)} ${y - 5}v10`, style: `stroke:${colour(i)};stroke-width:2;fill:none` }, g);
      dot(i, X(rate), y, 5, g);
      svg("rect", { x: 0, y: y - 15, width, height: 30, fill: "transparent" }, g);
      hover(g, () => `${sides[i].label}: ${row.episodes} in ${short(row.hours)} camera-hours\n${short(rate)} a camera-day${between([low, high], short)}`);
    });
  };

  charts.blamed = (figure) => {
    const rows = data.blamed, count = sides.length, rowHeight = count * 13 + 10;
    const [root, width] = canvas(figure, rows.length * rowHeight + 4);
    const left = Math.min(170, width * 0.42);
    const X = scale(0, Math.max(...rows.flatMap((r) => r.counts)), left, width - 36);
    rows.forEach((row, r) => {
      const top = r * rowHeight;
      svg("text", { x: left - 8, y: top + rowHeight / 2 + 3, "text-anchor": "end" }, root, cut(row.camera, 23));
      row.counts.forEach((episodes, i) => {
        const y = top + 5 + i * 13, g = svg("g", {}, root);
        svg("rect", { x: left, y, width: Math.max(1, X(episodes) - left), height: 10, rx: 2, style: `fill:${colour(i)}` }, g);
        svg("text", { x: X(episodes) + 6, y: y + 9, style: "font-size:10.5px" }, g, `${sides[i].label} ${episodes}`);
        hover(g, () => `${row.camera}\n${sides[i].label}: ${episodes} episodes`);
      });
    });
  };

  charts.tokens = (figure) => {
    const rows = data.tokens;
    const [root, width] = canvas(figure, rows.length * 34 + 6);
    const most = Math.max(...rows.map((r) => r.rate || 0), 1);
    const X = scale(0, most, 34, width - 76);
    rows.forEach((row, i) => {
      const y = i * 34 + 6, g = svg("g", {}, root);
      svg("text", { x: 6, y: y + 16, style: `fill:${colour(i)};font-weight:680` }, g, sides[i].label);
      svg("rect", { x: 34, y, width: Math.max(1, X(row.rate || 0) - 34), height: 22, rx: 3, style: `fill:${colour(i)}` }, g);
      svg("text", { x: X(row.rate || 0) + 7, y: y + 16, class: "strong" }, g, row.rate === null ? "n/a" : fixed(row.rate, 0));
      hover(g, () => `${sides[i].label}: ${fixed(row.visual, 0)} visual tokens${row.rate === null ? "" : `\n${fixed(row.rate, 0)} a camera-hour`}`);
    });
  };

  // --- the page ---

  function draw() {
    hush();
    for (const figure of document.querySelectorAll("[data-chart]")) {
      figure.textContent = "";
      charts[figure.dataset.chart](figure);
    }
  }
  kept(draw);
})();
