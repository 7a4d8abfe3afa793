// The explorer: filters, a plot and a table over window.EXPLORER_ROWS, whose state is in the address after the #.
(function () {
  "use strict";
  const root = document.getElementById("explorer");
  const rows = window.EXPLORER_ROWS;
  const COLUMNS = [
    // key, heading, decimals; more: larger is better, less: smaller is
    { key: "name", title: "weights" },
    { key: "family", title: "family", words: true },
    { key: "params", title: "params, M", decimals: 1, best: "less" },
    { key: "gmacs", title: "GMACs", decimals: 1, best: "less" },
    { key: "size", title: "image", decimals: 0 },
    { key: "top1", title: "top-1, %", decimals: 1, best: "more" },
    { key: "speed", title: "images/s", decimals: 1, best: "more" },
    { key: "licence", title: "licence" },
    { key: "source", title: "from" },
    { key: "attention", title: "attention", words: true },
    { key: "linear", title: "linear" },
    { key: "box", title: "COCO box AP", decimals: 1, best: "more" },
    { key: "miou", title: "ADE20K mIoU", decimals: 1, best: "more" },
  ];
  const AXES = { params: "parameters, M", gmacs: "GMACs", speed: "measured images/s" };
  const DEFAULTS = {
    text: "", family: "", params: "", gmacs: "", top1: "", licence: "", attention: "", linear: "", published: "",
    coco: "", ade: "", sort: "-top1", x: "params",
  };
  const compared = new Set();
  let state = read();

  function read() {
    const found = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.entries(DEFAULTS).map(([key, value]) => [key, found.get(key) ?? value]));
  }

  function write() {
    const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }

  function element(name, attributes, ...children) {
    const svg = ["svg", "a", "circle", "line", "text", "title"].includes(name) && attributes && attributes.svg;
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "svg") continue;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  const distinct = (values) => [...new Set(values)].sort((a, b) => a.localeCompare(b));

  function shown(row, column) {
    const value = row[column.key];
    if (value === null || value === undefined) return "";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (Array.isArray(value)) return value.join(", ");
    return column.decimals === undefined ? value : value.toFixed(column.decimals);
  }

  function passes(row) {
    const { text, family, params, gmacs, top1, licence, attention, linear, published, coco, ade } = state;
    return (
      (!text || row.name.includes(text.toLowerCase())) &&
      (!family || row.family === family) &&
      (!params || row.params <= Number(params)) &&
      (!gmacs || (row.gmacs !== null && row.gmacs <= Number(gmacs))) &&
      (!top1 || (row.top1 !== null && row.top1 > Number(top1))) &&
      (!licence || (licence === "permissive" ? row.permissive : row.licence === licence)) &&
      (!attention || row.attention.includes(attention)) &&
      (!linear || row.linear === (linear === "yes")) &&
      (!published || row.published) &&
      (!coco || row.box !== null) &&
      (!ade || row.miou !== null)
    );
  }

  function sorted(found) {
    const key = state.sort.replace("-", "");
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const missing = (value) => value === null || value === undefined;
    return [...found].sort((a, b) => {
      const [left, right] = [a[key], b[key]];
      if (missing(left) || missing(right)) return missing(left) - missing(right); // last, either way
      const order = typeof left === "number" ? left - right : String(left).localeCompare(String(right));
      return sign * order || (b.top1 ?? 0) - (a.top1 ?? 0);
    });
  }

  function change(key, value) {
    state[key] = value;
    write();
    draw();
  }

  function form() {
    const number = (key, title) =>
      element("label", {}, title, element("input", {
        type: "number", step: "any", name: key, value: state[key], oninput: (e) => change(key, e.target.value),
      }));
    const choice = (key, title, options) => {
      const list = element("select", { name: key, onchange: (e) => change(key, e.target.value) });
      for (const [value, words] of options) list.append(element("option", { value }, words));
      list.value = state[key];
      return element("label", {}, title, list);
    };
    const tick = (key, title) => {
      const box = element("input", { type: "checkbox", name: key, onchange: (e) => change(key, e.target.checked ? "yes" : "") });
      box.checked = Boolean(state[key]);
      return element("label", { class: "tick" }, box, title);
    };
    const any = (values) => [["", "any"], ...values.map((value) => [value, value])];
    return element("form", { onsubmit: (e) => e.preventDefault() },
      element("label", {}, "name", element("input", {
        type: "search", name: "text", value: state.text, oninput: (e) => change("text", e.target.value),
      })),
      choice("family", "family", any(distinct(rows.map((row) => row.family)))),
      number("params", "params, M, at most"),
      number("gmacs", "GMACs at most"),
      number("top1", "top-1 above, %"),
      choice("licence", "licence", [["", "any"], ["permissive", "permissive"], ...any(distinct(rows.map((row) => row.licence))).slice(1)]),
      choice("attention", "attention", any(distinct(rows.flatMap((row) => row.attention)))),
      choice("linear", "cost with pixels", [["", "any"], ["yes", "linear"], ["no", "more than linear"]]),
      tick("published", "published weights"),
      tick("coco", "COCO results"),
      tick("ade", "ADE20K results"),
      choice("x", "plot against", Object.entries(AXES)),
      element("button", { type: "button", onclick: () => { state = { ...DEFAULTS }; compared.clear(); write(); start(); } }, "reset"),
    );
  }

  function colour(family) {
    let hash = 0;
    for (const letter of family) hash = (hash * 31 + letter.codePointAt(0)) % 360;
    return `hsl(${hash}, 65%, 48%)`;
  }

  function ticks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const factor of [1, 2, 5]) {
        const value = factor * 10 ** power;
        if (value >= low && value <= high) found.push(Number(value.toPrecision(1)));
      }
    return found;
  }

  function plot(found) {
    const [width, height, left, bottom, edge] = [900, 400, 46, 40, 12];
    const points = found.filter((row) => row.top1 !== null && row[state.x] !== null);
    const svg = element("svg", { svg: true, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `top-1 against ${AXES[state.x]}` });
    const say = (x, y, words, anchor) =>
      svg.append(element("text", { svg: true, x, y, "text-anchor": anchor || "middle" }, words));
    if (!points.length) {
      say(width / 2, height / 2, "no model with top-1 and " + AXES[state.x] + " passes the filters");
      return svg;
    }
    const span = (values) => [Math.min(...values), Math.max(...values)];
    let [low, high] = span(points.map((row) => row[state.x]));
    [low, high] = [low / 1.1, high * 1.1];
    let [least, most] = span(points.map((row) => row.top1));
    [least, most] = [least - 0.4, most + 0.4];
    const x = (value) => left + ((width - left - edge) * Math.log(value / low)) / Math.log(high / low);
    const y = (value) => height - bottom - ((height - bottom - edge) * (value - least)) / (most - least);
    for (const value of ticks(low, high)) {
      svg.append(element("line", { svg: true, x1: x(value), x2: x(value), y1: edge, y2: height - bottom }));
      say(x(value), height - bottom + 16, value);
    }
    const step = most - least > 8 ? 2 : most - least > 3 ? 1 : 0.5;
    for (let value = Math.ceil(least / step) * step; value <= most; value += step) {
      svg.append(element("line", { svg: true, x1: left, x2: width - edge, y1: y(value), y2: y(value) }));
      say(left - 6, y(value) + 4, Number(value.toFixed(1)), "end");
    }
    say((left + width) / 2, height - 6, AXES[state.x] + " (logarithmic)");
    say(left, edge - 1, "top-1, %", "start");
    for (const row of points) {
      const words = `${row.name}: ${row.top1} %, ${row[state.x]} ${AXES[state.x]}, ${row.licence}`;
      const tell = () => { root.querySelector(".told").textContent = words; };
      svg.append(element("a", { svg: true, href: row.page, class: compared.has(row.name) ? "picked" : "", onmouseenter: tell, onfocus: tell },
        element("title", { svg: true }, words),
        element("circle", { svg: true, cx: x(row[state.x]).toFixed(1), cy: y(row.top1).toFixed(1), r: 6, fill: colour(row.family) })));
    }
    return svg;
  }

  function cell(row, column) {
    const kind = column.decimals !== undefined ? "number" : column.words ? "words" : "";
    const content = column.key === "name" ? element("a", { href: row.page }, row.name) : shown(row, column);
    return element("td", { class: kind, "data-key": column.key }, content);
  }

  function table(found) {
    const head = element("tr", {}, element("th", { "aria-label": "compare" }));
    for (const column of COLUMNS) {
      const [up, down] = [state.sort === column.key, state.sort === "-" + column.key];
      const first = column.best === "more" ? "-" + column.key : column.key;
      const other = column.best === "more" ? column.key : "-" + column.key;
      head.append(element("th", { "aria-sort": up ? "ascending" : down ? "descending" : "none" },
        element("button", { type: "button", "aria-label": "sort by " + column.title, onclick: () => change("sort", state.sort === first ? other : first) },
          column.title + (up ? " ▲" : down ? " ▼" : ""))));
    }
    const body = element("tbody", {});
    for (const row of found) {
      const box = element("input", { type: "checkbox", "aria-label": `compare ${row.name}`, onchange: () => {
        if (!compared.delete(row.name)) compared.add(row.name);
        draw();
      } });
      box.checked = compared.has(row.name);
      body.append(element("tr", {}, element("td", {}, box), ...COLUMNS.map((column) => cell(row, column))));
    }
    return element("div", { class: "scroll" }, element("table", { class: "all" }, element("thead", {}, head), body));
  }

  function comparison() {
    const chosen = [...compared].map((name) => rows.find((row) => row.name === name));
    if (chosen.length < 2) return "";
    const body = element("tbody", {});
    for (const column of COLUMNS) {
      const numbers = chosen.map((row) => row[column.key]).filter((value) => typeof value === "number");
      const best = column.best === "more" ? Math.max(...numbers) : column.best === "less" ? Math.min(...numbers) : null;
      const line = element("tr", {}, element("th", { scope: "row" }, column.title));
      for (const row of chosen) {
        const made = cell(row, column);
        if (best !== null && row[column.key] === best) made.classList.add("best");
        line.append(made);
      }
      body.append(line);
    }
    return element("div", { class: "scroll compared" }, element("table", {}, body));
  }

  function draw() {
    const found = sorted(rows.filter(passes));
    const focus = root.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    const scrolled = root.querySelector(".rows .scroll")?.scrollLeft || 0;
    root.querySelector(".plot").replaceChildren(plot(found));
    root.querySelector(".told").textContent = `${found.length} of ${rows.length} sets of weights`;
    root.querySelector(".chosen").replaceChildren(comparison());
    root.querySelector(".rows").replaceChildren(table(found));
    root.querySelector(".rows .scroll").scrollLeft = scrolled;
    if (focus) root.querySelector(`[aria-label="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  function start() {
    root.replaceChildren(form(), element("div", { class: "plot" }), element("div", { class: "told", role: "status" }),
      element("div", { class: "chosen" }), element("div", { class: "rows" }));
    draw();
  }

  window.addEventListener("hashchange", () => { state = read(); start(); });
  start();
})();
