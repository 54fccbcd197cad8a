// What the charts of both pages are drawn with: elements, axes, numbers in words, the tip, the theme.
// Rules: strangers' words are only ever set as text; nothing is fetched.
"use strict";
const drawing = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const PAPER_PX = 680;  // 180 mm; A4 has 182 between the margins that page.css sets
  function svg(name, attributes, parent, text) {
    const made = document.createElementNS(NS, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }
  function element(name, className, parent, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }
  const fixed = (v, digits) => v.toLocaleString("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  });
  const short = (v) => {
    if (v === null || v === undefined) return "n/a";
    const size = Math.abs(v);
    return size >= 100 || Number.isInteger(v) ? fixed(v, 0) : size >= 10 ? fixed(v, 1) : fixed(v, 2);
  };
  function clock(s) {
    const sign = s < -0.5 ? "-" : "";
    const t = Math.round(Math.abs(s));
    const two = (v) => String(v).padStart(2, "0");
    const h = Math.floor(t / 3600), m = Math.floor(t / 60) % 60;
    return sign + (h ? `${h}:${two(m)}` : m) + ":" + two(t % 60);
  }
  function duration(s) {
    const size = Math.abs(s);
    if (size < 0.9995) return `${fixed(1000 * s, size < 0.00995 ? 1 : 0)} ms`;
    return size < 10 ? `${fixed(s, 2)} s` : size < 60 ? `${fixed(s, 1)} s` : `${clock(s)} ${size < 3600 ? "min" : "h"}`;
  }
  // Cameras of one dataset begin alike and differ at the end: the middle gives way, and a fire whose
  // name begins its camera's is not told twice.
  function cut(text, room) {
    if (text.length <= room) return text;
    const end = Math.ceil((room - 1) * 0.6);
    return text.slice(0, room - 1 - end) + "…" + text.slice(-end);
  }
  const view = (fire, camera) => !camera || camera.startsWith(fire) ? camera || fire : `${fire} · ${camera}`;
  // Steps that people count in: 1, 2, 5 · 10^n, and for clocks 15 s, 30 s, 1 min, ...
  function steps(low, high, most, timed) {
    const wanted = (high - low) / Math.max(1, most);
    const clocks = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
    let step;
    if (timed && wanted > 0.5) step = clocks.find((s) => s >= wanted) || Math.ceil(wanted / 86400) * 86400;
    else {
      const power = 10 ** Math.floor(Math.log10(wanted || 1));
      step = power * [1, 2, 5, 10].find((m) => m * power >= wanted * 0.999);
    }
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return found;
  }
  const scale = (low, high, from, to) => (v) => from + (v - low) / (high - low || 1) * (to - from);

  const tip = document.getElementById("tip");
  function tell(event, text) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.max(6, Math.min(event.clientX + 14, innerWidth - box.width - 6));
    const above = event.clientY - box.height - 12;
    tip.style.left = `${x}px`;
    tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  }
  const hush = () => { tip.hidden = true; };
  function hover(target, ask) {
    const move = (event) => {
      const box = target.getBoundingClientRect();
      const text = ask((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      if (text) tell(event, text); else hush();
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerdown", move);
    target.addEventListener("pointerleave", hush);
  }

  // A frame with axes; `x` and `y` hold low, high, and how to write a value.
  function plot(figure, height, x, y, left = 46, bottom = 34) {
    const width = Math.max(240, figure.clientWidth);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, figure);
    const right = width - 18, top = 14, floor = height - bottom;  // half of the last tick stands beyond it
    const X = x.at || scale(x.low, x.high, left, right);
    const Y = scale(y.low, y.high, floor, top);
    for (const v of y.ticks || steps(y.low, y.high, 4, y.timed)) {
      svg("line", { class: "grid", x1: left, x2: right, y1: Y(v), y2: Y(v) }, root);
      svg("text", { x: left - 7, y: Y(v) + 4, "text-anchor": "end" }, root, (y.text || short)(v));
    }
    for (const v of x.ticks || steps(x.low, x.high, width < 500 ? 4 : 8, x.timed)) {
      svg("text", { x: X(v), y: floor + 16, "text-anchor": "middle" }, root, (x.text || short)(v));
    }
    svg("line", { class: "grid", x1: left, x2: right, y1: floor, y2: floor }, root);
    if (x.label) svg("text", { x: right, y: floor + 30, "text-anchor": "end" }, root, x.label);
    if (y.label) svg("text", { x: left, y: 9 }, root, y.label);
    return { root, X, Y, left, right, top, floor, width, height };
  }
  // Writes a name beside its point: at the first place around it that lies inside the chart, where no
  // curve runs through it and no other name stands. What must be told is told at the first place
  // without a name, crossed or not; all else is left out, as are points upon one that has its name.
  function caption(p, taken, curves, x, y, text, must, gap = 9) {
    if (!must && taken.some(([, , , u, v]) => Math.hypot(u - x, v - y) < 10)) return;
    const w = 6.6 * text.length + 4, h = 13;
    const spots = [[x + gap, y - h / 2], [x - gap - w, y - h / 2], [x - w / 2, y - gap - h], [x - w / 2, y + gap],
      [x + 5, y - gap - h], [x + 5, y + gap], [x - 5 - w, y - gap - h], [x - 5 - w, y + gap]];
    const inside = spots.filter(([a, b]) => a >= p.left && a + w <= p.right + 8 && b >= p.top - 12 && b + h <= p.floor - 1);
    const free = inside.filter(([a, b]) => !taken.some(([c, d, other]) => a < c + other && c < a + w && b < d + h && d < b + h));
    const crossed = ([a, b]) => curves.some((points) => points.some(([x1, y1], i) => {
      if (!i) return false;
      const [x0, y0] = points[i - 1], parts = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 3) || 1;
      for (let n = 0; n <= parts; n++) {
        const u = x0 + (x1 - x0) * n / parts, v = y0 + (y1 - y0) * n / parts;
        if (a - 1 < u && u < a + w + 1 && b < v && v < b + h) return true;
      }
      return false;
    }));
    const spot = free.find((one) => !crossed(one)) || (must ? free[0] || spots[0] : null);
    if (!spot) return;
    taken.push([...spot, w, x, y]);
    svg("text", { x: spot[0] + 2, y: spot[1] + 10.5, class: must ? "strong" : "" }, p.root, text);
  }
  const line = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const highest = (values, least) => Math.max(least, ...values.filter((v) => v !== null)) * 1.06;
  function column(p, i, count) {
    const w = (p.right - p.left) / count;
    return [p.left + i * w, w];
  }
  function nearest(p, rows, say) {
    hover(p.root, (fx) => {
      const x = fx * p.width;
      let best = null, off = 24;
      for (const row of rows) if (Math.abs(p.X(row[0]) - x) < off) { best = row; off = Math.abs(p.X(row[0]) - x); }
      return best ? say(best) : "";
    });
  }

  // The button that switches between the system's colours, light and dark; `draw` draws all again.
  function dressed(draw) {
    const button = document.getElementById("theme");
    const themes = ["system", "light", "dark"];
    const remember = (value) => { try { if (value) localStorage.setItem("earlyfire-theme", value); return localStorage.getItem("earlyfire-theme"); } catch { return null; } };
    function dress(theme) {
      if (theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = theme;
      button.textContent = `theme: ${theme}`;
      button.dataset.now = theme;
    }
    dress(themes.includes(remember()) ? remember() : "system");
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(button.dataset.now) + 1) % themes.length];
      remember(next);
      dress(next);
      draw();
    });
  }

  // Draws now, and again whenever colours, width or medium change; paper may want more.
  function kept(draw, print = draw) {
    dressed(draw);
    draw();
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      requestAnimationFrame(draw);
    });
    // Pages are counted before the page hears that it is on paper: what grows then is cut off at the
    // end. So beforehand it is drawn as narrow as paper, and what is folded away on a screen is told,
    // a scenario's whole text aside; colours follow when the medium has changed.
    const paper = matchMedia("print");
    let folded = [];
    const unfold = () => {
      const shut = [...document.querySelectorAll("details:not([open], .wide)")];
      for (const one of shut) one.open = true;
      folded = [...folded, ...shut];
    };
    const fold = () => {
      for (const one of folded) one.open = false;
      folded = [];
    };
    addEventListener("beforeprint", () => {
      unfold();
      const main = document.querySelector("main"), inside = main.querySelector("section");
      const { paddingLeft, paddingRight } = getComputedStyle(inside);
      const around = main.offsetWidth - inside.clientWidth + parseFloat(paddingLeft) + parseFloat(paddingRight);
      main.style.cssText = `width: ${PAPER_PX + around}px; max-width: none`;
      print();
      main.style.cssText = "";
    });
    paper.addEventListener("change", () => {
      if (paper.matches) unfold(); else fold();
      print();
    });
  }

  return {
    svg, element, fixed, short, clock, duration, cut, view, steps, scale, tell,
    hush, hover, nearest, plot, caption, line, highest, column, dressed, kept,
  };
})();
