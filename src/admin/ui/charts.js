// Charts over time: a large one by uPlot, and a sparkline for tables.
import { html, useEffect, useMemo, useRef, useState } from './dom.js';
import { usePoll } from './api.js';
import { Card, Choice, Icon, Loaded, State } from './parts.js';
import { marks as marksOf } from './events.js';
import * as format from './format.js';
import { themeChange } from './theme_choice.js';

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [4, 2], [1, 2]];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const colorName = (at) => `--series-${(at % 6) + 1}`;

/**
 * Lines over time. `at`: Unix seconds; `series`: `[{label, values, color?, dashed?}]`; `show(value)` formats a figure.
 * `marks`: `[{at, tone, label}]` are vertical lines; `band`: `{low: values, high: values}` is an area;
 * `lines`: `[{value, label}]` are thresholds. The legend has the last value of each series, or that under the pointer.
 */
export function Chart({ label, at, series, show = format.compact, height = 200, marks = [], band, lines = [], from = 0 }) {
  const box = useRef();
  const plot = useRef();
  const current = useRef({});
  const [pointed, setPointed] = useState(null);
  current.current = { marks, lines, show, setPointed };
  const shape = JSON.stringify([series.map((one) => [one.label, one.color, one.dashed]), Boolean(band), height]);
  const data = useMemo(() => [at, ...(band ? [band.high, band.low] : []), ...series.map((one) => one.values)], [at, series, band]);

  useEffect(() => {
    const build = () => {
      plot.current?.destroy();
      const options = chartOptions({ series, band, height, from, current, width: box.current.clientWidth || 300 });
      plot.current = new globalThis.uPlot(options, data, box.current);
    };
    build();
    const observer = new ResizeObserver(() => {
      const width = box.current?.clientWidth;
      if (width && plot.current && plot.current.width !== width) plot.current.setSize({ width, height });
    });
    observer.observe(box.current);
    const stop = themeChange.subscribe(build);
    return () => {
      stop();
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => {
    if (plot.current && plot.current.data !== data) plot.current.setData(data);
    else plot.current?.redraw();
  }, [data, marks, lines]);

  const step = at.length > 1 ? (at[1] - at[0]) * 2 : 30;
  const last = (values) => values.findLast((value) => value != null);
  const summary = series.map((one) => `${format.visible(one.label, 60)} ${show(last(one.values))}`).join(', ');
  return html`<figure><ul class="legend">${series.map((one, index) => html`<li key=${one.label}>
      <${Swatch} color=${one.color ?? colorName(index)} dash=${one.dashed ?? DASHES[index % 6]} /><bdi>${format.visible(one.label, 60)}</bdi> <strong>${show(pointed == null ? last(one.values) : one.values[pointed])}</strong></li>`)}
      ${lines.map((line) => html`<li key=${line.label}><${Swatch} color="--muted" dash=${[2, 2]} />${line.label} <strong>${show(line.value)}</strong></li>`)}
      ${pointed != null && html`<li class="muted">${format.dayTime(at[pointed])}${marks.filter((mark) => Math.abs(mark.at - at[pointed]) <= step).map((mark) => `, ${mark.label}`).join('')}</li>`}</ul>
    <div class="chart" ref=${box} role="img" aria-label=${`${label}. Last values: ${summary || 'none'}`}></div></figure>`;
}

function Swatch({ color: name, dash }) {
  return html`<svg width="22" height="8" aria-hidden="true"><line style=${{ stroke: `var(${name})` }} x1="0" y1="4" x2="22" y2="4" stroke-width="2" stroke-dasharray=${dash.join(' ')} /></svg>`;
}

function chartOptions({ series, band, height, from, current, width }) {
  const axis = { stroke: color('--muted'), grid: { stroke: color('--line'), width: 1 }, ticks: { show: false }, font: `12px ${color('--sans')}` };
  const lines = series.map((one, index) => ({
    label: one.label, stroke: color(one.color ?? colorName(index)), width: 1.6, dash: one.dashed ?? DASHES[index % 6], points: { show: false }, spanGaps: false,
  }));
  const edges = band ? [{ stroke: 'transparent', points: { show: false } }, { stroke: 'transparent', points: { show: false } }] : [];
  return {
    width, height,
    legend: { show: false },
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    padding: [8, 8, 0, 0],
    scales: { x: { time: true }, y: { range: (_, low, high) => range(from, low, high, current.current.lines) } },
    axes: [{ ...axis, size: 28, space: 84, values: timeLabels }, { ...axis, size: 62, values: (_, values) => values.map((value) => current.current.show(value)) }],
    series: [{}, ...edges, ...lines],
    bands: band ? [{ series: [1, 2], fill: color('--accent-soft') }] : [],
    hooks: {
      draw: [(plot) => drawMarks(plot, current.current)],
      setCursor: [(plot) => current.current.setPointed(plot.cursor.idx ?? null)],
    },
  };
}

function range(from, low, high, lines) {
  const values = [low, high, from, ...lines.map((line) => line.value)].filter((value) => value != null && Number.isFinite(value));
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return most > least ? [least, most + (most - least) * 0.08] : [least, least + 1];
}

function timeLabels(plot, seconds) {
  const span = (plot.scales.x.max ?? 0) - (plot.scales.x.min ?? 0);
  return seconds.map((at) => {
    const date = new Date(at * 1000);
    const clock = format.clockTime(date);
    if (span < 600) return clock;
    return span < 86_400 * 1.5 ? clock.slice(0, 5) : `${date.getMonth() + 1}/${date.getDate()} ${clock.slice(0, 5)}`;
  });
}

function drawMarks(plot, { marks, lines }) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio || 1;
  ctx.save();
  ctx.lineWidth = ratio;
  for (const { at, tone } of marks) {
    const x = Math.round(plot.valToPos(at, 'x', true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = color({ bad: '--bad', warn: '--warn' }[tone] ?? '--muted');
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    line(ctx, x, bbox.top, x, bbox.top + bbox.height);
  }
  for (const { value } of lines) {
    const y = Math.round(plot.valToPos(value, 'y', true));
    ctx.strokeStyle = color('--muted');
    ctx.setLineDash([2 * ratio, 2 * ratio]);
    line(ctx, bbox.left, y, bbox.left + bbox.width, y);
  }
  ctx.restore();
}

function line(ctx, x, y, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}

// ---- history -----------------------------------------------------------------------------------

const RANGES = [['30m', '30 min'], ['6h', '6 h'], ['24h', '24 h'], ['7d', '7 d']];
const MOST_LINES = 6;

/**
 * A box with the history of a metric. `query` is that of `/api/series` without its times; `lines(data)` makes the
 * series of the chart. Events of the policy, breakers and modes are marks. The chart stays while another range is read.
 */
export function History({ title, note, query, lines, ...chart }) {
  const [range, setRange] = useState('30m');
  const value = usePoll(`/api/series?${query}&from=${range}`, 5000);
  const events = usePoll('/api/events?kind=policy,breaker,degradation&limit=500', 3000).data?.events ?? [];
  const shown = useRef(value);
  if (value.data || value.error) shown.current = value;
  return html`<${Card} title=${title} note=${note} actions=${html`<${Choice} label="Time range" value=${range} onChange=${setRange} options=${RANGES} />`}>
    <${Loaded} of=${shown.current} absent="This sidecar keeps no history of its metrics.">${(data) => {
      const all = lines(data).filter((one) => one.values.some((figure) => figure != null));
      if (!all.length) return html`<${State} title="No figures in this time" />`;
      return html`<${Chart} label=${title} at=${data.at} series=${all.slice(0, MOST_LINES)} marks=${merged(marksOf(events), (data.at.at(-1) - data.at[0]) / 40)} ...${chart} />
        ${all.length > MOST_LINES && html`<p class="muted small">${MOST_LINES} of ${all.length} are shown.</p>`}`;
    }}<//><//>`;
}

// ---- sparkline ---------------------------------------------------------------------------------

const WIDTH = 180;
const HEIGHT = 36;

const MARKS = { reload: ['reload', 'info'], trip: ['trip', 'bad'], mode: ['mode', 'warn'] };

/**
 * A small line without axes: `values` over `at` (Unix seconds), `bad` a second line, `marks` `[{at, kind, label}]` with
 * `kind` `reload`, `trip` or `mode`. The label says the same in words.
 */
export function Sparkline({ label, at, values, bad, marks = [], show = format.compact }) {
  const known = values.filter((value) => value != null);
  if (!known.length) return html`<span class="muted small">No history yet</span>`;
  const most = Math.max(...known, ...(bad ?? []).filter((value) => value != null), 1e-9);
  const [start, end] = [at[0], at.at(-1)];
  const inside = merged(marks.filter((mark) => mark.at >= start && mark.at <= end), (end - start) / 18);
  const words = inside.map((mark) => `${mark.label} at ${format.clockTime(mark.at)}`).join('; ');
  return html`<div class="spark-box" role="img" aria-label=${`${label}: last ${show(known.at(-1))}, highest ${show(most)}${words ? `; ${words}` : ''}`}>
    <svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      <path class="fill" d=${path(at, values, most, true)} /><path class="stroke" d=${path(at, values, most)} />
      ${bad && html`<g class="bad"><path class="fill" d=${path(at, bad, most, true)} /><path class="stroke" d=${path(at, bad, most)} /></g>`}
    </svg>
    ${inside.map((mark) => html`<${SparkMark} key=${`${mark.at}${mark.label}`} mark=${mark} share=${(mark.at - start) / (end - start || 1)} />`)}
  </div>`;
}

/** Marks of one kind that are closer than `gap` seconds become one. */
function merged(marks, gap) {
  const found = [];
  const newest = new Map();
  for (const mark of [...marks].sort((a, b) => a.at - b.at)) {
    const before = newest.get(mark.kind);
    if (before && mark.at - before.at < gap) before.count++;
    else {
      const one = { ...mark, count: 1 };
      newest.set(mark.kind, one);
      found.push(one);
    }
  }
  return found.map((one) => ({ ...one, label: one.count > 1 ? `${one.label} ${one.count} times` : one.label }));
}

function SparkMark({ mark, share }) {
  const [icon, tone] = MARKS[mark.kind] ?? MARKS.reload;
  return html`<span style=${{ left: `${share * 100}%` }} class=${`mark ${tone}`} title=${`${mark.label} at ${format.clockTime(mark.at)}`}><${Icon} name=${icon} size=${10} /></span>`;
}

/** One sub-path for each run of known values. */
function path(at, values, most, filled) {
  const x = (index) => ((index / (at.length - 1 || 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1);
  let text = '';
  let began = -1;
  const end = (index) => {
    if (filled && began >= 0) text += `L${x(index)} ${HEIGHT}L${x(began)} ${HEIGHT}Z`;
    began = -1;
  };
  values.forEach((value, index) => {
    if (value == null) return end(index - 1);
    text += `${began < 0 ? 'M' : 'L'}${x(index)} ${y(value)}`;
    if (began < 0) began = index;
    return undefined;
  });
  end(values.length - 1);
  return text;
}
