// Degradation: each mode with its readings, thresholds and actions; changes by hand; and episodes.
import { html, useState } from '../dom.js';
import { change, useNow, usePoll } from '../api.js';
import { Ago, Badge, Bar, Card, ChangeDialog, Facts, Loaded, Name, Page, State, Table, Time, Verdict } from '../parts.js';
import * as format from '../format.js';

const DAY_MS = 86_400_000;
const EFFECTS = { reduce: 'Reduced', use: 'Sent to other providers', serve_stale: 'Stored response', shed: 'Shed', respond: 'Fixed response' };

export function Degradation() {
  const degradation = usePoll('/api/degradation');
  const [dialog, setDialog] = useState(null);
  return html`<${Page} title="Degradation" intro="Modes that reduce what is asked of providers while something is wrong.">
    <${Loaded} of=${degradation}>${({ modes, episodes }) => (modes.length || episodes.length ? html`<${Answer} modes=${modes} />
      ${modes.map((mode) => html`<${Mode} key=${mode.name} mode=${mode} onChange=${setDialog} />`)}
      <${Day} modes=${modes} episodes=${episodes} /><${Episodes} episodes=${episodes} />`
      : html`<section class="card"><${State} title="The policy has no degradation mode">Add one under <code>degradations</code> and name it in <code>degrade</code> of a route.<//></section>`)}<//>
    ${dialog && html`<${ChangeDialog} ...${dialog} onClose=${() => setDialog(null)} />`}<//>`;
}

function Answer({ modes }) {
  const active = modes.filter((mode) => mode.in_force && mode.mode !== 'shadow');
  const next = modes.filter((mode) => mode.progress?.to === 'entering' && mode.mode !== 'shadow');
  const names = (list) => list.map((mode) => format.visible(mode.name, 40)).join(', ');
  if (active.length) return html`<${Verdict} tone="bad">${active.length === 1 ? 'Mode' : 'Modes'} ${names(active)} ${active.length === 1 ? 'is' : 'are'} in force.<//>`;
  if (next.length) return html`<${Verdict} tone="warn">No mode is in force; ${names(next)} is about to be entered.<//>`;
  return html`<${Verdict} tone="good">No mode is in force.<//>`;
}

function stateOf({ in_force: inForce, mode, progress }) {
  if (inForce && mode === 'shadow') return ['info', 'info', 'Would be in force'];
  if (inForce) return ['bad', 'mode', progress?.to === 'leaving' ? 'In force, about to leave' : 'In force'];
  if (progress?.to === 'entering') return ['warn', 'wait', 'About to be entered'];
  return ['good', 'good', 'Not in force'];
}

