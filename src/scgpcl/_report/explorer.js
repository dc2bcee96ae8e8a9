"use strict";
// The page's map, list of clusters and annotation. Names come from strangers: text is only ever set as text.
(async () => {
  const FORMAT = "scgpcl annotation";
  const VERSION = 1;
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const frame = $("frame");

  // ---------------------------------------------------------------- small tools
  const make = (tag, fields = {}, ...children) => {
    const { style, dataset, aria, ...rest } = fields;
    const element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.style, style);
    Object.assign(element.dataset, dataset);
    for (const name in aria) element.setAttribute(`aria-${name}`, aria[name]);
    element.append(...children);
    return element;
  };
  const bytes = async (text) => {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };
  const whole = (n) => Math.round(n).toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const decimals = (value) => (Math.abs(value) >= 100 ? whole(value) : value.toFixed(Math.abs(value) >= 10 ? 1 : 2));
  const shown = (column, value) => (column.log ? whole(10 ** value) : decimals(value));
  const number = (column, step) => column.low + ((column.high - column.low) * (step - 1)) / 65534;

  // ---------------------------------------------------------------- cells
  const nAtoms = data.sizes.length;
  const nGenes = data.genes.length;
  const nShown = data.n_shown;
  const atomOf = new Uint16Array(await bytes(data.atoms));
  const links = new Float32Array(await bytes(data.links));
  const mean = new Float32Array(await bytes(data.mean));
  const detected = new Float32Array(await bytes(data.detected));
  for (const column of data.columns) {
    column.codes = new Uint8Array(await bytes(column.data));
    column.counts = new Float32Array(await bytes(column.counts));
  }
  for (const column of data.values) column.steps = new Uint16Array(await bytes(column.data));
  const cellNames = new TextDecoder().decode(await bytes(data.cells)).split("\n");
  const geneSteps = async (gene) => (gene.steps ??= new Uint8Array(await bytes(gene.data)));
  const x = new Float32Array(nShown);
  const y = new Float32Array(nShown);
  if (data.positions) {
    const placed = new Uint16Array(await bytes(data.positions));
    for (let i = 0; i < nShown; i++) {
      x[i] = (placed[2 * i] / 65535) * 1.9 - 0.95;
      y[i] = (placed[2 * i + 1] / 65535) * 1.9 - 0.95;
    }
  }
  // a fixed random order, so that no group hides another
  const shuffled = Uint32Array.from({ length: nShown }, (_, i) => i);
  for (let i = nShown - 1, state = 1; i > 0; i--) {
    state = (state * 48271) % 2147483647;
    const j = state % (i + 1);
    [shuffled[i], shuffled[j]] = [shuffled[j], shuffled[i]];
  }

  // ---------------------------------------------------------------- groups: clusters of a level, some of them merged
  const levels = data.levels;
  const fresh = (level) => level.groups.map((_, member) => ({ members: [member], name: "", comment: "" }));
  const edits = levels.map(fresh);
  const unsaved = new Set();
  const past = [];
  let at = data.start;
  let chosen = null; // the first member of a group, which stays the same when others are merged into it
  let groups = []; // of the level, with everything that is shown about them
  let groupOf = new Int16Array(nAtoms);

  const describe = () => {
    const level = levels[at];
    const total = sum(data.sizes);
    const own = edits[at].map((edit) => {
      const atoms = [];
      level.atoms.forEach((member, atom) => edit.members.includes(member) && atoms.push(atom));
      const size = sum(atoms.map((atom) => data.sizes[atom]));
      const parts = edit.members.map((member) => level.groups[member]);
      const sizes = edit.members.map((m) => sum(atoms.filter((a) => level.atoms[a] === m).map((a) => data.sizes[a])));
      const largest = edit.members[sizes.indexOf(Math.max(...sizes))];
      return {
        edit, atoms, size, parts, sizes, id: edit.members[0], share: size / total, color: level.colors[largest],
        label: edit.name || parts.join(" + "),
        confidence: data.confidence && sum(atoms.map((a) => data.confidence[a] * data.sizes[a])) / size,
      };
    });
    groupOf = new Int16Array(nAtoms).fill(-1);
    own.forEach((group, i) => group.atoms.forEach((atom) => (groupOf[atom] = i)));
    for (const group of own) {
      const to = new Float64Array(own.length);
      for (const a of group.atoms) for (let b = 0; b < nAtoms; b++) if (groupOf[b] >= 0) to[groupOf[b]] += links[a * nAtoms + b];
      const all = sum([...to]) || 1;
      group.near = [...to].map((n, i) => ({ group: own[i], share: n / all }));
      group.genes = markers(group, level);
    }
    groups = own;
  };

  /** Marker genes of a group with shares and fold change; those of a merged group are found among the genes of the page. */
  const markers = (group, level) => {
    const inside = new Float64Array(nGenes), outside = new Float64Array(nGenes);
    const found = new Float64Array(nGenes), rest = new Float64Array(nGenes);
    let nIn = 0, nOut = 0;
    for (let a = 0; a < nAtoms; a++) {
      if (level.atoms[a] < 0) continue;
      const isIn = group.atoms.includes(a);
      isIn ? (nIn += data.sizes[a]) : (nOut += data.sizes[a]);
      for (let g = 0; g < nGenes; g++) {
        (isIn ? inside : outside)[g] += mean[a * nGenes + g] * data.sizes[a];
        (isIn ? found : rest)[g] += detected[a * nGenes + g] * data.sizes[a];
      }
    }
    const row = (g) => ({
      gene: g, in: found[g] / nIn, out: nOut ? rest[g] / nOut : 0, difference: inside[g] / nIn - (nOut ? outside[g] / nOut : 0),
      fold: Math.log2((Math.expm1(inside[g] / nIn) + 1e-9) / (Math.expm1(nOut ? outside[g] / nOut : 0) + 1e-9)),
    });
    if (group.edit.members.length === 1) return level.genes[group.edit.members[0]].map(row);
    const all = data.genes.map((_, g) => row(g)).filter((one) => one.fold >= 1 && nOut);
    return all.sort((a, b) => b.difference - a.difference).slice(0, data.listed);
  };
  /** Shares of a group's cells in the groups of another column, the largest first. */
  const shares = (column, group) => {
    const n = column.names.length;
    const share = (k) => sum(group.atoms.map((a) => column.counts[a * n + k])) / group.size;
    return column.names.map((text, k) => ({ text, share: share(k) })).sort((a, b) => b.share - a.share);
  };
  const find = (id) => groups.find((group) => group.id === id);
  const swatch = (color) => make("span", { className: "swatch", style: { background: tone(color) } });

  // ---------------------------------------------------------------- colours
  const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const scale = () => data.scales[dark() ? "dark" : "light"];
  /** A colour that can be seen on the page: on a dark page, dark ones are made paler. */
  const tone = (color) => {
    const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const light = (0.21 * parts[0] + 0.72 * parts[1] + 0.07 * parts[2]) / 255;
    if (!dark() || light > 0.3) return color;
    const white = (0.3 - light) / (1 - light) + 0.1;
    return `#${parts.map((part) => Math.round(part + white * (255 - part)).toString(16).padStart(2, "0")).join("")}`;
  };

  // ---------------------------------------------------------------- map
  let plot = null;
  let index; // the library's search index, which depends on positions only
  let color = { kind: "cluster" };

  /** Step of each cell on the palette (0: faint), the palette, and whether larger steps lie on top. */
  const colored = async () => {
    const steps = new Uint8Array(nShown);
    const picked = find(chosen);
    const isOut = (i) => picked && groups[groupOf[atomOf[i]]] !== picked;
    if (color.kind === "cluster") {
      const wide = new Uint16Array(nShown);
      for (let i = 0; i < nShown; i++) wide[i] = isOut(i) ? 0 : groupOf[atomOf[i]] + 1;
      return { steps: wide, palette: groups.map((group) => tone(group.color)), ranked: Boolean(picked) };
    }
    if (color.kind === "column") {
      for (let i = 0; i < nShown; i++) steps[i] = isOut(i) ? 0 : color.of.codes[i];
      return { steps, palette: color.of.colors.map(tone), ranked: Boolean(picked) };
    }
    const last = scale().length - 1;
    if (color.kind === "gene") {
      const values = await geneSteps(color.of);
      for (let i = 0; i < nShown; i++) steps[i] = isOut(i) ? 0 : values[i];
    } else {
      const values = color.of.steps;
      for (let i = 0; i < nShown; i++) steps[i] = isOut(i) || !values[i] ? 0 : 1 + Math.round(((values[i] - 1) / 65534) * last);
    }
    return { steps, palette: scale(), ranked: true };
  };

  const ordered = (steps, ranked) => {
    if (!ranked) return Array.from(shuffled);
    const n = new Uint32Array(65537);
    for (let i = 0; i < nShown; i++) n[steps[i] + 1]++;
    for (let k = 1; k < n.length; k++) n[k] += n[k - 1];
    const order = new Array(nShown);
    for (const i of shuffled) order[n[steps[i]]++] = i;
    return order;
  };

  const pointSize = () => {
    const area = frame.clientWidth * frame.clientHeight;
    return Math.min(7, Math.max(1.3, Math.sqrt((0.16 * area) / nShown)));
  };

  let drawing = Promise.resolve();
  const draw = () => {
    drawing = drawing.then(async () => {
      if (!plot) return;
      const { steps, palette, ranked } = await colored();
      plot.set({
        pointColor: [css("--faint"), ...palette], pointColorActive: css("--mark"), pointColorHover: css("--mark"),
        backgroundColor: css("--paper"), pointSize: pointSize(),
      });
      await plot.draw({ x, y, z: steps }, { zDataType: "categorical", spatialIndex: index });
      index ??= plot.get("spatialIndex");
      plot.set({ pointOrder: ordered(steps, ranked && nShown > 1) });
      legend();
      place();
    });
    return drawing;
  };

  /** Cell in the middle of each group: the nearest to the median of its positions. */
  const centers = () => {
    const cells = groups.map(() => []);
    for (let i = 0; i < nShown; i++) if (groupOf[atomOf[i]] >= 0) cells[groupOf[atomOf[i]]].push(i);
    const middle = (values) => values.sort()[values.length >> 1];
    groups.forEach((group, g) => {
      const mx = middle(Float32Array.from(cells[g], (i) => x[i]));
      const my = middle(Float32Array.from(cells[g], (i) => y[i]));
      let best = Infinity;
      group.center = -1;
      for (const i of cells[g]) {
        const d = Math.abs(x[i] - mx) + Math.abs(y[i] - my);
        if (d < best) [best, group.center] = [d, i];
      }
    });
  };

  const place = () => {
    const placed = [];
    const spans = [];
    for (const group of [...groups].sort((a, b) => (b.id === chosen) - (a.id === chosen) || b.size - a.size)) {
      if (group.center < 0) continue;
      const [left, top] = plot.getScreenPosition(group.center);
      const half = Math.min(88, 3.7 * group.label.length + 4);
      if (left < 0 || top < 0 || left > frame.clientWidth || top > frame.clientHeight) continue;
      if (placed.some((one) => Math.abs(one.left - left) < one.half + half && Math.abs(one.top - top) < 16)) continue;
      placed.push({ left, top, half });
      const dim = chosen !== null && group.id !== chosen;
      spans.push(make("span", { textContent: group.label, className: dim ? "dim" : "", style: { left: `${left}px`, top: `${top}px` } }));
    }
    $("tags").replaceChildren(...spans);
  };

  const legend = () => {
    const parts = [];
    if (color.kind === "column") {
      color.of.names.forEach((name, i) => parts.push(make("span", {}, swatch(color.of.colors[i]), name)));
    } else if (color.kind !== "cluster") {
      const gene = color.kind === "gene";
      const gradient = `linear-gradient(to right, ${[...(gene ? [css("--faint")] : []), ...scale()].join(", ")})`;
      parts.push(
        make("span", { textContent: gene ? color.of.name : color.of.caption, className: gene ? "gene" : "" }),
        make("span", { textContent: gene ? "0" : shown(color.of, color.of.low), className: "number" }),
        make("span", { className: "bar", style: { background: gradient } }),
        make("span", { textContent: gene ? decimals(color.of.max) : shown(color.of, color.of.high), className: "number" }),
      );
      if (gene) parts.push(make("span", { textContent: "log(1 + counts per 10,000)", className: "note" }));
      else if (color.of.log) parts.push(make("span", { textContent: "logarithmic", className: "note" }));
    } else if (data.n_shown < data.n_cells) {
      parts.push(make("span", { className: "note", textContent: `${whole(data.n_shown)} of ${whole(data.n_cells)} cells, chosen at random` }));
    }
    $("legend").replaceChildren(...parts);
  };

  const tell = (cell) => {
    const tip = $("tip");
    tip.hidden = cell === undefined;
    if (tip.hidden) return;
    const line = (caption, value) => make("span", {}, caption, make("i", { textContent: value }));
    const group = groups[groupOf[atomOf[cell]]];
    const lines = [make("b", { textContent: cellNames[cell] }), line("Cluster", group ? group.label : "none")];
    for (const column of data.columns) lines.push(line(column.caption, column.names[column.codes[cell] - 1] ?? "none"));
    for (const column of data.values)
      lines.push(line(column.caption, column.steps[cell] ? shown(column, number(column, column.steps[cell])) : "none"));
    if (color.kind === "gene") lines.push(line(color.of.name, decimals((color.of.steps[cell] / (scale().length - 1)) * color.of.max)));
    tip.replaceChildren(...lines);
    const [left, top] = plot.getScreenPosition(cell);
    tip.style.left = `${Math.max(0, Math.min(left + 12, frame.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${top + 14 + tip.offsetHeight < frame.clientHeight ? top + 14 : Math.max(0, top - tip.offsetHeight - 10)}px`;
  };

  /** Distance from which the whole square of cells is in view; at 1 it is as high as the frame. */
  const home = () => Math.max(1, frame.clientHeight / frame.clientWidth);
  const look = (dx, dy, zoom) => {
    const target = plot.get("cameraTarget");
    const distance = Math.min(2 * home(), Math.max(0.005, plot.get("cameraDistance") * zoom));
    plot.zoomToLocation([target[0] + dx * distance, target[1] + dy * distance], distance);
  };

  const startMap = async () => {
    if (!data.positions) return;
    try {
      plot = reglScatterplot.create({
        canvas: $("canvas"), width: "auto", height: "auto", colorBy: "valueA", pointOutlineWidth: 1, pointSizeSelected: 1,
        actionKeyMap: {}, deselectOnEscape: false, deselectOnDblClick: false, opacity: nShown > 30000 ? 0.8 : 0.95,
        backgroundColor: css("--paper"), cameraDistance: home(),
      });
    } catch {
      return; // no WebGL: the picture stays
    }
    plot.subscribe("view", () => { $("tip").hidden = true; place(); });
    plot.subscribe("pointover", tell);
    plot.subscribe("pointout", () => tell());
    plot.subscribe("select", ({ points }) => {
      plot.deselect({ preventEvent: true });
      const group = groups[groupOf[atomOf[points[0]]]];
      if (group) choose(group.id === chosen ? null : group.id);
    });
    const keys = {
      ArrowLeft: [-0.2, 0, 1], ArrowRight: [0.2, 0, 1], ArrowUp: [0, 0.2, 1], ArrowDown: [0, -0.2, 1],
      "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25],
    };
    frame.addEventListener("keydown", (event) => {
      if (event.target !== frame || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "0" || event.key === "Home") plot.zoomToLocation([0, 0], home());
      else if (keys[event.key]) look(...keys[event.key]);
      else return;
      event.preventDefault();
    });
    $("closer").onclick = () => look(0, 0, 0.7);
    $("farther").onclick = () => look(0, 0, 1.4);
    $("whole").onclick = () => plot.zoomToLocation([0, 0], home());
    // the library listens to the mouse only: one finger moves, two zoom
    let fingers = null;
    const measure = (touches) => {
      const [a, b] = [touches[0], touches[touches.length - 1]];
      return { n: touches.length, x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2, apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
    };
    $("canvas").addEventListener("touchstart", (event) => (fingers = measure(event.touches)), { passive: true });
    $("canvas").addEventListener("touchmove", (event) => {
      event.preventDefault();
      const now = measure(event.touches);
      const unit = 2 / frame.clientHeight;
      if (fingers && now.n === fingers.n) look((fingers.x - now.x) * unit, (now.y - fingers.y) * unit, now.apart ? fingers.apart / now.apart : 1);
      fingers = now;
    }, { passive: false });
  };

  // ---------------------------------------------------------------- panel: the list of clusters, or one of them
  const choose = (id, focus = false) => {
    chosen = id;
    panel();
    draw();
    if (focus) (id === null ? $("panel").querySelector("button") : $("panel").querySelector("h3"))?.focus();
  };

  const panel = () => {
    const group = find(chosen);
    $("panel").replaceChildren(...(group ? [card(group)] : groups.map(row)));
    $("panel").scrollTop = 0;
  };

  const row = (group) =>
    make("button", { type: "button", className: "row", onclick: () => choose(group.id, true), dataset: { group: group.id } },
      swatch(group.color),
      make("span", { className: "what" }, make("bdi", { textContent: group.label }),
        make("small", { textContent: group.genes.slice(0, 4).map((one) => data.genes[one.gene].name).join(", ") || "no marker genes" })),
      make("span", { className: "count", textContent: whole(group.size) }));

  const card = (group) => {
    const position = groups.indexOf(group);
    const to = (step) => choose(groups[(position + step + groups.length) % groups.length].id, true);
    const edit = (change) => { remember(); change(group.edit); refresh(); };
    const facts = [["cells", whole(group.size)], ["of all cells", percent(group.share)]];
    if (group.confidence !== null) facts.push(["mean confidence", group.confidence.toFixed(2)]);
    const holds = data.levels[at].stability?.[group.edit.members[0]];
    if (holds && group.parts.length === 1) {
      ["of thinned cells", "of halves", "of sub-samples"].forEach((of, i) => facts.push([`Jaccard ${of}`, holds[i].toFixed(2)]));
    }
    const name = make("input", { type: "text", id: "name", value: group.edit.name, placeholder: group.parts.join(" + "), maxLength: 200, autocomplete: "off" });
    name.onchange = () => edit((one) => (one.name = name.value.trim()));
    const comment = make("textarea", { id: "comment", value: group.edit.comment, maxLength: 5000 });
    comment.onchange = () => edit((one) => (one.comment = comment.value.trim()));
    const others = make("select", { id: "other" }, ...[...group.near].filter((one) => one.group !== group)
      .sort((a, b) => b.share - a.share).map((one) => make("option", { value: one.group.id, textContent: one.group.label })));
    const merge = make("button", { type: "button", id: "merge", className: "quiet", textContent: "Merge", disabled: groups.length < 2 });
    merge.onclick = () => edit((one) => {
      const other = find(Number(others.value)).edit;
      one.members.push(...other.members);
      one.name ||= other.name;
      one.comment = [one.comment, other.comment].filter(Boolean).join("\n");
      edits[at] = edits[at].filter((each) => each !== other);
    });
    const split = make("button", { type: "button", id: "split", className: "quiet", textContent: "Undo merge", hidden: group.parts.length < 2 });
    split.onclick = () => edit((one) => {
      const parts = one.members.slice(1).map((member) => ({ members: [member], name: "", comment: "" }));
      one.members = one.members.slice(0, 1);
      edits[at] = [...edits[at], ...parts].sort((a, b) => a.members[0] - b.members[0]);
    });
    const genes = make("table", { className: "genes" },
      make("thead", {}, make("tr", {}, ...["Marker gene", "In cluster", "Elsewhere", "log2 fold"].map((text, i) =>
        make("th", { textContent: text, scope: "col", className: i ? "number" : "" })))),
      make("tbody", {}, ...group.genes.map((one) => make("tr", {},
        make("td", {}, make("button", { type: "button", textContent: data.genes[one.gene].name, title: "Colour the map by this gene", onclick: () => paint(`gene ${one.gene}`) })),
        ...[percent(one.in), percent(one.out), one.fold.toFixed(1)].map((text) => make("td", { textContent: text, className: "number" }))))));
    const near = [...group.near].filter((one) => one.group !== group && one.share >= 0.005).sort((a, b) => b.share - a.share).slice(0, 4);
    const within = group.near[position].share;
    const parts = data.columns.map((column) => {
      const top = shares(column, group).filter((one) => one.share > 0.005);
      return [make("h4", { textContent: column.caption }), make("ul", { className: "list" },
        ...top.slice(0, 4).map((one) => make("li", {}, make("bdi", { textContent: one.text }), make("span", { textContent: percent(one.share) }))))];
    });
    return make("div", { className: "card" },
      make("nav", {},
        make("button", { type: "button", id: "back", className: "quiet", textContent: "‹ All clusters", onclick: () => choose(null, true) }),
        make("span", {},
          make("button", { type: "button", className: "quiet", textContent: "↑", title: "Previous cluster", aria: { label: "Previous cluster" }, onclick: () => to(-1) }), " ",
          make("button", { type: "button", className: "quiet", textContent: "↓", title: "Next cluster", aria: { label: "Next cluster" }, onclick: () => to(1) }))),
      make("h3", { tabIndex: -1 }, swatch(group.color), make("bdi", { textContent: group.label })),
      make("dl", { className: "numbers" }, ...facts.map(([term, value]) => make("div", {}, make("dt", { textContent: term }), make("dd", { textContent: value })))),
      make("label", {}, "Name", name), make("label", {}, "Comment", comment),
      make("div", { className: "two" }, make("label", {}, "Merge with", others), merge), split,
      ...(group.genes.length ? [make("h4", { textContent: "Marker genes" }), genes] : [make("h4", { textContent: "No marker genes" })]),
      make("h4", { textContent: "Neighbours" }),
      make("p", { className: "note", textContent: `${percent(within)} of the nearest cells of its cells are in this cluster.` }),
      make("ul", { className: "list" }, ...near.map((one) => make("li", {},
        make("button", { type: "button", className: "link", textContent: one.group.label, onclick: () => choose(one.group.id, true) }),
        make("span", { textContent: percent(one.share) })))),
      ...parts.flat());
  };

  // ---------------------------------------------------------------- tables below the map
  const table = () => {
    const body = document.querySelector(".table tbody");
    const heads = [...document.querySelectorAll(".table thead th")].map((th) => th.textContent);
    const closest = heads.findIndex((text) => text.startsWith("Closest in "));
    const column = data.columns.find((one) => one.is_type);
    const name = heads.indexOf("Name");
    const named = data.columns.find((one) => one.caption === "Name");
    body.replaceChildren(...groups.map((group) => {
      const cells = [make("th", { scope: "row" }, swatch(group.color), make("button", { type: "button", className: "link", textContent: group.label, onclick: () => { choose(group.id); frame.scrollIntoView({ block: "center" }); } }))];
      if (name > 0) cells.push(make("td", {}, make("bdi", { textContent: named ? shares(named, group)[0].text : "" })));
      cells.push(make("td", { className: "number", textContent: whole(group.size) }), make("td", { className: "number", textContent: percent(group.share) }));
      if (group.confidence !== null) cells.push(make("td", { className: "number", textContent: group.confidence.toFixed(2) }));
      if (closest > 0) {
        const best = column && shares(column, group)[0];
        cells.push(make("td", {}, make("bdi", { textContent: best ? `${best.text} (${percent(best.share)})` : "" })));
      }
      const genes = group.genes.flatMap((one, i) => [...(i ? [", "] : []), make("bdi", { className: "gene", textContent: data.genes[one.gene].name })]);
      const last = make("td", {}, ...(genes.length ? genes : ["none"]));
      if (group.edit.comment) last.append(make("p", { className: "note", textContent: group.edit.comment }));
      return make("tr", {}, ...cells, last);
    }));
  };

  const quality = () => {
    const columns = data.values.filter((column) => column.quality);
    if (!columns.length) return;
    $("quality-section").hidden = false;
    const head = make("tr", {}, make("th", { scope: "col", textContent: "Cluster" }), ...columns.map((column) =>
      make("th", { scope: "col" }, column.caption, make("small", {}, make("span", { textContent: shown(column, column.low) }), make("span", { textContent: shown(column, column.high) })))));
    const of = groups.map(() => []);
    for (let i = 0; i < nShown; i++) if (groupOf[atomOf[i]] >= 0) of[groupOf[atomOf[i]]].push(i);
    const box = (column, group, cells) => {
      const steps = Uint16Array.from(cells, (i) => column.steps[i]).filter((step) => step > 0).sort();
      if (!steps.length) return make("td", { textContent: "none" });
      const [q05, q25, q50, q75, q95] = [0.05, 0.25, 0.5, 0.75, 0.95].map((q) => steps[Math.round(q * (steps.length - 1))]);
      const share = (step) => (100 * (step - 1)) / 65534;
      const text = (step) => shown(column, number(column, step));
      const part = (className, from, to, background) => make("i", { className, style: { left: `${share(from)}%`, width: to === undefined ? "" : `${Math.max(0.5, share(to) - share(from))}%`, background } });
      return make("td", {}, make("div", { title: `median ${text(q50)}; half of the cells from ${text(q25)} to ${text(q75)}` }, make("b", { textContent: text(q50) }),
        make("span", { className: "box", aria: { hidden: "true" } }, part("span", q05, q95), part("half", q25, q75, tone(group.color)), part("mid", q50))));
    };
    $("quality-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...groups.map((group, g) =>
      make("tr", {}, make("th", { scope: "row" }, swatch(group.color), make("bdi", { textContent: group.label })), ...columns.map((column) => box(column, group, of[g]))))));
  };

  // ---------------------------------------------------------------- edits, and the file that keeps them
  const remember = () => {
    past.push({ at, edits: structuredClone(edits[at]), saved: !unsaved.has(at) });
    unsaved.add(at);
  };
  const say = (text) => ($("message").textContent = text);
  const status = () => {
    $("undo").disabled = !past.length;
    const other = [...unsaved].filter((one) => one !== at).length ? " Another level has changes too: go there to save them." : "";
    say(unsaved.has(at) || other ? `Changes are not saved yet.${other}` : "");
  };
  const refresh = () => {
    describe();
    if (!find(chosen)) chosen = null;
    if (data.positions) centers();
    panel();
    table();
    quality();
    status();
    $("level").value = at;
    $("level-name").textContent = `${groups.length} clusters`;
    return draw();
  };
  const undo = () => {
    const last = past.pop();
    if (!last) return;
    at = last.at;
    edits[at] = last.edits;
    last.saved ? unsaved.delete(at) : unsaved.add(at);
    refresh();
  };
  const annotation = () => ({
    format: FORMAT, version: VERSION, title: document.title, created: new Date().toISOString(), key: levels[at].name,
    clusters: groups.map((group) => ({
      name: group.label, color: group.color, comment: group.edit.comment,
      members: group.parts.map((cluster, i) => ({ cluster, cells: group.sizes[i] })),
    })),
  });
  const save = () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(annotation(), null, 1)], { type: "application/json" }));
    make("a", { href: url, download: "annotation.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    unsaved.delete(at);
    for (const one of past) if (one.at === at) one.saved = false;
    status();
    say(`Saved annotation.json. Read it with scgpcl.tl.apply_annotation(adata, "annotation.json").${$("message").textContent}`);
  };
  const load = async (file) => {
    let content;
    try {
      content = JSON.parse(await file.text());
    } catch {
      return say("This file is not an annotation.");
    }
    if (content?.format !== FORMAT || content.version !== VERSION || !Array.isArray(content.clusters)) return say("This file is not an annotation of this version.");
    const target = levels.findIndex((level) => level.name === content.key);
    if (target < 0) return say("This annotation is of clusters that are not on this page.");
    const level = levels[target];
    const sizes = level.groups.map((_, member) => sum(data.sizes.filter((_, atom) => level.atoms[atom] === member)));
    const seen = new Set();
    const read = content.clusters.map((group) => {
      const members = (Array.isArray(group?.members) ? group.members : []).map((one) => {
        const member = level.groups.indexOf(one?.cluster);
        return sizes[member] === one?.cells && !seen.has(member) && seen.add(member) ? member : -1;
      });
      const parts = members.map((member) => level.groups[member]).join(" + ");
      return { members, name: group?.name === parts ? "" : String(group?.name ?? ""), comment: String(group?.comment ?? "") };
    });
    if (seen.size !== level.groups.length || read.some((group) => !group.members.length || group.members.includes(-1)))
      return say("This annotation is of another clustering: its clusters or their sizes are not those of this page.");
    at = target;
    remember();
    edits[at] = read;
    unsaved.delete(at);
    refresh();
    say("Annotation loaded.");
  };

  // ---------------------------------------------------------------- controls
  const options = new Map([["cluster", { kind: "cluster" }]]);
  const paint = (key) => {
    color = options.get(key);
    $("color").value = key;
    draw();
  };
  const controls = () => {
    data.columns.forEach((of, i) => options.set(`column ${i}`, { kind: "column", of }));
    data.values.forEach((of, i) => options.set(`value ${i}`, { kind: "value", of }));
    data.genes.forEach((of, i) => options.set(`gene ${i}`, { kind: "gene", of }));
    const text = (key) => (key === "cluster" ? "Cluster" : options.get(key).of.caption ?? options.get(key).of.name);
    const option = (value) => make("option", { value, textContent: text(value) });
    const genes = [...options.keys()].filter((key) => key.startsWith("gene "));
    genes.sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }));
    $("color").append(
      make("optgroup", { label: "Cells" }, ...[...options.keys()].filter((key) => !key.startsWith("gene ")).map(option)),
      ...(genes.length ? [make("optgroup", { label: "Genes" }, ...genes.map(option))] : []),
    );
    $("color").onchange = () => paint($("color").value);
    $("levels").hidden = levels.length < 2;
    $("level").max = levels.length - 1;
    $("level").oninput = () => { at = Number($("level").value); chosen = null; refresh(); };
    $("undo").onclick = undo;
    $("save").onclick = save;
    $("load").onclick = () => $("file").click();
    $("file").onchange = async () => { if ($("file").files[0]) await load($("file").files[0]); $("file").value = ""; };
    document.addEventListener("keydown", (event) => {
      const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range";
      if (event.key === "Escape" && chosen !== null) choose(null);
      if (event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !typing) { event.preventDefault(); undo(); }
    });
    addEventListener("beforeunload", (event) => unsaved.size && event.preventDefault());
    const theme = $("theme");
    const name = () => (theme.textContent = dark() ? "Light" : "Dark");
    theme.hidden = false;
    name();
    theme.onclick = () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; name(); refresh(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); refresh(); });
    let waiting;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 150); });
  };

  $("explorer").hidden = false; // before the map is made, which takes its size from the frame
  await startMap();
  if (plot) $("still").hidden = true;
  else for (const element of [frame, $("keys"), document.querySelector(".tools label")]) element.hidden = true;
  controls();
  await refresh();
  document.documentElement.dataset.ready = "";
})();
