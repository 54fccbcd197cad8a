// One camera's frames over time, as the report and the live page draw them: colours by what became of
// a frame, marks for alarms, the times of fires, outages and faults. `run` holds begin, end (scenario
// seconds), the names of fates and `faults` (id, kind, start, end; a lane names its own by place); it may change between two drawings. Strangers' words are only set as text.
"use strict";
const timeline = (run) => {
  const { element, fixed, short, clock, duration, steps, scale } = drawing;
  const GROUPS = {
    S: "smoke seen", n: "no smoke seen", c: "not asked for", f: "failed", g: "never there",
  };
  const KINDS = {
    true: "true alarm", false: "false alarm", unlocated: "alarm beside the smoke",
    late: "late alarm", unknown: "alarm, truth unknown",
  };

  let colours = {};
  function readColours() {
    const probe = element("span", "", document.body);
    for (const name of ["S", "n", "c", "f", "g", "true", "false", "fire", "fault", "ink", "dim", "line", "card", "soft", "accent"]) {
      probe.style.color = `var(--${name})`;
      colours[name] = getComputedStyle(probe).color;
    }
    probe.remove();
  }
  function ready(canvas) {
    const width = canvas.clientWidth, height = canvas.clientHeight, dots = Math.min(3, devicePixelRatio || 1);
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    canvas.dataset.drawn = "yes";
    const pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    return [pen, width, height];
  }
  // Each kind has a shape of its own, so that none hangs on its colour alone.
  function mark(pen, kind, x, y, size) {
    pen.lineWidth = 2;
    pen.fillStyle = pen.strokeStyle = kind === "true" ? colours.true : kind === "false" ? colours.false : colours.ink;
    pen.beginPath();
    if (kind === "true") {
      pen.moveTo(x, y - size); pen.lineTo(x + size, y + size * 0.8); pen.lineTo(x - size, y + size * 0.8); pen.closePath(); pen.fill();
    } else if (kind === "false") {
      pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size);
      pen.moveTo(x + size, y - size); pen.lineTo(x - size, y + size); pen.stroke();
    } else if (kind === "unlocated") {
      pen.moveTo(x, y - size); pen.lineTo(x + size, y); pen.lineTo(x, y + size); pen.lineTo(x - size, y); pen.closePath(); pen.stroke();
    } else { pen.arc(x, y, size * 0.8, 0, 7); pen.stroke(); }
  }
  // Words over marks are read over a gap in them.
  function said(pen, words, x, y) {
    pen.save();
    pen.strokeStyle = colours.card; pen.lineWidth = 3; pen.lineJoin = "round";
    pen.strokeText(words, x, y);
    pen.restore();
    pen.fillText(words, x, y);
  }
  function scenery(pen, lane, X, width, height) {
    for (const [, onset, over] of lane.fires) {
      const from = Math.max(0, X(onset)), to = Math.min(width, X(over ?? lane.until ?? run.end));
      if (to <= from) continue;
      pen.fillStyle = colours.fire;
      pen.fillRect(from, 0, Math.max(2, to - from), height);
    }
    for (const [off, on] of lane.outages) {
      const from = Math.max(0, X(off)), to = Math.min(width, X(on));
      if (to <= from) continue;
      pen.save();
      pen.beginPath(); pen.rect(from, 0, Math.max(2, to - from), height); pen.clip();
      pen.strokeStyle = colours.dim; pen.lineWidth = 1; pen.globalAlpha = 0.6;
      for (let x = from - height; x < to; x += 6) { pen.beginPath(); pen.moveTo(x, height); pen.lineTo(x + height, 0); pen.stroke(); }
      pen.restore();
    }
  }
  // Over smoke and outages, so that both can still be told: a tint, and a bar along the top.
  function troubles(pen, lane, X, width, height, named) {
    const free = [0, 0];  // where a name fits in, in each of two rows
    for (const n of lane.faults || []) {
      const [id, , start, over] = run.faults[n];
      const from = Math.max(0, X(start)), to = Math.min(width, X(over));
      if (from > width || to < 0) continue;
      const w = Math.max(2, to - from);
      pen.fillStyle = colours.fault;
      pen.globalAlpha = 0.16; pen.fillRect(from, 0, w, height);
      pen.globalAlpha = 1; pen.fillRect(from, named ? height - 3 : 0, w, 3);
      const room = pen.measureText(id).width + 8;
      const row = from + room > width ? -1 : free.findIndex((x) => x <= from);
      if (!named || row < 0) continue;
      pen.textAlign = "left";
      said(pen, id, from + 4, height - 6 - 12 * row);
      free[row] = from + room;
    }
  }
  function density(pen, lane, X, top, height) {
    const keys = Object.keys(lane.bins);
    const count = keys.length ? lane.bins[keys[0]].length : 0;
    const step = (run.end - run.begin) / (count || 1);
    let most = 1;
    for (let i = 0; i < count; i++) most = Math.max(most, keys.reduce((sum, g) => sum + lane.bins[g][i], 0));
    for (let i = 0; i < count; i++) {
      const x = X(run.begin + i * step), w = Math.max(1, X(run.begin + (i + 1) * step) - x - 0.6);
      let at = 0;
      for (const g of ["S", "f", "g", "n", "c"]) {
        const n = lane.bins[g] ? lane.bins[g][i] : 0;
        if (!n) continue;
        const h = n / most * height;
        pen.fillStyle = colours[g];
        pen.fillRect(x, top + height - at - h, w, h);
        at += h;
      }
    }
  }
  function drawStrip(entry) {
    const [pen, width, height] = ready(entry.strip);
    const X = scale(run.begin, run.end, 5, width - 5);
    scenery(pen, entry.lane, X, width, height);
    density(pen, entry.lane, X, 3, height - 6);
    troubles(pen, entry.lane, X, width, height, false);
    for (const [at, kind] of entry.lane.alarms) mark(pen, kind, X(at), height / 2, 5);
  }
  function drawDetail(entry) {
    const lane = entry.lane, frames = lane.frames;
    const [pen, width, height] = ready(entry.canvas);
    const [from, to] = entry.window;
    const left = width < 480 ? 5 : 74;
    const X = scale(from, to, left, width - 6);
    entry.X = X;
    const floor = height - 18;
    pen.save();
    pen.beginPath(); pen.rect(left - 4, 0, width - left + 4, floor); pen.clip();
    scenery(pen, lane, X, width, floor);
    // Of a long run single frames are kept only near fires: wider windows show densities.
    const last = frames.t.length - 1;
    const whole = frames.t.length === entry.total || (last > 0 && frames.t[0] <= from && frames.t[last] >= to);
    if (whole) {
      const gap = (width - left) / Math.max(1, frames.t.filter((t) => t >= from && t <= to).length);
      const w = Math.max(1, Math.min(7, gap * 0.7));
      frames.t.forEach((t, i) => {
        if (t < from || t > to) return;
        const g = frames.g[i];
        pen.fillStyle = colours[g];
        const asked = g === "S" || g === "n";
        pen.fillRect(X(t) - w / 2, 32 + (asked || g === "f" ? 0 : 5), w, asked || g === "f" ? 20 : 10);
        if (asked) {
          const sure = frames.c[i];
          const y = sure === null ? (g === "S" ? 62 : 86) : 88 - sure * 28;
          pen.beginPath(); pen.arc(X(t), y, Math.max(1.6, Math.min(3.2, w * 0.7)), 0, 7); pen.fill();
        }
      });
    } else density(pen, lane, X, 32, floor - 36);
    troubles(pen, lane, X, width, floor, true);
    for (const [at, kind] of lane.alarms) if (at >= from && at <= to) {
      pen.strokeStyle = kind === "true" ? colours.true : kind === "false" ? colours.false : colours.ink;
      pen.lineWidth = 1; pen.globalAlpha = 0.7;
      pen.beginPath(); pen.moveTo(X(at), 24); pen.lineTo(X(at), floor); pen.stroke();
      pen.globalAlpha = 1;
      mark(pen, kind, X(at), 18, 6);
    }
    for (const [id, onset, over] of lane.fires) {
      pen.fillStyle = pen.strokeStyle = colours.accent;
      pen.lineWidth = 1.5;
      if (onset >= from && onset <= to) {
        pen.beginPath(); pen.moveTo(X(onset), 0); pen.lineTo(X(onset), floor); pen.stroke();
      }
      if (onset <= to && (over === null || over >= from)) {
        const words = `${id}: onset ${clock(onset)}`;
        const x = Math.max(left, X(onset)) + 4;
        const turned = x + pen.measureText(words).width > width;
        pen.textAlign = turned ? "right" : "left";
        said(pen, words, turned ? x - 8 : x, 9);
      }
    }
    pen.restore();
    pen.fillStyle = colours.dim;
    pen.textAlign = "left";
    if (left > 20) {
      pen.fillText("alarms", 0, 21);
      pen.fillText("frames", 0, 46);
      if (whole && frames.c.some((c) => c !== null)) pen.fillText("confidence", 0, 78);
    }
    pen.textAlign = "center";
    for (const t of steps(from, to, width < 480 ? 3 : 8, true)) {
      const x = X(t);
      pen.fillRect(x, floor, 1, 4);
      if (x > 14 && x < width - 14) pen.fillText(to - from < 10 ? `${short(t)} s` : clock(t), x, height - 3);
    }
  }
  function describe(entry, fx) {
    const { lane, X } = entry, frames = lane.frames;
    if (!X) return "";
    const x = fx * entry.canvas.clientWidth;
    const alarm = lane.alarms.find(([at]) => Math.abs(X(at) - x) < 5);
    let best = -1, off = 12;
    frames.t.forEach((t, i) => { const d = Math.abs(X(t) - x); if (d < off) { best = i; off = d; } });
    const said = [];
    for (const n of lane.faults || []) {
      const [id, kind, start, over] = run.faults[n];
      if (X(start) - 3 <= x && x <= Math.max(X(over), X(start) + 3)) said.push(id === kind ? `fault: ${id}` : `fault: ${id} (${kind})`);
    }
    if (alarm) said.push(`${KINDS[alarm[1]]} at frame ${alarm[2]}`);
    if (best >= 0) {
      const why = frames.why[best];
      said.push(`frame ${frames.seq[best]} at ${clock(frames.t[best])}`);
      said.push(run.fates[frames.fate[best]].replace("_", " ") + (why ? ` (${why.replace("_", " ")})` : ""));
      if ("Sn".includes(frames.g[best])) said.push(GROUPS[frames.g[best]] + (frames.c[best] === null ? "" : `, confidence ${fixed(frames.c[best], 2)}`));
      if (frames.l[best] !== null) said.push(`answered after ${duration(frames.l[best])}`);
    }
    return said.join("\n");
  }
  function drawLegend(legend, lanes) {
    legend.textContent = "";
    for (const g in GROUPS) {
      const item = element("li", "", legend);
      element("i", "", item).style.background = `var(--${g})`;
      item.append(GROUPS[g]);
    }
    const kinds = new Set(lanes.flatMap((lane) => lane.alarms.map((a) => a[1])));
    const fires = lanes.some((lane) => lane.fires.length);
    if (fires) {
      const item = element("li", "", legend);
      element("i", "", item).style.background = "var(--fire)";
      item.append("smoke to be seen");
    }
    for (const kind of Object.keys(KINDS).filter((k) => kinds.has(k))) {
      const item = element("li", "", legend);
      const [pen, width, height] = ready(element("canvas", "", item));
      mark(pen, kind, width / 2, height / 2, 5);
      item.append(KINDS[kind]);
    }
    if (lanes.some((lane) => lane.outages.length)) {
      const item = element("li", "", legend);
      element("i", "off", item);
      item.append("camera off");
    }
    if (lanes.some((lane) => (lane.faults || []).length)) {
      const item = element("li", "", legend);
      element("i", "fault", item);
      item.append("fault on purpose");
    }
  }

  return { GROUPS, KINDS, readColours, drawStrip, drawDetail, describe, drawLegend };
};