function Mode({ mode, onChange }) {
  const [tone, icon, word] = stateOf(mode);
  const name = format.visible(mode.name, 60);
  const path = (action) => `/api/degradation/${action}/${encodeURIComponent(mode.name)}`;
  const manual = (action, verb, text) => () => onChange({
    title: `${verb} ${name}`, verb, text, danger: action === 'enter', defaultDuration: '1h', durationHelp: 'Such as 90s, 10m or 2h. Empty: one hour.',
    done: `${name}: ${action === 'enter' ? 'entered' : 'left'}`, run: (body) => change(path(action), body),
  });
  const auto = () => onChange({ title: `Automatic again: ${name}`, verb: 'Automatic', withDuration: false, text: 'The override ends, and the condition decides again.', done: `${name} is automatic`, run: (body) => change(path('auto'), body) });
  return html`<${Card} title=${html`<${Name}>${mode.name}<//>`} note=${html`<span class="row"><${Badge} tone=${tone} icon=${icon}>${word}<//>${mode.mode === 'shadow' && html`<${Badge}>Shadow<//>`}${mode.override && html`<${Badge} tone="warn" icon="pause">By hand<//>`}</span>`}
    actions=${html`${mode.override && html`<button type="button" class="button primary" onClick=${auto}>Automatic<span class="visually-hidden"> again: ${name}</span></button>`}
      ${!mode.in_force && html`<button type="button" class="button" onClick=${manual('enter', 'Enter', 'The mode is in force on this host, whatever its condition says.')}>Enter<span class="visually-hidden"> ${name}</span></button>`}
      ${(mode.in_force || !mode.override) && html`<button type="button" class="button" onClick=${manual('leave', mode.in_force ? 'Leave' : 'Keep out', 'The mode is out of force on this host, whatever its condition says.')}>${mode.in_force ? 'Leave' : 'Keep out'}<span class="visually-hidden"> ${name}</span></button>`}`}>
    <div class="columns"><div><h3>Condition</h3>${mode.signals.length ? html`<ul>${mode.signals.map((signal) => html`<${Signal} key=${signal.signal} signal=${signal} />`)}</ul>` : html`<p class="muted">Entered by hand only</p>`}<${Progress} mode=${mode} /></div>
      <div><h3>Actions</h3><ul class="list">${mode.actions.map((action) => html`<li><code>${format.visible(action, 300)}</code></li>`)}</ul></div>
      <div><h3>Now</h3><${Facts} of=${[
        ['Since', mode.since ? html`<${Ago} at=${mode.since} />` : null],
        ['Cause', causeOf(mode.cause)],
        ['Affected', mode.impact ? `${format.plural(mode.impact.requests, 'request')}${effects(mode.impact) && `: ${effects(mode.impact)}`}; ${format.plural(mode.impact.errors_avoided, 'error')} avoided` : null],
        ['Override', mode.override ? overrideOf(mode.override) : null],
        ['Routes', mode.routes.length ? mode.routes.map((route) => format.visible(route, 60)).join(', ') : 'none'],
        ['Entered after', format.duration(mode.for_ms)], ['Left after', format.duration(mode.recover_after_ms)],
      ]} /></div></div><//>`;
}

function overrideOf({ state, by, reason, remaining_ms: left }) {
  return format.visible([`${state} by ${by || 'an operator'}`, reason, left == null ? 'until it is undone' : `for ${format.coarse(left)} more`].filter(Boolean).join(', '), 300);
}

function Progress({ mode }) {
  if (!mode.progress) return null;
  const { to, passed_ms: passed, of_ms: of } = mode.progress;
  return html`<p class="small"><span class="share"><${Bar} share=${of ? passed / of : 1} tone="wide warn" /> ${to === 'entering' ? 'Enters' : 'Leaves'} in ${format.coarse(Math.max(0, of - passed))}</span></p>`;
}

const UNITS = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400 };

/** The name, the threshold and the way to write a figure of a signal, from the words of the policy. */
function thresholdOf(words) {
  const kind = /^\w+/.exec(words)?.[0];
  const found = /(?:above|factor): ([\d.]+)\s*(ms|[smhd%])?/.exec(words);
  const value = found ? Number(found[1]) * (found[2] === '%' ? 0.01 : UNITS[found[2]] ?? 1) : null;
  if (kind === 'breaker_open') return { value: 1, show: (one) => (one >= 1 ? 'open' : 'closed'), isFlag: true };
  if (kind === 'latency') return { value, show: (seconds) => format.duration(seconds * 1000) };
  if (kind === 'error_rate' || kind === 'capacity_used') return { value, show: format.percent };
  return { value, show: format.compact };
}

/** A reading against its threshold: the mark is the threshold, at two thirds of the bar. */
function Signal({ signal: { signal, value, met, at_entry: entry } }) {
  const { value: threshold, show, isFlag } = thresholdOf(signal);
  const whole = isFlag ? 1 : Math.max((threshold ?? 0) * 1.5, value ?? 0) || 1;
  return html`<li class="signal"><code>${format.visible(signal, 200)}</code>
    <${Bar} share=${(value ?? 0) / whole} mark=${threshold == null || isFlag ? undefined : threshold / whole} tone=${`wide ${met ? 'bad' : 'mine'}`} />
    <span><${Badge} tone=${met ? 'bad' : 'good'}>${value == null ? 'too few requests' : show(value)}<//>
      ${threshold != null && !isFlag && html`<span class="sub muted small"> of ${show(threshold)}</span>`}${entry != null && !isFlag && html`<span class="muted small">, ${show(entry)} at entry</span>`}</span></li>`;
}

