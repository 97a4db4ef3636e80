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
    const packed = Uint8Array.from(atob(document.getElementById("bokeh").textContent), (each) => each.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    Bokeh.set_log_level("warn");
    const seen = new IntersectionObserver(
      (entries) => entries.filter((each) => each.isIntersecting).forEach(({ target }) => { seen.unobserve(target); this.draw(target); }),
      { rootMargin: "400px" });
    document.querySelectorAll("figure:has(script.live)").forEach((figure) => seen.observe(figure));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      document.querySelectorAll("figure.drawn").forEach((figure) => this.draw(figure)));
  },
  draw(figure) {
    const style = getComputedStyle(document.documentElement);
    const colours = new RegExp(Object.keys(THEME).join("|"), "g");
    const text = figure.querySelector("script.live").textContent;
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
      if (matchMedia("(pointer: coarse)").matches)  // a finger that moves scrolls the page
        Bokeh.documents.slice(before).flatMap((each) => each.roots()).forEach((plot) => { plot.toolbar.active_drag = null; });
      this.show();
    });
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
