// Draws the charts of a soak from the JSON in the page. Rules: as in drawing.js. Each line has a dash
// of its own beside its colour, so that nothing hangs on colour alone.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { svg, element, short, clock, duration, hush, hover, plot, line, highest, kept } = drawing;
  const charts = {};
  const windows = data.windows.filter((w) => w.part !== "end");
  const until = Math.max(...windows.map((w) => w.end), 1);
  const middle = (w) => (w.begin + w.end) / 2;
  const percent = (v) => v === null ? "n/a" : `${+(100 * v).toPrecision(3)} %`;
  const seconds = (v) => v === null ? "n/a" : duration(v);
  const megabytes = (v) => `${short(v / 1e6)} MB`;
  const LOOKS = {
    offered: ["--dim", ""], due: ["--fault", "3 3"], served: ["--true", ""],
    p50: ["--n", ""], p95: ["--S", "7 3"], p99: ["--f", "2 3"], request: ["--dim", "1 3"],
    drops: ["--S", ""], errors: ["--false", "6 3"],
    harness: ["--n", ""], pictures: ["--dim", "6 3"], broker: ["--fault", "2 3"],
    worker: ["--S", ""], engine: ["--f", "10 3 2 3"], gpu: ["--true", "4 2"],
  };
  const style = (name) => `fill:none;stroke:var(${LOOKS[name][0]});stroke-width:2.2;stroke-linejoin:round;stroke-dasharray:${LOOKS[name][1]}`;

  function key(figure, names, words = {}) {
    const list = element("ul", "key", figure);
    const entry = (text, paint) => {
      const item = element("li", "", list);
      paint(svg("svg", { width: 28, height: 12, viewBox: "0 0 28 12" }, item));
      item.append(text);
    };
    for (const name of names) entry(words[name] || name, (root) => svg("path", { d: "M1 6H27", style: style(name) }, root));
    if (windows.some((w) => w.part === "warm-up")) entry("warming up", (root) => svg("rect", { class: "warm", width: 28, height: 12 }, root));
    if (windows.some((w) => w.faults.length)) entry("scripted fault", (root) => svg("rect", { class: "fault", width: 28, height: 12 }, root));
    figure.classList.add("chart");
  }

  // Axes over the soak; behind the lines what is set apart, and where the ramp bends.
  function over(figure, height, y, left) {
    const p = plot(figure, height, { low: 0, high: until, timed: true, text: clock, label: "of the soak" }, y, left);
    for (const w of windows) {
      const box = { x: p.X(w.begin), y: p.top, width: Math.max(1, p.X(w.end) - p.X(w.begin)), height: p.floor - p.top };
      if (w.part === "warm-up") svg("rect", { class: "warm", ...box }, p.root);
      if (w.faults.length) {
        svg("rect", { class: "fault", ...box }, p.root);
        svg("rect", { class: "fault-top", ...box, height: 3 }, p.root);
      }
    }
    for (const at of data.gaps) svg("line", { class: "gap", x1: p.X(at), x2: p.X(at), y1: p.top, y2: p.floor }, p.root);
    return p;
  }
  function limit(p, value) {
    if (value === null || p.Y(value) < p.top) return;
    svg("line", { class: "limit", x1: p.left, x2: p.right, y1: p.Y(value), y2: p.Y(value) }, p.root);
    svg("text", { x: p.right, y: p.Y(value) - 4, "text-anchor": "end" }, p.root, "limit");
  }
  // A line with a break where there is nothing to tell.
  function drawn(p, name, of) {
    let run = [];
    const end = () => {
      if (run.length > 1) svg("path", { d: line(run), style: style(name) }, p.root);
      else if (run.length) svg("circle", { cx: run[0][0], cy: run[0][1], r: 2.6, style: `fill:var(${LOOKS[name][0]})` }, p.root);
      run = [];
    };
    for (const w of windows) {
      const value = of(w);
      if (value === null || value === undefined) end(); else run.push([p.X(middle(w)), p.Y(value)]);
    }
    end();
  }
  function say(p, words) {
    hover(p.root, (fx) => {
      const at = (fx * p.width - p.left) / (p.right - p.left) * until;
      const w = windows.find((one) => one.begin <= at && at < one.end);
      if (!w) return "";
      const faults = w.faults.length ? `\nfault: ${w.faults.join(", ")}` : "";
      return `${clock(w.begin)} to ${clock(w.end)}${w.part === "warm-up" ? ", warming up" : ""}\n${words(w)}${faults}`;
    });
  }

  charts.rates = (figure) => {
    key(figure, ["offered", "due", "served"], { offered: "frames offered", due: "looks due", served: "looks served" });
    // Frames are many times the looks: each has an axis of its own.
    const frames = over(figure, 150, { low: 0, high: highest(windows.map((w) => w.offered), 1), label: "frames a second" });
    drawn(frames, "offered", (w) => w.offered);
    const looks = over(figure, 190, { low: 0, high: highest(windows.flatMap((w) => [w.served, w.due]), 0.1), label: "looks a second" });
    drawn(looks, "due", (w) => w.due);
    drawn(looks, "served", (w) => w.served);
    for (const p of [frames, looks]) {
      if (data.knee) {
        const x = p.X(data.knee[0]);
        svg("line", { class: "knee", x1: x, x2: x, y1: p.top, y2: p.floor }, p.root);
        if (p === looks) svg("text", { class: "knee-name", x: x > p.width / 2 ? x - 5 : x + 5, y: p.top + 11, "text-anchor": x > p.width / 2 ? "end" : "start" }, p.root, data.knee[1] === null ? "no step held" : `knee: ${data.knee[1]} cameras held`);
      }
      say(p, (w) => `${w.cameras} cameras\n${short(w.offered)} frames/s offered\n${short(w.served)} looks/s of ${short(w.due)} due\n${short(w.tokens)} visual tokens/s`);
    }
  };

  charts.latency = (figure) => {
    const shown = ["p50", "p95", "p99"].filter((_, i) => windows.some((w) => w.latency[i] !== null));
    key(figure, [...shown, "request"], { request: "median request, without the wait" });
    const values = windows.flatMap((w) => [...w.latency, w.request]);
    const p = over(figure, 240, { low: 0, high: highest([...values, 0], 0.01), label: "seconds", text: (v) => v === 0 ? "0" : duration(v) }, 62);
    limit(p, data.limits.p95_latency);
    drawn(p, "request", (w) => w.request);
    ["p50", "p95", "p99"].forEach((name, i) => drawn(p, name, (w) => w.latency[i]));
    say(p, (w) => `p50 ${seconds(w.latency[0])}, p95 ${seconds(w.latency[1])}, p99 ${seconds(w.latency[2])}\nrequest ${seconds(w.request)}\n${w.n} answers`);
  };

  charts.drops = (figure) => {
    key(figure, ["drops", "errors"], { drops: "frames dropped", errors: "requests failed" });
    const most = highest(windows.flatMap((w) => [w.drops, w.errors]), 0.01);
    const p = over(figure, 190, { low: 0, high: Math.min(1.03, most), text: percent }, 52);
    limit(p, data.limits.drop_share);
    drawn(p, "errors", (w) => w.errors);
    drawn(p, "drops", (w) => w.drops);
    say(p, (w) => `drops ${percent(w.drops)}\nerrors ${percent(w.errors)}`);
  };

  charts.memory = (figure) => {
    key(figure, data.roles);
    const trend = (t, at) => t.at_end - t.slope * (t.end_s - at);
    for (const role of data.roles) {
      const known = windows.filter((w) => w.memory[role] !== undefined && w.memory[role] !== null);
      const values = known.map((w) => w.memory[role]);
      const t = data.trends[role];
      const all = t ? [...values, trend(t, t.begin_s), t.at_end] : values;
      const low = Math.min(...all), high = Math.max(...all), room = Math.max(high - low, 0.05 * high, 1e6);
      const p = over(figure, 130, { low: Math.max(0, low - 0.25 * room), high: high + 0.25 * room, text: (v) => short(v / 1e6), label: `${role}, MB` }, 56);
      drawn(p, role, (w) => w.memory[role]);
      if (t) svg("path", { d: line([[p.X(t.begin_s), p.Y(trend(t, t.begin_s))], [p.X(t.end_s), p.Y(t.at_end)]]), style: "fill:none;stroke:var(--ink);stroke-width:1.3;stroke-dasharray:5 4" }, p.root);
      say(p, (w) => `${role} ${w.memory[role] === undefined ? "not seen" : megabytes(w.memory[role])}${t ? `\ntrend ${short(t.slope * 3600 / 1e6)} MB/h (${short(t.interval[0] * 3600 / 1e6)} to ${short(t.interval[1] * 3600 / 1e6)})` : ""}`);
    }
  };

  function draw() {
    hush();
    for (const figure of document.querySelectorAll("[data-chart]")) {
      figure.textContent = "";
      if (windows.length) charts[figure.dataset.chart](figure);
      else element("p", "empty", figure, "No window was closed.");
    }
  }
  kept(draw);
})();
