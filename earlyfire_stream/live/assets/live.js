// The live page: a wall of cameras that follows a run. Rules: strangers' words are only ever set as
// text; only cards in sight are drawn and only their pictures are asked for; what is stale looks stale.
"use strict";
(() => {
  const { svg, element, fixed, short, clock, duration, hover, plot, line, highest, dressed } = drawing;
  const STATES = {
    alarm: "alarm", false: "false alarm", suspicious: "suspicious", burning: "burning, not seen",
    off: "off", closer: "closer look", quiet: "quiet", waiting: "waiting",
  };
  const PILLS = { ...STATES, burning: "burning" };
  const RANK = Object.keys(STATES);
  const GROUP_OF = {
    answered: "n", sampled_out: "c", superseded: "c", context: "c", unsent: "g", lost: "g",
    abandoned: "g", undecodable: "f", expired: "f", over_budget: "f", bad_json: "f", engine_error: "f",
  };
  const KINDS = {
    true: "ALARM", false: "FALSE ALARM", unlocated: "ALARM beside the smoke", late: "ALARM, late",
    unknown: "ALARM, truth unknown", onset: "smoke begins", off: "off", back: "back",
    cut: "network cut by the scenario", mended: "network back",
    fault: "FAULT", fault_over: "fault over", unplayed: "fault not played",
  };
  const MANY = 24, LOADING = 6, PICTURE_MS = 900, FEED = 80, STALE_MS = 12000, POINTED_MS = 2000;
  const at = (id) => document.getElementById(id);
  const words = (text) => String(text).replaceAll("_", " ");
  const spoken = (kind) => String(kind).replaceAll("-", " ");
  const count = (n) => n >= 1e6 ? `${fixed(n / 1e6, 1)} M` : n >= 1e4 ? `${fixed(n / 1e3, 0)} k` : n.toLocaleString("en");
  const share = (p) => `${Math.round(100 * p)} %`;
  const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  let names = [], plans = [], rows = [], totals = {}, points = [], fates = [], run = {}, minutes = 5;
  let cards = [], loading = 0, chosen = new Set(), drawn = false, charted = true, reordered = true;
  let heard = Date.now(), detail = null;

  // --- cards ---

  const wall = at("wall");
  const seen = new IntersectionObserver((found) => {
    for (const one of found) {
      const card = one.target.card;
      card.near = one.isIntersecting;
      if (card.near) { card.dirty = true; soon(); }
    }
  }, { rootMargin: "150px" });

  function build(n) {
    const node = element("button", "cam shot", wall);
    node.type = "button";
    const frame = element("div", "frame", node);
    const image = element("img", "", frame);
    image.alt = "";
    image.decoding = "async";
    const blank = element("span", "blank", frame, run.following ? "no frame kept" : "no picture yet");
    const boxes = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" }, frame);
    const pill = element("span", "pill", frame);
    const since = element("span", "since", frame);
    const [clocked, took] = [element("b", "", since), element("span", "", since)];
    const said = element("div", "words", node);
    const top = element("div", "name", said);
    const name = element("b", "", top, names[n]);
    name.title = names[n];
    const verdict = element("span", "", top);
    const [word, sure] = [element("span", "", verdict), element("span", "sure", verdict)];
    const nums = element("div", "nums", said);
    const [latency, rate, tokens] = [0, 1, 2].map(() => element("span", "", nums));
    latency.title = "from capture to answer";
    rate.title = "seconds between the last two looks";
    tokens.title = "visual tokens spent on this camera";
    const card = {
      n, node, image, blank, boxes, pill, clocked, took, verdict, word, sure, latency, rate, tokens,
      near: false, dirty: true, shown: null, next: 0, busy: false, drew: "", gaps: [],
    };
    node.card = card;
    node.addEventListener("click", () => { location.hash = `camera-${n}`; });
    image.addEventListener("load", () => { card.busy = false; loading -= 1; card.blank.hidden = true; pump(); });
    image.addEventListener("error", () => { card.busy = false; loading -= 1; card.shown = null; card.next = Date.now() + 4000; image.removeAttribute("src"); });
    seen.observe(node);
    return card;
  }

  function drawBoxes(root, said, truth) {
    root.textContent = "";
    for (const [boxes, kind] of [[truth || [], "truth"], [said ? [said] : [], "said"]]) {
      for (const [x, y, width, height] of boxes) svg("rect", { class: kind, x, y, width, height }, root);
    }
  }
  const verdictOf = (row) => {
    if (row.w && row.s !== "off") return words(row.w);
    if (!row.v) return "";
    const [smoke, sure] = row.v;
    return (smoke ? "smoke" : "clear") + (sure === null ? "" : ` ${share(sure)}`);
  };
  const tookOf = (row) => {
    if (!row.f || row.f[2] === null) return "";
    const took = row.f[2];
    return ` · alarm at ${took < 60 ? `${fixed(took, 0)} s` : clock(took)}`;
  };

  // Looked at more often than usual, where only the looks tell of it; the usual is the longest of the last gaps, outages aside.
  function isFaster(card, row) {
    if (row.i === null) return false;
    if (card.gaps[card.gaps.length - 1] !== row.i) card.gaps.push(row.i);
    if (card.gaps.length > 12) card.gaps.shift();
    const sorted = [...card.gaps].sort((a, b) => a - b), middle = sorted[Math.floor(sorted.length / 2)];
    return row.i < 0.7 * Math.max(...sorted.filter((gap) => gap <= 2.5 * middle));
  }
  function paint(card) {
    const row = rows[card.n];
    card.dirty = false;
    if (!row) return;
    if (card.node.dataset.s !== row.s) card.node.dataset.s = row.s;
    set(card.pill, row.s === "off" && row.w ? words(row.w) : PILLS[row.s] || row.s);
    set(card.clocked, row.f ? clock(Math.max(0, totals.now - row.f[1])) : "");
    set(card.took, tookOf(row));
    set(card.word, row.w && row.s !== "off" ? words(row.w) : row.v ? (row.v[0] ? "smoke" : "clear") : "");
    set(card.sure, row.v && row.v[1] !== null && !(row.w && row.s !== "off") ? ` ${share(row.v[1])}` : "");
    card.verdict.className = row.v && row.v[0] && !row.w ? "smoke" : "";
    set(card.latency, row.l === null ? "" : duration(row.l));
    const faster = row.u === null ? isFaster(card, row) : row.u;
    set(card.rate, row.i === null ? "" : `${faster ? "▲ " : ""}look ${row.i < 10 ? fixed(row.i, 1) : fixed(row.i, 0)} s`);
    card.rate.className = faster ? "faster" : "";
    set(card.tokens, row.k ? `${count(row.k)} tok` : "");
    const smoke = row.v && row.v[0];
    const boxes = JSON.stringify([smoke ? row.b : null, row.t]);
    if (boxes !== card.drew && card.shown !== null && row.q !== null) {
      card.drew = boxes;
      drawBoxes(card.boxes, smoke ? row.b : null, row.t);
    }
  }

  // Pictures: a few at a time, the longest unseen first, none faster than once a second or so.
  const wantedOf = (row) => row.q !== null ? `picture?w=320&s=${row.q}` : row.r !== null && row.r !== undefined ? `key/${row.r}?w=320` : null;
  function pump() {
    if (document.hidden || document.body.dataset.link !== "live") return;
    const now = Date.now();
    const wanting = cards.filter((c) => c.near && !c.busy && c.next <= now && !c.node.hidden && rows[c.n] && wantedOf(rows[c.n]) !== null && wantedOf(rows[c.n]) !== c.shown);
    wanting.sort((a, b) => a.next - b.next);
    const pace = PICTURE_MS * Math.max(1, cards.filter((c) => c.near).length / 20);
    for (const card of wanting) {
      if (loading >= LOADING) return;
      const row = rows[card.n];
      loading += 1;
      card.busy = true;
      card.shown = wantedOf(row);
      card.next = now + pace;
      card.image.src = `/camera/${card.n}/${card.shown}`;
      card.dirty = true;
      card.drew = "";
      soon();
    }
  }
  setInterval(pump, 250);

  // A closer look comes and goes with every cloud; nothing moves for it.
  const rankOf = (n) => { const state = (rows[n] || {}).s; return RANK.indexOf(state === "closer" ? "quiet" : state); };
  let pointed = 0;
  wall.addEventListener("pointermove", () => { pointed = Date.now(); }, { passive: true });
  function reorder() {
    reordered = true;
    const urgent = at("order").value === "urgent";
    const wanted = [...cards];
    if (urgent) wanted.sort((a, b) => rankOf(a.n) - rankOf(b.n) || a.n - b.n);
    wanted.forEach((card, i) => { if (wall.children[i] !== card.node) wall.insertBefore(card.node, wall.children[i] || null); });
    sift();
  }
  function sift() {
    const text = at("search").value.trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const row = rows[card.n];
      const hidden = !(names[card.n].toLowerCase().includes(text) && (!chosen.size || (row && chosen.has(row.s))));
      if (card.node.hidden !== hidden) card.node.hidden = hidden;
      shown += !hidden;
    }
    at("none").hidden = shown > 0;
    set(at("none"), cards.length ? "no camera is like that now" : "no camera yet: the run is getting ready");
  }

  // --- everything else in sight ---

  const tiles = {};
  function tile(key, label, value, note = "", tone = "") {
    if (!tiles[key]) {
      const node = element("li", "", at("tiles"));
      tiles[key] = { node, label: element("span", "", node, label), value: element("b", "", node), note: element("small", "", node) };
    }
    set(tiles[key].value, value);
    set(tiles[key].note, note);
    if (tiles[key].node.className !== tone) tiles[key].node.className = tone;
  }
  const some = (v, write = short) => v === null || v === undefined ? "–" : write(v);

  function drawTotals() {
    const states = totals.states || {}, alarms = totals.alarms || {}, seenBy = totals.consumer;
    const all = Object.values(states).reduce((a, b) => a + b, 0), off = states.off || 0;
    set(at("clock"), run.began ? clock(totals.now || 0) : "–:––");
    set(at("speed"), run.speed && run.speed !== 1 ? `× ${short(run.speed)}` : "");
    at("progress").style.width = run.duration ? `${Math.min(100, 100 * (totals.now || 0) / run.duration)}%` : run.share ? `${100 * run.share}%` : "0";
    tile("cameras", "cameras on", count(all - off), `of ${count(run.cameras || all)}`);
    tile("burning", "fires burning", count(totals.burning || 0), "", totals.burning ? "warm" : "");
    const raised = Object.values(alarms).reduce((a, b) => a + b, 0);
    tile("alarms", "alarms", count(raised), alarms.false ? `${alarms.false} false` : "", states.alarm ? "hot" : "");
    tile("p50", "latency p50", some(totals.p50, duration), "");
    tile("p95", "latency p95", some(totals.p95, duration), totals.n ? `n ${count(totals.n)}` : "");
    tile("answered", "answers /s", some(totals.answered));
    tile("tokens", "tokens /s", some(totals.tokens, count), seenBy && seenBy.budget ? `of ${count(seenBy.budget)}` : "");
    if (run.following) tile("queue", "frames told", count(totals.scheduled || 0));
    else tile("queue", "waiting · in flight", seenBy ? `${seenBy.waiting} · ${seenBy.in_flight}` : "–");
    tile("late", "replay late", some(totals.late, duration));
    drawFaults();
    drawChips(states);
    drawLedger();
    drawHealth();
  }

  // What goes wrong on purpose just now: what, since when, and whom it meets.
  const faults = at("faults");
  function drawFaults() {
    const running = run.over ? [] : totals.faults || [];
    const whole = JSON.stringify([running, run.cameras]);
    if (faults.told === whole) return;
    faults.told = whole;
    faults.hidden = !running.length;
    faults.textContent = "";
    for (const [id, kind, since, camera, met] of running) {
      const item = element("li", "", faults);
      element("b", "", item, spoken(kind));
      if (id !== kind) element("span", "", item, id);
      element("span", "dim", item, `since ${clock(since)}`);
      element("span", "dim", item, camera || (met === run.cameras ? "all cameras" : `${met} cameras`));
    }
  }

  const chips = {};
  function drawChips(states) {
    for (const state of RANK) {
      const n = states[state] || 0;
      if (!chips[state]) {
        if (!n) continue;
        const chip = element("button", "", at("chips"));
        chip.type = "button";
        chip.dataset.s = state;
        chip.setAttribute("aria-pressed", "false");
        chip.addEventListener("click", () => {
          if (chosen.has(state)) chosen.delete(state); else chosen.add(state);
          chip.setAttribute("aria-pressed", String(chosen.has(state)));
          sift();
        });
        chips[state] = chip;
        for (const later of RANK) if (chips[later]) at("chips").append(chips[later]);
      }
      set(chips[state], `${STATES[state]} ${n}`);
      chips[state].hidden = !n && !chosen.has(state);
    }
  }

  function listed(place, entries) {
    const key = JSON.stringify(entries);
    if (place.told === key) return;
    place.told = key;
    place.textContent = "";
    for (const [term, value, kind] of entries) {
      const row = element("div", kind === "said" ? "said" : "", place);
      const word = element("dt", "", row, term);
      if (kind && kind !== "said") word.style.setProperty("--tone", `var(--${kind})`);
      element("dd", "", row, value);
    }
  }
  let ledgerKey = "";
  function drawLedger() {
    const fate = totals.fate || {};
    const key = JSON.stringify([fate, totals.scheduled, totals.pending]);
    if (key === ledgerKey) return;
    ledgerKey = key;
    const place = at("ledger");
    place.textContent = "";
    const told = Object.values(fate).reduce((a, b) => a + b, 0);
    const bar = element("div", "stack", place);
    const shown = fates.filter((f) => fate[f]);
    for (const f of shown) {
      const part = element("i", "", bar);
      part.style.width = `${100 * fate[f] / Math.max(1, told)}%`;
      part.style.background = `var(--${GROUP_OF[f] || "g"})`;
    }
    const list = element("dl", "", place);
    const entries = shown.map((f) => [words(f), fate[f].toLocaleString("en"), GROUP_OF[f] || "g"]);
    if (totals.scheduled) entries.unshift(["scheduled", totals.scheduled.toLocaleString("en")]);
    if (totals.pending !== null && totals.pending !== undefined) entries.push(["under way", Math.max(0, totals.pending).toLocaleString("en")]);
    listed(list, entries);
  }
  function drawHealth() {
    const seenBy = totals.consumer, entries = [];
    if (run.engine) entries.push(["engine", `${run.engine}${run.model ? ` · ${run.model}` : ""}`]);
    if (seenBy) {
      entries.push(["requests at a time", String(seenBy.concurrency)]);
      entries.push(["tokens spent", count(seenBy.spent)]);
      entries.push(["token budget", seenBy.budget ? `${count(seenBy.budget)} a second, ${share(seenBy.utilization)} used` : "not known yet"]);
      for (const [why, n] of Object.entries(seenBy.refused)) entries.push([`refused: ${words(why)}`, count(n), "f"]);
      if (seenBy.duplicates) entries.push(["came twice", count(seenBy.duplicates)]);
    }
    for (const [why, n] of Object.entries(totals.errors || {})) entries.push([`error: ${words(why)}`, count(n), "f"]);
    for (const [why, n] of Object.entries(totals.unreadable || {})) entries.push([`unreadable: ${words(why)}`, count(n), "f"]);
    if (totals.trouble) entries.push(["last error", totals.trouble, "said"]);
    for (const [name, value] of Object.entries(totals.gauges || {})) entries.push([name, typeof value === "number" ? short(value) : String(value)]);
    if (!Object.keys(totals.errors || {}).length && !Object.keys(totals.unreadable || {}).length) entries.push(["errors", "none"]);
    listed(at("health"), entries);
  }

  // --- events ---

  function addEvents(events) {
    const feed = at("feed");
    for (const event of events) {
      const item = element("li", "");
      item.dataset.kind = event.kind;
      element("span", "at", item, clock(event.at));
      const text = element("div", "", item);
      element("b", "", text, KINDS[event.kind] || event.kind);
      text.append(" ");
      if (event.n !== null && event.n !== undefined) {
        const link = element("a", "", text, event.camera);
        link.href = `#camera-${event.n}`;
      } else text.append(event.count ? `${event.count} camera${event.count > 1 ? "s" : ""}` : event.camera);
      if (event.fire) text.append(` · ${event.fire}`);
      if (event.why) text.append(` · ${spoken(words(event.why))}`);
      if (event.after !== undefined && event.after !== null) text.append(` · ${duration(event.after)} after onset`);
      feed.prepend(item);
    }
    while (feed.children.length > FEED) feed.lastChild.remove();
  }

  // --- charts of the last minutes ---

  const charts = {
    latency: (figure) => two(figure, 1, 2, (v) => v ? duration(v) : "0", ["p50", "p95"], 0.1),
    answered: (figure) => one(figure, 3, short, 1),
    tokens: (figure) => one(figure, 4, count, 100),
    queue: (figure) => two(figure, 5, 6, short, ["waiting", "in flight"], 2),
  };
  function axes(figure, values, write, least) {
    const last = points[points.length - 1][0], first = Math.max(points[0][0], last - 60 * minutes);
    const begin = Math.min(first, last - 30);
    const wide = last - begin > 90;
    const ticks = (wide ? [-240, -180, -120, -60, 0] : [-60, -45, -30, -15, 0]).map((v) => last + v).filter((v) => v >= begin);
    const p = plot(figure, 92, { low: begin, high: last, ticks, text: (v) => v === last ? "now" : wide ? `${(v - last) / 60} min` : `${v - last} s` },
      { low: 0, high: highest(values, least), text: write }, 48, 18);
    return { ...p, first };
  }
  function path(p, index, name) {
    let piece = [], under = "";
    const flush = () => {
      if (piece.length > 1) svg("path", { class: name, d: line(piece) }, p.root);
      else if (piece.length) svg("path", { class: name, d: line([piece[0], [piece[0][0] + 1, piece[0][1]]]) }, p.root);
      if (piece.length > 1 && name === "first") under += `${line(piece)}L${piece[piece.length - 1][0].toFixed(1)} ${p.floor}L${piece[0][0].toFixed(1)} ${p.floor}Z`;
      piece = [];
    };
    for (const point of points) {
      if (point[0] < p.first) continue;
      if (point[index] === null) flush(); else piece.push([p.X(point[0]), p.Y(point[index])]);
    }
    flush();
    if (under) svg("path", { class: "under", d: under }, p.root);
  }
  const near = (p, fx) => {
    const t = p.first, x = fx * p.width;
    let best = null, off = 14;
    for (const point of points) if (point[0] >= t && Math.abs(p.X(point[0]) - x) < off) { best = point; off = Math.abs(p.X(point[0]) - x); }
    return best;
  };
  function one(figure, index, write, least) {
    const p = axes(figure, points.map((q) => q[index]), write, least);
    path(p, index, "first");
    hover(p.root, (fx) => { const q = near(p, fx); return q && q[index] !== null ? write(q[index]) : ""; });
  }
  function two(figure, a, b, write, labels, least) {
    const p = axes(figure, points.flatMap((q) => [q[a], q[b]]), write, least);
    path(p, a, "first");
    path(p, b, "second");
    const keys = element("div", "keys", figure);
    for (const label of labels) { const key = element("span", "", keys); element("i", "", key); key.append(label); }
    hover(p.root, (fx) => { const q = near(p, fx); return q ? `${labels[0]} ${some(q[a], write)}\n${labels[1]} ${some(q[b], write)}` : ""; });
  }
  function drawCharts() {
    charted = true;
    at("queue").hidden = Boolean(run.following);
    for (const figure of document.querySelectorAll("[data-chart]")) {
      if (figure.closest("[hidden]")) continue;
      figure.textContent = "";
      if (points.length) charts[figure.dataset.chart](figure); else element("p", "empty small", figure, "nothing yet");
    }
  }

  // --- one camera ---

  const dialog = at("camera");
  const span = { begin: 0, end: 1, fates: [], faults: [] };
  const lines = timeline(span);
  const picture = element("img", "", at("camera-frame"));
  picture.alt = "";
  const pictureBoxes = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" }, at("camera-frame"));
  const entry = { canvas: at("camera-line"), lane: null, window: [0, 1], total: 0 };
  hover(entry.canvas, (fx) => entry.lane ? lines.describe(entry, fx) : "");

  function openHash() {
    const found = /^#camera-(\d{1,6})$/.exec(location.hash);
    if (!found) { if (dialog.open) dialog.close(); return; }
    detail = { n: Number(found[1]), asked: 0, busy: false, shown: null, looked: "" };
    picture.removeAttribute("src");
    pictureBoxes.textContent = "";
    for (const id of ["camera-keys", "camera-looks", "camera-legend"]) { at(id).textContent = ""; at(id).told = ""; }
    entry.lane = null;
    if (!dialog.open) dialog.showModal();
    freshen();
  }
  dialog.addEventListener("close", () => { detail = null; if (location.hash) history.replaceState(null, "", location.pathname); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  addEventListener("hashchange", openHash);

  async function freshen() {
    if (!detail || detail.busy || document.hidden) return;
    const mine = detail;
    mine.busy = true;
    mine.asked = Date.now();
    try {
      const answer = await fetch(`/camera/${mine.n}`);
      if (answer.ok && detail === mine) drawCamera(await answer.json());
      else if (answer.status === 404) dialog.close();
    } catch { /* the banner tells that the connection is lost */ }
    mine.busy = false;
  }
  function drawCamera(told) {
    const row = rows[told.n] || {};
    detail.told = told;
    set(at("camera-name"), told.id);
    const pill = at("camera-state");
    pill.dataset.s = row.s || "waiting";
    set(pill, STATES[row.s] || "");
    Object.assign(span, { begin: told.span[0], end: told.span[1], fates, faults: told.faults });
    Object.assign(entry, { lane: told.lane, window: [...told.span], total: told.lane.frames.t.length });
    lines.readColours();
    lines.drawDetail(entry);
    lines.drawLegend(at("camera-legend"), [told.lane]);
    at("camera-cut").hidden = !told.cut;
    set(at("camera-cut"), `The latest ${told.lane.frames.t.length} frames; the report holds all of them.`);
    drawFacts(row, told);
    drawKeys(told);
    drawLooks(told);
    drawPicture(row);
  }
  function drawPicture(row) {
    if (!detail) return;
    const wanted = row.q !== null && row.q !== undefined ? `/camera/${detail.n}/picture?w=960&s=${row.q}` : row.r !== null && row.r !== undefined ? `/camera/${detail.n}/key/${row.r}?w=960` : null;
    if (wanted && wanted !== detail.shown) { detail.shown = wanted; picture.src = wanted; }
    if (row.q !== null && row.q !== undefined) drawBoxes(pictureBoxes, row.v && row.v[0] ? row.b : null, row.t);
  }
  function drawFacts(row, told) {
    const latest = told.looks[0];
    listed(at("camera-facts"), [
      ["state", STATES[row.s] + (row.s === "off" && row.w ? `, ${words(row.w)}` : "")],
      ["last verdict", verdictOf(row) || "none yet"],
      ["seen at", row.v ? clock(row.v[2]) : "–"],
      ["fire", row.f ? `${row.f[0]}, ${clock(Math.max(0, totals.now - row.f[1]))} since onset` : told.lane.truth ? "none burns" : "truth unknown"],
      ["alarms", String(row.a)],
      ["latency", some(row.l, duration)],
      ["frames come every", row.c === null ? "–" : duration(row.c)],
      ["looked at every", row.i === null ? "–" : duration(row.i)],
      ["visual tokens", count(row.k || 0)],
      ...(latest && latest.tokens ? [["of the last look", count(latest.tokens)]] : []),
      ...told.lane.outages.map(([off, on]) => ["scripted outage", `${clock(off)} to ${clock(on)}`]),
      ...told.lane.faults.map((n) => told.faults[n]).filter(([, , from, to]) => from <= totals.now && totals.now < to).map(([, kind, from, to]) => [spoken(kind), `${clock(from)} to ${clock(to)}`]),
    ]);
  }
  function drawKeys(told) {
    const place = at("camera-keys");
    const keys = [...told.alarms.map((a) => ({ ...a, caption: `${(KINDS[a.kind] || a.kind).toLowerCase()}, frame ${a.seq} at ${clock(a.at)}${a.after === null ? "" : `, ${duration(a.after)} after onset`}` })),
      ...told.missed.map((m) => ({ ...m, b: null, caption: `missed: frame ${m.seq}` }))].slice(0, 24);
    const key = keys.map((k) => k.seq).join();
    if (place.told === key && place.children.length) return;
    place.told = key;
    place.textContent = "";
    if (!keys.length) { element("p", "empty small", place, "none: a frame is kept with each alarm, and the first ones in which a fire is missed"); return; }
    for (const one of keys) {
      const shot = element("figure", "shot", place);
      const frame = element("div", "frame", shot);
      const image = element("img", "", frame);
      image.alt = "";
      image.loading = "lazy";
      image.addEventListener("error", () => { frame.textContent = ""; element("span", "small dim", frame, "not kept"); });
      image.src = `/camera/${told.n}/key/${one.seq}?w=320`;
      drawBoxes(svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" }, frame), one.b, one.t);
      element("figcaption", "", shot, one.caption);
    }
  }
  function drawLooks(told) {
    const place = at("camera-looks");
    const key = told.looks.map((l) => l.seq + (l.why ? "w" : "")).join();
    if (detail.looked === key) return;
    detail.looked = key;
    place.textContent = "";
    for (const look of told.looks) {
      const row = element("tr", "", place);
      element("td", "", row, String(look.seq));
      element("td", "", row, clock(look.at));
      const said = look.smoke === null ? `${words(look.fate)}${look.reason ? `: ${words(look.reason)}` : ""}` : (look.smoke ? "smoke" : "clear") + (look.sure === null ? "" : ` ${share(look.sure)}`) + (look.twice ? ", looked twice" : "");
      element("td", look.smoke ? "strong" : "", row, said);
      element("td", "num", row, some(look.latency, duration));
      element("td", "num", row, count(look.tokens));
      element("td", "", row, look.text + (look.why ? `\n${look.why}` : ""));
    }
  }

  // --- drawing when there is something to draw ---

  function soon() {
    if (drawn) { drawn = false; requestAnimationFrame(drawAll); }
  }
  function drawAll() {
    drawn = true;
    for (const card of cards) if (card.near && card.dirty) paint(card);
    // Under a moving pointer nothing moves away.
    if (!reordered && Date.now() - pointed > POINTED_MS) reorder();
    if (!charted && !document.hidden) drawCharts();
  }
  drawn = true;

  function tellRun() {
    document.title = `${run.over ? "ended · " : ""}${run.scenario || "earlyfire"} · earlyfire live`;
    set(at("scenario"), run.scenario || "live");
    const more = [run.engine, run.model && run.model !== run.engine ? run.model : "", run.following ? "from its folder" : ""].filter(Boolean).join(" · ");
    set(at("engine"), run.stage ? `${run.stage}${run.share ? ` ${share(run.share)}` : " …"}` : more);
    at("over").hidden = !run.over;
    set(at("over-title"), run.interrupted ? run.stage || "The run was interrupted; what was played is scored." : "The run is over.");
    listed(at("result"), (run.result || []).map(([term, value]) => [term, value]));
    at("report").hidden = !run.report;
    drawFaults();
    tellLink();
  }
  function tellLink(state) {
    if (state) document.body.dataset.link = state;
    const now = document.body.dataset.link;
    document.body.dataset.phase = now !== "live" ? "" : run.over ? "ended" : run.began ? "on" : "ready";
    set(at("link"), now === "live" ? (run.over ? "ended" : run.began ? "live" : "getting ready") : now === "lost" ? (run.over ? "the page was closed with its run" : "connection lost, trying again") : "connecting");
  }

  function begin(whole) {
    ({ names, points, totals, fates, minutes } = whole);
    plans = whole.plans;
    run = { ...whole.run, speed: whole.speed, cameras: whole.cameras };
    rows = [];
    for (const row of whole.rows) rows[row.n] = row;
    for (const card of cards) { seen.unobserve(card.node); card.node.remove(); }
    loading = 0;
    cards = names.map((_, n) => build(n));
    wall.classList.toggle("many", cards.length > MANY);
    at("feed").textContent = "";
    addEvents(whole.events);
    ledgerKey = "";
    tellRun();
    drawTotals();
    reorder();
    charted = false;
    soon();
    if (detail || location.hash) openHash();
  }
  function tick(news) {
    if (news.names) {
      names = news.names;
      while (cards.length < names.length) cards.push(build(cards.length));
      wall.classList.toggle("many", cards.length > MANY);
      run.cameras = names.length;
    }
    for (const row of news.rows || []) {
      const before = rows[row.n];
      if (!before || (row.s && row.s !== before.s)) reordered = false;
      rows[row.n] = Object.assign(before || {}, row);
      if (cards[row.n]) cards[row.n].dirty = true;
    }
    if (news.totals) {
      Object.assign(totals, news.totals);
      if ("now" in news.totals) for (const card of cards) if (card.near && rows[card.n] && rows[card.n].f) card.dirty = true;
      drawTotals();
    }
    if (news.events) addEvents(news.events);
    if (news.points) {
      points.push(...news.points);
      points.splice(0, Math.max(0, points.length - 60 * minutes));
      charted = false;
    }
    if (news.run) { run = { ...run, ...news.run }; tellRun(); }
    if (detail) {
      const row = rows[detail.n];
      if (row) { drawPicture(row); if (detail.told) drawFacts(row, detail.told); }
      if (!run.over && Date.now() - detail.asked > 1500) freshen();
    }
    soon();
  }

  // --- the connection ---

  let source = null, again = 0;
  function connect() {
    clearTimeout(again);
    if (source) source.close();
    source = new EventSource("/events");
    heard = Date.now();
    const hear = (then) => (event) => {
      heard = Date.now();
      if (document.body.dataset.link !== "live") tellLink("live");
      then(JSON.parse(event.data));
    };
    source.addEventListener("whole", hear(begin));
    source.addEventListener("tick", hear(tick));
    source.addEventListener("error", () => {
      tellLink("lost");
      // A browser that gives up (refused, 401, 503) is told to go on here.
      if (source.readyState === EventSource.CLOSED) { clearTimeout(again); again = setTimeout(retry, 1500); }
    });
  }
  async function retry() {
    try {
      const answer = await fetch("/", { redirect: "manual" });
      if (answer.type === "opaqueredirect") { location.assign("/login"); return; }
    } catch { /* still away */ }
    connect();
  }
  setInterval(() => {
    if (!run.over && Date.now() - heard > STALE_MS && document.body.dataset.link === "live") { tellLink("lost"); connect(); }
  }, 2000);

  at("order").addEventListener("change", reorder);
  at("search").addEventListener("input", sift);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { charted = false; soon(); pump(); } });
  const redraw = () => { charted = false; soon(); if (detail && detail.told) drawCamera(detail.told); };
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  dressed(redraw);
  connect();
})();
