// Benchmarks and baselines: runs with their thresholds and trend, and the tracked series with their alarms.
import { html, useState } from '../dom.js';
import { change, usePoll } from '../api.js';
import { Ago, Badge, Bar, Card, ChangeDialog, Choice, Facts, Icon, Loaded, Name, Page, Source, State, Table, Time, Verdict } from '../parts.js';
import { Chart } from '../charts.js';
import { replaceQuery, useRoute } from '../router.js';
import * as format from '../format.js';

export function Benchmarks() {
  const benchmarks = usePoll('/api/benchmarks', 1000);
  const series = usePoll('/api/benchmarks/series', 3000);
  const [dialog, setDialog] = useState(null);
  return html`<${Page} title="Benchmarks and baselines" intro="Measured calls against thresholds, and live calls against what is usual.">
    <${Answer} benchmarks=${benchmarks.data?.benchmarks} series=${series.data} />
    <${Loaded} of=${benchmarks}>${(data) => (data.benchmarks.length ? html`${data.benchmarks.map((one) => html`<${Benchmark} key=${one.name} benchmark=${one} onChange=${setDialog} />`)}`
      : html`<section class="card"><${State} title="The policy has no benchmark">Add one under <code>benchmarks</code> to measure a route or a provider.<//></section>`)}<//>
    <${Loaded} of=${series}>${(data) => html`<${Tracked} data=${data} onChange=${setDialog} />`}<//>
    <${Changes} />
    ${dialog && html`<${ChangeDialog} ...${dialog} onClose=${() => setDialog(null)} />`}<//>`;
}

const missed = (run) => (run?.state === 'done' ? (run.thresholds ?? []).filter((one) => one.holds === false) : []);
const isRunning = (run) => run?.state === 'running';

function Answer({ benchmarks, series }) {
  if (!benchmarks && !series) return null;
  const alarms = (series?.series ?? []).filter((one) => one.state === 'alarm').length;
  const failing = (benchmarks ?? []).filter(({ last }) => last && (last.state === 'failed' || missed(last).length)).length;
  const parts = [];
  if (series?.host_regression) parts.push('Most series are slower than usual: this host is the likely cause');
  else if (alarms) parts.push(`${format.plural(alarms, 'series is', 'series are')} worse than usual`);
  if (failing) parts.push(`${format.plural(failing, 'benchmark')} of ${benchmarks.length} missed a threshold in its last run`);
  return html`<${Verdict} tone=${alarms || series?.host_regression ? 'bad' : failing ? 'warn' : 'good'}>${parts.length ? `${parts.join('; ')}.` : 'No series is worse than usual, and no benchmark missed a threshold.'}<//>`;
}

// ---- benchmarks --------------------------------------------------------------------------------

function runState(run) {
  if (!run) return ['info', 'info', 'Never run'];
  if (isRunning(run)) return ['info', 'half', `Running, ${Math.floor((run.progress ?? 0) * 100)} %`];
  if (run.state === 'aborted') return ['warn', 'pause', 'Stopped'];
  if (run.state === 'failed') return ['bad', 'bad', 'Failed'];
  const broken = missed(run).length;
  if (broken) return ['bad', 'bad', `Missed ${broken} of ${run.thresholds.length}`];
  return ['good', 'good', run.thresholds?.length ? 'Passed' : 'Done'];
}

