// A graph of numbers over time, as SVG. A cursor, moved by pointer or arrow keys, reads off what was at a time.

import { el, setAttribute, setText, svg } from './dom.js';
import { clock } from './format.js';

const HEIGHT = 148;
const MARGIN = { left: 52, right: 8, top: 14, bottom: 22 };
/** As many lines look different. */
const LOOKS = 5;

export class Graph {
  /**
   * `format` writes a value. `failing`: whether an unknown value means that something failed. `least`: the graph reaches at
   * least so high, so that a calm cluster does not look like a storm.
   */
  constructor({ title, about, format, failing = false, least = 1 }) {
    Object.assign(this, { title, format, failing, least, width: 0, cursor: null, drawn: null });
    this.heading = el('h3', { class: 'graph-title' }, title);
    this.legend = el('div', { class: 'legend' });
    this.about = el('figcaption', { class: 'graph-about' }, about);
    this.plot = svg('svg', {
      class: 'plot', height: HEIGHT, tabindex: 0, role: 'slider', 'aria-valuemin': 0,
      pointermove: (event) => this.point(event.offsetX),
      pointerleave: () => this.place(null),
      blur: () => this.place(null),
      keydown: (event) => this.key(event),
    });
    const head = el('div', { class: 'graph-head' }, this.heading, this.legend);
    this.element = el('figure', { class: 'graph card' }, head, this.plot, this.about);
    new ResizeObserver(([entry]) => {
      this.width = Math.floor(entry.contentRect.width);
      this.redraw();
    }).observe(this.plot);
  }

  /** `lines`: `{ key, label }` of what stands in the points. `marks`: `{ at, label }` of moments. */
  draw(points, { from, to, lines, marks }) {
    this.drawn = { points, from, to, lines, marks };
    this.redraw();
  }

  /** Sets what is said below it. */
  describe(about) {
    setText(this.about, about);
  }

  redraw() {
    if (!this.drawn || this.width < 100) return;
    const { points, from, to, lines, marks } = this.drawn;
    const values = points.flatMap((point) => lines.map(({ key }) => point.values[key] ?? 0));
    const top = niceTop(Math.max(this.least, ...values));
    const right = this.width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    this.x = (at) => MARGIN.left + ((at - from) / (to - from)) * (right - MARGIN.left);
    const y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    setAttribute(this.plot, 'viewBox', `0 0 ${this.width} ${HEIGHT}`);
    this.plot.replaceChildren(
      ...this.grid(top, y, right),
      ...times(from, to, this.width).map((time) => this.time(time)),
      ...(this.failing ? failures(points, lines).map(([first, last]) => this.band(first, Math.min(last, to), bottom)) : []),
      ...marks.filter(({ at }) => at >= from && at <= to).flatMap((mark) => this.mark(mark, bottom, right)),
      // The first one lies above the others.
      ...lines.map(({ key }, at) => this.line(points, key, y, at % LOOKS, lines.length === 1 && bottom)).reverse().flat(),
      ...this.cursorLine(bottom, y),
    );
    this.tell();
  }

  grid(top, y, right) {
    return [0, 0.5, 1].flatMap((share) => {
      const height = Math.round(y(top * share)) + 0.5;
      return [
        svg('line', { class: share === 0 ? 'base' : 'grid', x1: MARGIN.left, x2: right, y1: height, y2: height }),
        svg('text', { class: 'axis', x: MARGIN.left - 8, y: height + 3.5, 'text-anchor': 'end' }, this.format(top * share)),
      ];
    });
  }

  time({ at, label }) {
    return svg('text', { class: 'axis', x: this.x(at), y: HEIGHT - 6, 'text-anchor': 'middle' }, label);
  }

  /** One line, which is broken where nothing is known; below a single one the ground is tinted. */
  line(points, key, y, look, ground) {
    const runs = [[]];
    for (const { at, values } of points) {
      if (values[key] === null || values[key] === undefined) runs.push([]);
      else runs.at(-1).push([Math.max(MARGIN.left, this.x(at)), y(values[key])]);
    }
    return runs.filter((run) => run.length > 0).flatMap((run) => {
      const path = run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join('L');
      const [first, last] = [run[0][0].toFixed(1), run.at(-1)[0].toFixed(1)];
      return [
        ground && svg('path', { class: 'area', d: `M${path}L${last},${ground}L${first},${ground}Z` }),
        svg('path', { class: `line line-${look}`, d: run.length > 1 ? `M${path}` : `M${path}h0.1` }),
      ].filter(Boolean);
    });
  }