function causeOf(cause) {
  if (!cause) return null;
  if (cause.by === 'override') return format.visible(['by hand', cause.note?.by, cause.note?.reason].filter(Boolean).join(', '), 300);
  const met = cause.signals.filter((signal) => signal.met);
  return met.map(({ signal, value }) => `${format.visible(signal, 200)}${value == null ? '' : ` (${thresholdOf(signal).show(value)})`}`).join('; ') || 'its condition';
}

function Day({ modes, episodes }) {
  const now = useNow();
  const start = now - DAY_MS;
  const names = [...new Set([...modes.map((mode) => mode.name), ...episodes.map((one) => one.mode)])];
  const inDay = (one) => Date.parse(one.began) + one.seconds * 1000 >= start;
  return html`<${Card} title="Last 24 hours" note=${html`<span class="key-of"><span><i class="open"></i>in force</span><span><i class="shadow"></i>shadow</span></span>`}>
    <ul class="day">${names.map((name) => {
      const mine = episodes.filter((one) => one.mode === name && inDay(one));
      const seconds = mine.reduce((total, one) => total + one.seconds, 0);
      const text = mine.length ? `${format.plural(mine.length, 'episode')}, ${format.coarse(seconds * 1000)} in all` : 'no episode';
      return html`<li key=${name}><${Name} longest=${40}>${name}<//><div class="timeline" role="img" aria-label=${`${format.visible(name, 60)}: ${text} in 24 hours`} title=${text}>${mine.map((one) => {
        const left = Math.max(0, (Date.parse(one.began) - start) / DAY_MS);
        const width = Math.min(1 - left, (one.seconds * 1000) / DAY_MS);
        return html`<i key=${one.began} class=${one.shadow ? 'shadow' : 'open'} style=${{ left: `${left * 100}%`, width: `${width * 100}%` }}></i>`;
      })}</div></li>`;
    })}</ul><div class="axis" aria-hidden="true"><span>24 h ago</span><span>now</span></div><//>`;
}

const ENDS = { condition: 'the condition ended', override: 'by hand', removed: 'removed from the policy', restart: 'the sidecar restarted' };

function Episodes({ episodes }) {
  const columns = [
    { label: 'Mode', lead: true, cell: (row) => html`<strong><${Name}>${row.mode}<//></strong>${row.shadow && html` <${Badge}>Shadow<//>`}` },
    { label: 'Began', cell: (row) => html`<${Time} at=${row.began} />` },
    { label: 'Lasted', num: true, cell: (row) => html`${format.duration(row.seconds * 1000)}${!row.ended && !row.ended_by && html`<span class="sub tone-bad">so far</span>`}` },
    { label: 'Cause', full: true, cell: (row) => html`<div class="wide-cell">${causeOf(row.cause)}</div>` },
    { label: 'Requests', cell: (row) => html`${format.number(row.impact?.requests)}<span class="sub">${effects(row.impact)}</span>` },
    { label: 'Errors avoided', num: true, cell: (row) => format.number(row.impact?.errors_avoided) },
    { label: 'Recovery', cell: (row) => (row.ended_by ? html`${ENDS[row.ended_by] ?? format.words(row.ended_by)}${row.ended && html`<span class="sub"><${Time} at=${row.ended} /></span>`}` : html`<${Badge} tone="warn" icon="wait">Not yet<//>`) },
  ];
  return html`<${Card} title="Episodes" note=${format.plural(episodes.length, 'episode')} flush><${Table} label="Episodes" columns=${columns} rows=${episodes} rowKey=${(row) => `${row.mode} ${row.began}`} empty="No episode yet" /><//>`;
}

function effects(impact) {
  return Object.entries(EFFECTS).filter(([key]) => impact?.[key]).map(([key, label]) => `${label.toLowerCase()} ${format.number(impact[key])}`).join(', ');
}