function Benchmark({ benchmark, onChange }) {
  const { name, target, load, location, last, baseline } = benchmark;
  const { query } = useRoute();
  const [tone, icon, word] = runState(last);
  const text = format.visible(name, 60);
  const isOpen = query.get('benchmark') === name;
  const start = () => onChange({ title: `Start ${text}`, verb: 'Start', withDuration: false, text: `Calls ${format.visible(target, 80)}: ${format.visible(load, 120)}. Each call is real and may cost money.`, done: `${text} started`, run: (body) => change(`/api/benchmarks/${encodeURIComponent(name)}/runs`, body) });
  const stop = () => onChange({ title: `Stop ${text}`, verb: 'Stop', danger: true, withDuration: false, text: 'The run ends as aborted, and no figure of it counts.', done: `${text} stopped`, run: (body) => change(`/api/benchmarks/runs/${encodeURIComponent(last.id)}`, body, 'DELETE') });
  const setBaseline = () => onChange({ title: `Make the last run the baseline of ${text}`, verb: 'Make baseline', withDuration: false, text: 'Each further run is compared with it when it ends.', done: 'Baseline set', run: (body) => change(`/api/benchmarks/${encodeURIComponent(name)}/baseline`, { ...body, run: last.id }, 'PUT') });
  return html`<${Card} title=${html`<${Name}>${name}<//>`} note=${html`<span class="row"><${Badge} tone=${tone} icon=${icon}>${word}<//><${Source}>${location}<//></span>`}
    actions=${html`${last?.state === 'done' && last.id !== baseline && html`<button type="button" class="button" onClick=${setBaseline}>Make baseline<span class="visually-hidden"> of ${text}</span></button>`}
      <button type="button" class="button" aria-expanded=${String(isOpen)} onClick=${() => replaceQuery({ benchmark: isOpen ? '' : name })}>Trend<span class="visually-hidden"> of ${text}</span></button>
      ${isRunning(last) ? html`<button type="button" class="button danger" onClick=${stop}>Stop<span class="visually-hidden"> ${text}</span></button>` : html`<button type="button" class="button primary" onClick=${start}>Start<span class="visually-hidden"> ${text}</span></button>`}`}>
    <div class="stack tight">${isRunning(last) && html`<p class="share"><${Bar} share=${last.progress} tone="wide mine" /> ${format.percent(last.progress)} of ${format.visible(last.load, 120)}</p>`}
      ${last?.reason && html`<p class=${`notice ${last.state === 'failed' ? 'bad' : 'warn'}`}>${format.visible(format.sentence(last.reason), 400)}</p>`}
      <div class="columns"><div><h3>Thresholds</h3><${Thresholds} run=${last} thresholds=${benchmark.thresholds} /></div>
        <div><h3>${isRunning(last) ? 'So far' : 'Last run'}</h3>${(last?.arms ?? []).map((arm) => html`<${Arm} key=${arm.target} arm=${arm} />`)}${!last && html`<p class="muted">No run is stored</p>`}</div>
        <div><h3>Run</h3><${Facts} of=${[
          ['Target', last ? null : format.visible(target, 120)], ['Load', format.visible(load, 200)],
          ['Ended', last?.ended ? html`<${Ago} at=${last.ended} />` : null], ['Started by', last ? format.words(last.trigger) : null],
          ['Next', benchmark.next ? html`<${Time} at=${benchmark.next} />` : 'by hand only'],
          ['Baseline', baseline ? (baseline === last?.id ? 'this run' : html`<code>${format.visible(baseline, 30)}</code>`) : 'none'],
          ['Against the baseline', last?.baseline_comparison ? verdict(last.baseline_comparison) : null],
          ['Second against first', last?.comparison ? verdict(last.comparison) : null],
        ]} /></div></div>
      ${isOpen && html`<${Trend} name=${name} measure=${query.get('measure') || 'p95'} />`}</div><//>`;
}

const VERDICTS = { better: 'good', worse: 'bad', same: 'good' };

function verdict({ verdict: word, measures, more_calls: more }) {
  const changed = measures.filter((one) => one.verdict === 'worse' || one.verdict === 'better').map((one) => `${one.measure} ${one.change ? signed(one.change.estimate) : ''}`);
  return html`<${Badge} tone=${VERDICTS[word] ?? 'info'}>${format.words(word)}<//> <span class="muted small">${format.visible(changed.join(', ') || (more ? `${format.number(more)} more calls would tell` : ''), 200)}</span>`;
}

const signed = (share) => `${share > 0 ? '+' : '−'}${format.percent(Math.abs(share))}`;