  band(first, last, bottom) {
    const left = Math.max(MARGIN.left, this.x(first));
    const width = Math.max(2, this.x(last) - left);
    return svg('rect', { class: 'failing', x: left, y: MARGIN.top, width, height: bottom - MARGIN.top });
  }

  mark({ at, label }, bottom, right) {
    const x = Math.round(this.x(at)) + 0.5;
    const isLate = x > right - 60;
    return [
      svg('line', { class: 'mark', x1: x, x2: x, y1: 4, y2: bottom }),
      svg('text', { class: 'mark-label', x: x + (isLate ? -4 : 4), y: 11, 'text-anchor': isLate ? 'end' : 'start' }, label),
    ];
  }

  cursorLine(bottom, y) {
    const point = this.pointed();
    if (!point) return [];
    const x = this.x(point.at);
    const dots = this.drawn.lines.flatMap(({ key }, look) => {
      const value = point.values[key];
      return typeof value === 'number' ? [svg('circle', { class: `dot line-${look % LOOKS}`, cx: x, cy: y(value), r: 3.5 })] : [];
    });
    return [svg('line', { class: 'cursor', x1: x, x2: x, y1: MARGIN.top, y2: bottom }), ...dots];
  }

  /** What the lines are, and their values at the cursor or else the latest ones. */
  tell() {
    const { points, lines } = this.drawn;
    const point = this.pointed() ?? points.at(-1);
    const written = (key) => {
      const value = point?.values[key];
      return typeof value === 'number' ? this.format(value) : this.failing && point ? 'failed' : '–';
    };
    while (this.legend.children.length > lines.length + 1) this.legend.lastChild.remove();
    while (this.legend.children.length < lines.length + 1) this.legend.append(el('span'));
    const [time, ...entries] = this.legend.children;
    time.className = 'legend-time';
    setText(time, this.cursor === null || !point ? '' : clock(point.at));
    lines.forEach(({ key, label }, at) => {
      const text = label ? [el('span', { class: `swatch line-${at % LOOKS}` }), `${label} `] : [];
      entries[at].replaceChildren(...text, el('b', {}, written(key)));
    });
    const said = lines.map(({ key, label }) => `${label} ${written(key)}`.trim()).join(', ');
    setAttribute(this.plot, 'aria-label', `${this.title}, time`);
    setAttribute(this.plot, 'aria-valuemax', Math.max(0, points.length - 1));
    setAttribute(this.plot, 'aria-valuenow', Math.max(0, points.indexOf(point)));
    setAttribute(this.plot, 'aria-valuetext', point ? `${clock(point.at)}: ${said}` : 'nothing yet');
  }

  /** The point that the cursor is at. */
  pointed() {
    if (this.cursor === null) return null;
    const { points } = this.drawn;
    const distance = (point) => Math.abs(point.at - this.cursor);
    return points.reduce((nearest, point) => (nearest && distance(nearest) <= distance(point) ? nearest : point), null);
  }

  point(offset) {
    if (!this.drawn || !this.x) return;
    const { from, to } = this.drawn;
    const share = (offset - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    this.place(from + share * (to - from));
  }

  key(event) {
    const points = this.drawn?.points ?? [];
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || points.length === 0) return;
    event.preventDefault();
    const now = this.cursor === null ? points.length - 1 : points.indexOf(this.pointed());
    this.place(points[Math.min(points.length - 1, Math.max(0, now + step))].at);
  }

  place(at) {
    this.cursor = at;
    this.redraw();
  }
}

/** The next number from `value` up that reads well on an axis and has a half. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value);
}

/** Moments with a label, as many as there is room for. */
function times(from, to, width) {
  const room = Math.max(2, Math.floor(width / 110));
  const steps = [15, 30, 60, 120, 180, 300].map((seconds) => seconds * 1000);
  const step = steps.find((step) => (to - from) / step <= room) ?? 600_000;
  const labels = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    if (at - from > (to - from) * 0.04 && to - at > (to - from) * 0.06) {
      labels.push({ at, label: step < 60_000 ? clock(at) : clock(at).slice(0, 5) });
    }
  }
  return labels;
}

/** From when to when none of the lines has a value. */
function failures(points, lines) {
  const spans = [];
  let first = null;
  for (const { at, values } of points) {
    const isUnknown = lines.every(({ key }) => typeof values[key] !== 'number');
    if (isUnknown && first === null) first = at;
    if (!isUnknown && first !== null) {
      spans.push([first, at]);
      first = null;
    }
  }
  if (first !== null) spans.push([first, points.at(-1).at + 1000]);
  return spans;
}
