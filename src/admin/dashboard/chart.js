"use strict";
// Numbers for people, and charts of them: drawn as SVG, read out by pointer, by arrow keys and by screen readers.

const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"].map(name => "var(" + name + ")");

function short(number) {
  if (number === undefined || !isFinite(number)) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(number) >= size) return (number / size).toFixed(number >= 100 * size ? 0 : 1) + " " + unit;
  }
  return number >= 100 || Number.isInteger(number) ? number.toFixed(0) : number.toFixed(1);
}
function bytes(number) {
  if (number === undefined || !isFinite(number)) return "–";
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (Math.abs(number) >= size) return (number / size).toFixed(number >= 100 * size ? 0 : 1) + " " + unit;
  }
  return number.toFixed(0) + " B";
}
function duration(us) {
  if (us === undefined || !isFinite(us)) return "–";
  if (us >= 1e6) return (us / 1e6).toFixed(2) + " s";
  if (us >= 1e3) return (us / 1e3).toFixed(us >= 1e5 ? 0 : us >= 1e4 ? 1 : 2) + " ms";
  return us.toFixed(us >= 10 ? 0 : 1) + " µs";
}
function percent(number) {
  return number === undefined || !isFinite(number) ? "–" : number.toFixed(1) + " %";
}
function span(seconds) {
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, parts.findIndex(([, size]) => seconds >= size));
  return parts.slice(first, first + 2).map(([unit, size], index) =>
    Math.floor((index ? seconds % parts[first][1] : seconds) / size) + " " + unit).join(" ");
}

// An element with attributes and children; texts become text, never markup.
function make(name, attributes, ...children) {
  const element = ["svg", "line", "polyline", "polygon", "circle", "text", "g"].includes(name) ?
    document.createElementNS(SVG, name) : document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes || {})) {
    if (attribute === "style") element.style.cssText = value; else element.setAttribute(attribute, value);
  }
  element.append(...children);
  return element;
}

// A round number at or above `most`, of decimal or of binary units.
function roundUp(most, base) {
  const unit = base === 1024 ? 1024 ** Math.floor(Math.log2(most) / 10) : 1;
  const size = unit * 10 ** Math.floor(Math.log10(most / unit));
  return [1, 2, 4, 5, 10].map(step => step * size).find(step => step >= most * .999);
}

class Chart {
  // options: title, names, format, logarithmic, most (a fixed end of the scale), base of its units
  constructor(id, options) {
    Object.assign(this, { most: undefined, base: 10, logarithmic: false, at: undefined, times: [], lines: [] }, options);
    this.box = make("div", { class: "chart", tabindex: "0", role: "img", "aria-roledescription": "chart" });
    this.key = make("ul", { class: "key", "aria-hidden": "true" });
    this.spoken = make("p", { class: "unseen", "aria-live": "polite" });
    $(id).append(this.box, this.key, this.spoken);
    this.box.addEventListener("pointermove", event => {
      const { left, width } = this.box.getBoundingClientRect();
      this.point((event.clientX - left - this.left) / (width - this.left) * (this.times.length - 1));
    });
    for (const leave of ["pointerleave", "blur"]) this.box.addEventListener(leave, () => this.point(undefined));
    this.box.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") this.point(undefined);
      if (step === undefined) return;
      event.preventDefault();
      this.point((this.at ?? this.times.length - 1) + step);
      this.spoken.textContent = this.told(this.at);
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  get left() { return 46; }

  show(times, lines) {
    this.times = times;
    this.lines = lines;
    this.draw();
  }

  point(at) {
    this.at = at === undefined || !this.times.length ? undefined : Math.round(Math.min(Math.max(at, 0), this.times.length - 1));
    this.draw();
  }

  told(at) {
    const time = new Date(this.times[at] * 1000).toLocaleTimeString();
    return time + ": " + this.names.map((name, index) => name + " " + this.format(this.lines[index][at])).join(", ");
  }

  // The scale: positions of values, and where lines of the grid lie.
  scale(top, bottom) {
    const all = this.lines.flat().filter(value => isFinite(value) && (value > 0 || !this.logarithmic));
    if (this.logarithmic) {
      const low = Math.floor(Math.log10(Math.min(...all, 1e9))), high = Math.max(Math.ceil(Math.log10(Math.max(...all, 1))), low + 1);
      const [from, to] = all.length ? [low, high] : [0, 3];
      const ticks = Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
      return { ticks, y: value => bottom - (bottom - top) * (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from) };
    }
    const most = this.most ?? roundUp(Math.max(...all, 1), this.base);
    return { ticks: [0, .5, 1].map(part => part * most), y: value => bottom - (bottom - top) * Math.min(value / most, 1) };
  }

  draw() {
    const width = this.box.clientWidth, height = 152, top = 10, bottom = height - 18, left = this.left;
    if (!width) return;
    const { ticks, y } = this.scale(top, bottom);
    const last = this.times.length - 1;
    const x = index => last > 0 ? left + (width - left) * index / last : width;
    const svg = make("svg", { viewBox: "0 0 " + width + " " + height, "aria-hidden": "true" });
    for (const tick of ticks) {
      svg.append(make("line", { class: "grid", x1: left, x2: width, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, this.format(tick).replace(/\.0+(?= |$)/, "")));
    }
    if (last > 0) {
      svg.append(make("text", { x: left, y: height - 3 }, span(Math.round(this.times[last] - this.times[0])) + " ago"));
      svg.append(make("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
    }
    this.lines.forEach((line, which) => {
      let run = [];
      const end = () => {
        const points = run.join(" ");
        if (run.length > 1 && which === 0 && this.lines.length === 1) {
          const area = points + " " + run[run.length - 1].split(",")[0] + "," + bottom + " " + run[0].split(",")[0] + "," + bottom;
          svg.append(make("polygon", { points: area, fill: COLOURS[which], opacity: ".12" }));
        }
        if (run.length) svg.append(make("polyline", { points, fill: "none", stroke: COLOURS[which], "stroke-width": "1.75", "stroke-linejoin": "round" }));
        run = [];
      };
      line.forEach((value, index) => isFinite(value) ? run.push(x(index).toFixed(1) + "," + y(value).toFixed(1)) : end());
      end();
    });
    const at = this.at ?? last;
    if (this.at !== undefined) {
      svg.append(make("line", { class: "cross", x1: x(at), x2: x(at), y1: top, y2: bottom }));
      this.lines.forEach((line, which) => {
        if (isFinite(line[at])) svg.append(make("circle", { cx: x(at), cy: y(line[at]), r: 3.5, fill: COLOURS[which] }));
      });
    }
    this.box.replaceChildren(svg);
    if (last < 0) return;
    this.box.setAttribute("aria-label", this.title + ", " + this.told(last) + ". Arrow keys read earlier values.");
    const time = this.at === undefined ? [] : [make("li", {}, new Date(this.times[at] * 1000).toLocaleTimeString())];
    this.key.replaceChildren(...this.names.map((name, which) => make("li", {},
      make("span", { class: "swatch", style: "background:" + COLOURS[which] }), name + " ", make("b", {}, this.format(this.lines[which][at])))), ...time);
  }
}