function Thresholds({ run, thresholds }) {
  if (!thresholds.length) return html`<p class="muted">None in the policy</p>`;
  const found = run?.thresholds?.length ? run.thresholds : thresholds.map((threshold) => ({ threshold }));
  return html`<ul class="list">${found.map(({ threshold, value, holds }) => html`<li class="row" key=${threshold}><${Badge} tone=${holds == null || value == null ? 'info' : holds ? 'good' : 'bad'}>${format.visible(value ?? 'no figure', 40)}<//><code>${format.visible(threshold, 120)}</code>
    <span class="visually-hidden">${holds == null ? '' : holds ? 'holds' : 'missed'}</span></li>`)}</ul>`;
}

const seconds = (value) => format.duration(value == null ? null : value * 1000);

function Arm({ arm: { target, figures } }) {
  const { latency, first_content: content } = figures;
  return html`<${Facts} of=${[
    ['Target', format.visible(target, 120)],
    ['Calls', `${format.number(figures.calls)}, ${format.number(figures.failed)} failed`],
    ['p50, p95, p99', latency ? [latency.p50, latency.p95, latency.p99].map(seconds).join(', ') : null],
    ['First content p50', content ? seconds(content.p50) : null],
    ['Throughput', figures.throughput == null ? null : `${format.compact(figures.throughput)}/s`],
    ['Tokens per second', figures.tokens_per_second == null ? null : format.compact(figures.tokens_per_second)],
    ['Cost', figures.cost ? format.money(figures.cost.amount, figures.cost.currency) : null],
  ]} />`;
}

const MEASURES = [['p50', 'p50'], ['p95', 'p95'], ['p99', 'p99'], ['first_byte', 'First byte'], ['first_content', 'First content'], ['tokens_per_second', 'Tokens/s'], ['throughput', 'Throughput'], ['error_rate', 'Errors'], ['cost', 'Cost']];

/** Figures of the API in words: seconds, a share, or a number. */
function figure(measure) {
  if (/^p\d|first|latency|gap/.test(measure)) return seconds;
  return measure === 'error_rate' ? format.percent : format.compact;
}

function Trend({ name, measure }) {
  const trend = usePoll(`/api/benchmarks/${encodeURIComponent(name)}/trend?measure=${encodeURIComponent(measure)}`, 5000);
  return html`<div class="stack tight"><${Choice} label="Measure" value=${measure} onChange=${(value) => replaceQuery({ measure: value === 'p95' ? '' : value })} options=${MEASURES} />
    <${Loaded} of=${trend} absent="Runs are kept only with a store: start the sidecar with --data.">${(data) => {
      if (data.points.length < 2) return html`<${State} title=${data.points.length ? 'One run has this figure; a trend needs two' : 'No run has this figure'} />`;
      const shown = levels(data);
      const show = figure(measure);
      const marks = data.changes.map((one) => ({ at: Date.parse(one.began) / 1000, tone: one.worse ? 'bad' : 'info', label: one.worse ? 'became worse' : 'became better' }));
      return html`<${Chart} label=${`${measure} of ${format.visible(name, 60)}`} at=${shown.at} series=${[{ label: measure, values: shown.values }, { label: 'level', values: shown.level, color: '--muted' }]} band=${shown.band} marks=${marks} show=${show} />
        ${data.changes.length ? html`<ul class="list">${data.changes.map((one) => html`<li class="row" key=${one.run}><${Badge} tone=${one.worse ? 'bad' : 'good'}>${one.worse ? 'Worse' : 'Better'}<//> <span>since <${Time} at=${one.began} />: ${show(one.before)} → ${show(one.after)}</span></li>`)}</ul>` : html`<p class="muted small">No change of the level in ${format.plural(data.points.length, 'run')}. The band holds the middle 80 % of the runs.</p>`}`;
    }}<//></div>`;
}

/** Between two changes of the level: the median, and the band of the middle 80 % of the runs. */
function levels({ points, changes }) {
  const at = points.map((point) => Date.parse(point.began) / 1000);
  const values = points.map((point) => point.value);
  const starts = [0, ...changes.map((one) => points.findIndex((point) => point.run === one.run)).filter((index) => index > 0), points.length];
  const level = [];
  const band = { low: [], high: [] };
  for (let part = 0; part < starts.length - 1; part++) {
    const sorted = values.slice(starts[part], starts[part + 1]).sort((a, b) => a - b);
    const quantile = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    for (const _ of sorted) {
      level.push(quantile(0.5));
      band.low.push(quantile(0.1));
      band.high.push(quantile(0.9));
    }
  }
  return { at, values, level, band };
}

