// Puts the charts of a page in the place of its still pictures, each when it comes into view. Without this, the pictures stay.
"use strict";
const archbench = {
  // A number as it is printed elsewhere: 131,072; 2.5 M; +1.2 with a true minus; with a prefix where the axis has a unit.
  number(value, { prefixed, unit, signed }) {
    if (!Number.isFinite(value)) return "";
    const size = Math.abs(value), prefixes = unit ? ["", "k", "M", "G", "T"] : ["", "k", "M", "B", "T"];
    let text;
    if (prefixed && (size >= 1000 || unit)) {
      const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(size, 1)) / 3 + 1e-9)));
      text = `${+(size / 1000 ** power).toPrecision(4)}\u00a0${prefixes[power]}${unit}`;
    } else if (size && size < 1e-3) text = size.toExponential(2).replace("-", "\u2212");
    else text = size.toLocaleString("en", { maximumSignificantDigits: 5 });
    return (value < 0 ? "\u2212" : signed && value > 0 ? "+" : "") + text.trim();
  },
  // Round numbers of a logarithmic axis: 1, 2 and 5 times a power of ten, or that power where they are too many.
  ticks(start, end) {
    const [low, high] = start < end ? [start, end] : [end, start], first = Math.floor(Math.log10(low)), found = [];
    if (high < 3 * low) {
      const step = [1, 2, 5, 10].map((each) => each * 10 ** Math.floor(Math.log10((high - low) / 5))).find((each) => (high - low) / each <= 6);
      for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(+(at * step).toPrecision(12));
      return found;
    }
    const digits = high / low < 200 ? [1, 2, 5] : [1], every = Math.ceil(Math.log10(high / low) / 7);
    for (let power = first; power <= Math.log10(high); power += digits.length > 1 ? 1 : every)
      for (const digit of digits) if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(+(digit * 10 ** power).toPrecision(12));
    return found;
  },
  hidden: new Set(),
  async load() {
    if (!("DecompressionStream" in window && "IntersectionObserver" in window)) return;
    const script = document.createElement("script");
    script.textContent = await this.unpacked(document.getElementById("bokeh"));
    document.head.append(script);
    Bokeh.set_log_level("warn");
    const seen = new IntersectionObserver(
      (entries) => entries.filter((each) => each.isIntersecting).forEach(({ target }) => { seen.unobserve(target); this.draw(target); }),
      { rootMargin: "400px" });
    document.querySelectorAll("figure:has(script.live)").forEach((figure) => seen.observe(figure));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      document.querySelectorAll("figure.drawn").forEach((figure) => this.draw(figure)));
  },
  unpacked(script) {
    const packed = Uint8Array.from(atob(script.textContent), (each) => each.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  },
  async draw(figure) {
    const text = await this.unpacked(figure.querySelector("script.live"));
    const style = getComputedStyle(document.documentElement);
    const colours = new RegExp(Object.keys(THEME).join("|"), "g");
    const chart = JSON.parse(text.replace(colours, (colour) => style.getPropertyValue(`--${THEME[colour]}`).trim()));
    const element = (tag, name, content = "") => {
      const made = document.createElement(tag);
      made.className = name;
      made.textContent = content;
      return made;
    };
    const box = element("div", "chart");
    if (chart.heading) box.append(element("p", "heading", chart.heading));
    if (chart.names.length > 1) box.append(this.legend(chart.names, element));
    if (chart.scale) box.append(this.scale(chart.scale, element));
    const panels = element("div", "panels");
    panels.style.setProperty("--columns", chart.columns);
    for (const { id, title, x, y } of chart.panels) {
      const panel = element("div", "panel"), place = element("div", "place");
      place.id = `at-${id}`;
      panel.append(element("p", "heading", title), element("p", "axis", y), place, element("p", "axis below", x));
      panels.append(panel);
    }
    box.append(panels);
    figure.querySelector(".chart")?.remove();
    figure.append(box);
    figure.classList.add("drawn");
    for (const item of chart.items) for (const id in item.roots) item.roots[id] = `at-${id}`;
    const before = Bokeh.documents.length;
    Bokeh.embed.embed_items(chart.documents, chart.items).then(() => {
      const plots = Bokeh.documents.slice(before).flatMap((each) => each.roots());
      if (matchMedia("(pointer: coarse)").matches) plots.forEach((plot) => { plot.toolbar.active_drag = null; });  // a finger scrolls
      plots.forEach((plot) => this.placed(plot));
      this.show();
    });
  },
  // Names stand beside their points and not over points or other names; again after a zoom, and in another width.
  place(view) {
    const plot = view.model, labels = plot.center.filter((each) => each.type === "Label");
    if (!labels.length) return;
    const x = view.frame.x_scale, y = view.frame.y_scale, { left, top, right, bottom } = view.frame.bbox, taken = [];
    for (const { glyph, data_source: { data }, visible } of plot.renderers)
      if (visible && glyph.type === "Scatter") {
        const r = glyph.size.value / 2 + 2;
        Array.from(data.x).forEach((_, i) => taken.push([x.compute(data.x[i]) - r, y.compute(data.y[i]) - r, 2 * r, 2 * r]));
      }
    const pen = document.createElement("canvas").getContext("2d");
    const shared = ([a, b, w, h], [c, d, v, g]) => Math.max(0, Math.min(a + w, c + v) - Math.max(a, c)) * Math.max(0, Math.min(b + h, d + g) - Math.max(b, d));
    for (const label of labels.filter((each) => each.visible)) {
      pen.font = `${label.text_font_size} sans-serif`;
      const w = pen.measureText(label.text).width + 4, h = 15, sx = x.compute(label.x), sy = y.compute(label.y);
      let best = [Infinity];
      for (const up of [0, 10, -10, 18, -18, 28, -28, 40, -40]) for (const side of [1, -1]) {
        const box = [side > 0 ? sx + 9 : sx - 9 - w, sy - up - h / 2, w, h];
        const out = box[0] < left || box[0] + w > right || box[1] < top || box[1] + h > bottom;
        const cost = taken.reduce((sum, each) => sum + shared(box, each), 0) + 1e6 * out + Math.abs(up) / 100;
        if (cost < best[0]) best = [cost, box, side, up];
      }
      const [, box, side, up] = best;
      taken.push(box);
      label.setv({ x_offset: 9 * side, y_offset: up, text_align: side > 0 ? "left" : "right" });
    }
  },
  placed(plot) {
    const view = [...Bokeh.index].find((each) => each.model === plot);
    let waiting;
    const again = () => { clearTimeout(waiting); waiting = setTimeout(() => this.place(view), 60); };
    for (const each of [plot.x_range, plot.y_range]) each.change.connect(again);
    for (const each of ["inner_width", "inner_height"]) plot.properties[each].change.connect(again);
    again();
  },
  scale({ label, colours, texts }, element) {
    const line = element("div", "scale", label), bar = element("i", "");
    bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    line.append(element("span", "", texts[0]), bar, element("span", "", texts[2]));
    bar.title = `in the middle: ${texts[1]}`;
    return line;
  },
  legend(names, element) {
    const list = element("div", "names");
    for (const { shown, name, colour, dash } of names) {
      const entry = element(name ? "button" : "span", "name", shown), swatch = element("i", dash);
      swatch.style.setProperty("--colour", colour);
      entry.prepend(swatch);
      if (name) {
        entry.type = "button";
        entry.dataset.name = name;
        entry.addEventListener("click", () => {
          this.hidden.delete(name) || this.hidden.add(name);
          this.show();
        });
      }
      list.append(entry);
    }
    return list;
  },
  show() {  // what is hidden is hidden in every chart
    for (const button of document.querySelectorAll("button.name")) button.ariaPressed = String(!this.hidden.has(button.dataset.name));
    for (const plot of Bokeh.documents.flatMap((each) => each.roots()))
      for (const each of [...plot.renderers, ...plot.center]) if (each.name) each.visible = !this.hidden.has(each.name);
  },
};
archbench.load();