// ---- tracked series ----------------------------------------------------------------------------

const SERIES_STATES = { alarm: ['bad', 'bad', 'Alarm'], normal: ['good', 'good', 'Normal'], learning: ['info', 'wait', 'Learning'], not_enough_data: ['info', 'info', 'Too few calls'] };
const MEASURE_NAMES = { p50: 'p50', p95: 'p95', first_content: 'First content', tokens_per_second: 'Tokens/s', error_rate: 'Errors' };
const ORDER = ['alarm', 'normal', 'learning', 'not_enough_data'];

function stateBadge(state) {
  const [tone, icon, word] = SERIES_STATES[state] ?? ['info', 'info', format.words(state)];
  return html`<${Badge} tone=${tone} icon=${icon}>${word}<//>`;
}

const keyOf = (row) => JSON.stringify([row.route, row.provider, row.model]);
const queryOf = (row) => new URLSearchParams({ route: row.route, provider: row.provider, model: row.model });
const nameOf = (row) => format.visible(`${row.route} → ${row.provider}, ${row.model === '-' ? 'unknown model' : row.model}`, 160);

function Tracked({ data, onChange }) {
  const { query } = useRoute();
  const chosen = query.get('series');
  const rows = [...data.series].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state));
  const selected = rows.find((row) => keyOf(row) === chosen);
  const select = (row) => replaceQuery({ series: keyOf(row) === chosen ? '' : keyOf(row) });
  const accept = (row) => onChange({ title: 'Accept as normal', verb: 'Accept', withDuration: false, text: `The current values of ${nameOf(row)} become its baseline, which ends its alarms.`, done: 'Accepted', run: (body) => change(`/api/benchmarks/series/accept?${queryOf(row)}`, body) });
  const columns = [
    { label: 'Series', lead: true, cell: (row) => html`<button type="button" class="link-button" aria-pressed=${String(keyOf(row) === chosen)} onClick=${() => select(row)}><${Name} longest=${60}>${row.route}<//> → <${Name} longest=${60}>${row.provider}<//></button><span class="sub">${row.model === '-' ? 'unknown model' : row.model === 'other' ? 'other models' : html`<${Name} longest=${60}>${row.model}<//>`}</span>` },
    { label: 'State', cell: (row) => stateBadge(row.state) },
    { label: 'Calls', num: true, cell: (row) => html`${format.number(row.calls)}<span class="sub">${format.number(row.failed)} failed</span>` },
    ...Object.entries(MEASURE_NAMES).map(([name, label]) => ({ label, num: true, help: 'Current, and the usual value', blank: (row) => measureOf(row, name)?.current == null, cell: (row) => measureCell(measureOf(row, name), figure(name)) })),
    rows.some((row) => row.state === 'alarm') && { label: 'Accept', hidden: true, blank: (row) => row.state !== 'alarm', cell: (row) => row.state === 'alarm' && html`<button type="button" class="button" onClick=${() => accept(row)}>Accept<span class="visually-hidden"> ${nameOf(row)} as normal</span></button>` },
  ].filter(Boolean);
  return html`<${Card} title="Tracked series" note=${data.host_regression ? html`<${Badge} tone="bad">This host is slower<//>` : 'Current value, and what is usual at this hour'} flush>
    <${Table} label="Tracked series" columns=${columns} rows=${rows} rowKey=${keyOf} select=${select} isSelected=${(row) => keyOf(row) === chosen} empty="No call yet" /><//>
    ${selected && html`<${Points} key=${chosen} row=${selected} />`}`;
}

const measureOf = (row, name) => row.measures.find((one) => one.measure === name);

function measureCell(measure, show) {
  if (!measure) return format.NONE;
  if (measure.current == null && measure.baseline == null) return html`<span class="muted small">${measure.state === 'learning' ? 'learning' : format.NONE}</span>`;
  return html`<span class=${measure.state === 'alarm' ? 'tone-bad' : ''}>${measure.state === 'alarm' && html`<${Icon} name="bad" size=${10} /> `}${show(measure.current)}</span><span class="sub">usual ${show(measure.baseline)}</span>${measure.alarm_since && html`<span class="sub tone-bad">since <${Time} at=${measure.alarm_since} /></span>`}`;
}

const POINT_MEASURES = [['latency', 'Latency'], ['first_content', 'First content'], ['token_gap', 'Token gap'], ['tokens_per_second', 'Tokens/s'], ['cost', 'Cost']];
const POINT_RANGES = [['1h', '1 h'], ['6h', '6 h'], ['24h', '24 h'], ['7d', '7 d']];

function Points({ row }) {
  const [measure, setMeasure] = useState('latency');
  const [range, setRange] = useState('1h');
  const points = usePoll(`/api/benchmarks/series/points?${queryOf(row)}&measure=${measure}&from=${range}`, 10_000);
  const baselines = measure === 'latency' ? ['p50', 'p95'] : [measure];
  const lines = baselines.map((name) => ({ value: measureOf(row, name)?.baseline, label: `usual ${MEASURE_NAMES[name] ?? ''}` })).filter((one) => one.value != null);
  return html`<${Card} title=${nameOf(row)} actions=${html`<${Choice} label="Time range" value=${range} onChange=${setRange} options=${POINT_RANGES} />`}><div class="stack tight">
    <${Choice} label="Measure" value=${measure} onChange=${setMeasure} options=${POINT_MEASURES} />
    <${Loaded} of=${points}>${(data) => {
      const at = data.points.map((point) => Date.parse(point.at) / 1000);
      const series = ['p50', 'p95'].map((name) => ({ label: name, values: data.points.map((point) => point[name] ?? null) })).filter(({ values }) => values.some((value) => value != null));
      if (at.length < 2 || !series.length) return html`<${State} title="No figures in this time" />`;
      return html`<${Chart} label=${`${measure} of ${nameOf(row)}`} at=${at} series=${series} lines=${lines} show=${figure(measure)} />`;
    }}<//></div><//>`;
}

const CHANGES = { regression: ['bad', 'Regression'], recovery: ['good', 'Recovery'], too_few_calls: ['info', 'Too few calls'], accepted: ['info', 'Accepted'], host_regression: ['bad', 'Host regression'], host_recovery: ['good', 'Host recovery'] };

function Changes() {
  const changes = usePoll('/api/benchmarks/changes', 5000);
  const columns = [
    { label: 'Time', cell: (row) => html`<${Time} at=${row.at} />` },
    { label: 'Change', cell: (row) => html`<${Badge} tone=${CHANGES[row.change]?.[0]}>${CHANGES[row.change]?.[1] ?? format.words(row.change)}<//>` },
    { label: 'Series', lead: true, cell: (row) => (row.route ? html`<${Name} longest=${60}>${row.route}<//> → <${Name} longest=${60}>${row.provider}<//><span class="sub"><${Name} longest=${60}>${row.model}<//></span>` : 'this host') },
    { label: 'Measure', blank: (row) => !row.measure, cell: (row) => MEASURE_NAMES[row.measure] ?? format.words(row.measure ?? format.NONE) },
    { label: 'Before', num: true, cell: (row) => figure(row.measure ?? '')(row.before) },
    { label: 'Then', num: true, cell: (row) => figure(row.measure ?? '')(row.current) },
    { label: 'Since', blank: (row) => !row.since, cell: (row) => html`<${Time} at=${row.since} />` },
  ];
  return html`<${Card} title="Detected changes" note="Regressions and recoveries, newest first" flush><${Loaded} of=${changes}>${(data) => html`<${Table} label="Detected changes" columns=${columns} rows=${data.changes} rowKey=${(row) => `${row.at} ${row.change} ${row.route} ${row.provider} ${row.model} ${row.measure}`} empty="No change was detected" />`}<//><//>`;
}
