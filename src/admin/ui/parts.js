// Components that pages are made of: page, table, badge, bar, dialog, toast, and the states of what is loaded.
import { Observable, html, useEffect, useLayoutEffect, useObservable, useRef, useState, useUniqueId } from './dom.js';
import { askForToken, connection, useAction, useNow } from './api.js';
import * as format from './format.js';

// ---- icons -------------------------------------------------------------------------------------

const SHAPES = {
  good: 'M3 8.5l3.2 3L13 4.5',
  bad: 'M4 4l8 8M12 4l-8 8',
  warn: 'M8 2.5L14.5 13.5H1.5zM8 6.5v3.2M8 11.6v.2',
  info: 'M8 7.2v4.3M8 4.4v.2M8 1.5a6.5 6.5 0 100 13 6.5 6.5 0 000-13z',
  half: 'M8 2a6 6 0 100 12zM8 2a6 6 0 010 12',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  wait: 'M8 1.5a6.5 6.5 0 100 13 6.5 6.5 0 000-13zM8 4.5V8l2.5 1.8',
  copy: 'M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z',
  menu: 'M2 4h12M2 8h12M2 12h12',
  down: 'M4 6l4 4 4-4',
  reload: 'M8 2l6 6-6 6-6-6z',
  trip: 'M8 2l6.5 11.5h-13z',
  mode: 'M2.5 2.5h11v11h-11z',
};

/** A shape beside a word, so that colour is never the only signal. */
export function Icon({ name, size = 14 }) {
  return html`<svg width=${size} height=${size} viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="2"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${SHAPES[name]} /></svg>`;
}

// ---- text --------------------------------------------------------------------------------------

/** A name from outside the sidecar. Long names are cut; the title has more of it. */
export function Name({ children, longest = 120, mono }) {
  const text = String(children ?? '');
  const title = text.length > longest ? format.visible(text, 1000) : undefined;
  return html`<bdi class=${mono ? 'name mono' : 'name'} title=${title}>${format.visible(text, longest)}</bdi>`;
}

/** How long ago a moment was, with the moment as its title. */
export function Ago({ at }) {
  const now = useNow();
  const date = format.time(at);
  if (!date) return format.NONE;
  return html`<time class="nowrap" datetime=${date.toISOString()} title=${format.dayTime(date)}>${format.ago(date, now)}</time>`;
}

/** A moment of today as a time, an earlier one with its day. */
export function Time({ at }) {
  const date = format.time(at);
  if (!date) return format.NONE;
  return html`<time class="nowrap" datetime=${date.toISOString()} title=${date.toISOString()}>${format.dayTime(date)}</time>`;
}

/** A place in the policy, as `FILE:LINE`; the folder is in its title. */
export function Source({ children }) {
  const text = format.visible(children ?? '', 400);
  return text ? html`<span class="source" title=${text}>${text.split('/').at(-1)}</span>` : null;
}

const BADGE_ICONS = { good: 'good', bad: 'bad', warn: 'warn', info: 'info' };

/** A state in a word. `tone` is `good`, `warn`, `bad` or `info`. */
export function Badge({ tone = 'info', icon, children }) {
  return html`<span class=${`badge ${tone}`}><${Icon} name=${icon ?? BADGE_ICONS[tone]} size=${11} /><span>${children}</span></span>`;
}

/** A share of 1 as a bar; `mark` is the share that is wanted. Always beside its number. */
export function Bar({ share, mark, tone = '' }) {
  const at = (value) => `${Math.max(0, Math.min(1, value ?? 0)) * 100}%`;
  return html`<span class=${`bar ${tone}`} aria-hidden="true"><i style=${{ width: at(share) }}></i>${mark != null && html`<b style=${{ left: `calc(${at(mark)} - 1px)` }}></b>`}</span>`;
}

// ---- page and states ---------------------------------------------------------------------------

/** The frame of a page: its heading, a sentence about it, and its controls. */
export function Page({ title, intro, actions, children }) {
  useEffect(() => {
    document.title = `${title} · Outrigger`;
  }, [title]);
  return html`<div class="page-head"><div><h1 id="page-title" tabindex="-1">${title}</h1>${intro && html`<p>${intro}</p>`}</div>
      ${actions && html`<div class="row">${actions}</div>`}</div>
    <div class="stack">${children}</div>`;
}

/** A box with a heading. */
export function Card({ title, note, actions, children, flush }) {
  const id = useUniqueId('card');
  return html`<section class="card" aria-labelledby=${title ? id : undefined}>
    ${title && html`<div class="card-head"><h2 id=${id}>${title}</h2>${note && html`<span class="muted">${note}</span>`}${actions && html`<div class="row">${actions}</div>`}</div>`}
    ${flush ? children : html`<div class="card-body">${children}</div>`}
  </section>`;
}

/** A sentence in place of content. */
export function State({ title, children }) {
  return html`<div class="state"><strong>${title}</strong>${children && html`<p>${children}</p>`}</div>`;
}

/**
 * Renders `children(data)` of a value of `usePoll`. Old data stays in sight while new data is read and after an
 * error. `absent` is the text for a sidecar without this endpoint, or with nothing to report (404).
 */
export function Loaded({ of, children, absent }) {
  const { data, error, at } = of;
  if (data !== undefined) {
    return html`${error && html`<p class="notice warn" role="status">These figures are of ${format.clockTime(new Date(at))}: ${format.visible(error.message, 300)}.</p>`}${children(data)}`;
  }
  if (!error) return html`<${State} title="Loading" />`;
  if (error.isDisconnected) return html`<${State} title="The sidecar does not respond">This page fills as soon as it does.<//>`;
  if (error.status === 401) return html`<${State} title="The admin token is needed"><button type="button" class="button primary" onClick=${() => askForToken()}>Enter the token</button><//>`;
  if (error.status === 404) return html`<${State} title="Nothing to show">${absent ?? format.visible(error.message, 300)}<//>`;
  return html`<${State} title="This page could not be loaded">${format.visible(error.message, 300)}<//>`;
}

/** The answer of a page in one sentence. `tone` is `good`, `warn`, `bad` or `info`. */
export function Verdict({ tone, children }) {
  return html`<p class="summary"><span class=${`tone-${tone}`}><${Icon} name=${BADGE_ICONS[tone]} size=${22} /></span><span>${children}</span></p>`;
}

/** Counts with bars: `[{label, count, note, tone}]`. */
export function Tally({ of, empty = 'None' }) {
  const most = Math.max(1, ...of.map(({ count }) => count));
  if (!of.length) return html`<p class="muted">${empty}</p>`;
  return html`<ul class="tally">${of.map(({ label, count, note, tone = '' }) => html`<li key=${label}><span class="name">${label}${note && html`<span class="sub">${note}</span>`}</span>
    <${Bar} share=${count / most} tone=${tone} /><strong>${format.number(count)}</strong></li>`)}</ul>`;
}

const settingText = (value) => {
  if (Array.isArray(value)) return value.map(settingText).join(', ');
  if (value && typeof value === 'object') return Object.entries(value).map(([key, one]) => `${key}: ${settingText(one)}`).join(', ');
  return String(value);
};

/** Settings of the policy as it has them, in a part that opens. */
export function Settings({ of, title = 'Policy in force' }) {
  const entries = Object.entries(of ?? {}).filter(([, value]) => value != null);
  if (!entries.length) return null;
  return html`<details class="help"><summary>${title}</summary><div><${Facts} of=${entries.map(([key, value]) => [html`<code>${format.visible(key, 60)}</code>`, format.visible(settingText(value), 300)])} /></div></details>`;
}

/** Text of several lines that keeps its layout. */
export function Snippet({ label, tone = '', children }) {
  const text = String(children ?? '').split('\n').slice(0, 200).map((line) => format.visible(line, 400)).join('\n');
  return html`<pre class=${`snippet ${tone} ${text.includes('\n') ? '' : 'wrap'}`} tabindex="0" role="group" aria-label=${label}>${text}</pre>`;
}

/** The error of a form or an action. */
export function Failure({ error }) {
  return error ? html`<p class="notice bad" role="alert">${format.visible(error.message, 600)}</p>` : null;
}

/** Large figures: `[{label, value, note, tone}]`. */
export function Figures({ of }) {
  return html`<dl class="figures">${of.map(({ label, value, note, tone }) => html`<div key=${label}><dt>${label}</dt>
    <dd class=${tone ? `tone-${tone}` : ''}>${value}${note && html`<small>${note}</small>`}</dd></div>`)}</dl>`;
}

/** Pairs of a label and a value. */
export function Facts({ of }) {
  return html`<dl class="facts">${of.filter(([, value]) => value != null && value !== '').map(([label, value]) => html`<dt>${label}</dt><dd>${value}</dd>`)}</dl>`;
}

/** Rows that a table shows at first. */
const PAGE_ROWS = 60;

/**
 * A table; below 860 px each row becomes a block with labels.
 * `columns`: `{label, cell(row), num, lead, full, help, blank(row)}`. `rowKey(row)` names a row. With `select(row)`
 * a click selects a row; pages put a button into the lead cell for the keyboard.
 */
export function Table({ label, columns, rows, rowKey, select, isSelected, empty = 'Nothing here.', sort, onSort }) {
  const box = useRef();
  const [shown, setShown] = useState(PAGE_ROWS);
  useLayoutEffect(() => {
    // A box that scrolls must be reachable by the keyboard.
    if (box.current) box.current.tabIndex = box.current.scrollWidth > box.current.clientWidth ? 0 : -1;
  });
  if (!rows.length) return html`<div class="table-box"><${State} title=${empty} /></div>`;
  return html`<div class="table-box" ref=${box}><table class="responsive" role="table" aria-label=${label}>
    <thead role="rowgroup"><tr role="row">${columns.map((column) => html`<th key=${column.label} role="columnheader" scope="col" class=${column.num ? 'num' : ''} title=${column.help}
      aria-sort=${sort?.by === column.key && column.key ? (sort.down ? 'descending' : 'ascending') : undefined}>
      ${column.key && onSort ? html`<button type="button" class="link-button" onClick=${() => onSort(column.key)}>${column.label}</button>` : column.hidden ? html`<span class="visually-hidden">${column.label}</span>` : column.label}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.slice(0, shown).map((row) => html`<tr key=${rowKey(row)} role="row" onClick=${select ? (event) => { if (!event.target.closest('a,button,input,label')) select(row); } : undefined}
      class=${[select && 'selectable', isSelected?.(row) && 'selected'].filter(Boolean).join(' ')}>
      ${columns.map((column) => html`<td key=${column.label} role="cell" data-label=${column.label}
        class=${[column.num && 'num', column.lead && 'lead', column.full && 'full', column.hidden && 'bare', column.blank?.(row) && 'blank'].filter(Boolean).join(' ')}><div>${column.cell(row)}</div></td>`)}</tr>`)}</tbody>
  </table>${rows.length > shown && html`<div class="more"><button type="button" class="button" onClick=${() => setShown(shown + PAGE_ROWS)}>Show ${Math.min(PAGE_ROWS, rows.length - shown)} more of ${format.number(rows.length)}</button></div>`}</div>`;
}

// ---- dialogs, toasts, copying ------------------------------------------------------------------

/** A modal dialog: focus stays in it, Escape closes it, and focus returns to where it was. */
export function Dialog({ title, onClose, wide, children, foot, onSubmit }) {
  const element = useRef();
  const id = useUniqueId('dialog');
  useEffect(() => {
    const dialog = element.current;
    const opener = document.activeElement;
    dialog.showModal();
    dialog.querySelector('[data-autofocus]')?.focus();
    return () => {
      dialog.close();
      if (opener?.isConnected) opener.focus();
    };
  }, []);
  const submit = (event) => {
    event.preventDefault();
    onSubmit?.();
  };
  return html`<dialog ref=${element} class=${wide ? 'wide' : ''} aria-labelledby=${id} onCancel=${(event) => { event.preventDefault(); onClose(); }}
    onClick=${(event) => { if (event.target === element.current) onClose(); }}>
    <form onSubmit=${submit}><div class="dialog-body"><h2 id=${id}>${title}</h2>${children}</div>
      <div class="dialog-foot">${foot ?? html`<button type="button" class="button" onClick=${onClose}>Close</button>`}</div></form>
  </dialog>`;
}

/** A text field with its label. */
export function Field({ label, help, value, onInput, type = 'text', required, placeholder, autofocus, mono }) {
  const id = useUniqueId('field');
  return html`<div class="field"><label for=${id}><strong>${label}</strong></label>
    <input data-autofocus=${autofocus} id=${id} class=${mono ? 'input mono' : 'input'} type=${type} value=${value} required=${required} placeholder=${placeholder}
      aria-describedby=${help ? `${id}-help` : undefined} autocomplete="off" spellcheck=${false} onInput=${(event) => onInput(event.target.value)} />
    ${help && html`<small id=${`${id}-help`}>${help}</small>`}</div>`;
}

/**
 * Asks for duration and reason, then makes a change. `run({for, reason, by})` returns a promise; `done` is the toast.
 */
export function ChangeDialog({ title, text, verb, danger, withDuration = true, withReason = true, defaultDuration = '', durationHelp = 'Such as 90s, 10m or 2h. Empty: until it is undone.', run, done, onClose, children }) {
  const [lasts, setLasts] = useState(defaultDuration);
  const [reason, setReason] = useState('');
  const [by, setBy] = useState(operator.value);
  const [busy, error, act] = useAction(async () => {
    operator.set(by);
    const body = {};
    if (withDuration && lasts.trim()) body.for = lasts.trim();
    if (withReason && reason.trim()) body.reason = reason.trim();
    if (by.trim()) body.by = by.trim();
    await run(body);
    toast(done ?? 'Done');
    onClose();
  });
  return html`<${Dialog} title=${title} onClose=${onClose} onSubmit=${act}
    foot=${html`<button type="button" class="button" onClick=${onClose}>Cancel</button><button type="submit" class=${danger ? 'button danger primary' : 'button primary'} disabled=${busy}>${busy ? 'Sending' : verb}</button>`}>
    ${text && html`<p class="muted">${text}</p>`}${children}
    ${withReason && html`<${Field} label="Reason" help="For the audit log and for the next operator." value=${reason} onInput=${setReason} autofocus />`}
    ${withDuration && html`<${Field} label="Lasts" help=${durationHelp} value=${lasts} onInput=${setLasts} placeholder="10m" />`}
    ${withReason && html`<${Field} label="Your name" help="Optional, for the audit log." value=${by} onInput=${setBy} />`}
    <${Failure} error=${error} />
  <//>`;
}

/** The operator's name, kept for the next dialog. */
const operator = new Observable('');

const toasts = new Observable([]);
let toastId = 0;

/** A short message that disappears by itself; errors stay longer. */
export function toast(text, tone = 'good') {
  const id = ++toastId;
  toasts.set([...toasts.value.slice(-3), { id, text, tone }]);
  setTimeout(() => toasts.set(toasts.value.filter((one) => one.id !== id)), tone === 'bad' ? 10_000 : 4000);
}

export function Toasts() {
  const shown = useObservable(toasts);
  return html`<div class="toasts" role="status" aria-live="polite">${shown.map(({ id, text, tone }) => html`<div key=${id} class=${`toast ${tone}`}>
    <span class=${`tone-${tone}`}><${Icon} name=${BADGE_ICONS[tone]} size=${16} /></span><span>${format.visible(text, 400)}</span></div>`)}</div>`;
}

export async function copy(text, label = 'Copied') {
  try {
    await navigator.clipboard.writeText(text);
    toast(label);
  } catch {
    copyBySelection(text, label);
  }
}

/** For pages that are not in a secure context. */
function copyBySelection(text, label) {
  const area = document.createElement('textarea');
  area.value = text;
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  toast(copied ? label : 'The browser does not allow copying', copied ? 'good' : 'bad');
}

/** A command with a button that copies it. */
export function Command({ children, label = 'Copy command' }) {
  const text = String(children);
  return html`<span class="command"><code>${format.visible(text, 400)}</code><button type="button" class="button" aria-label=${`${label}: ${format.visible(text, 120)}`}
    onClick=${() => copy(text, 'Command copied')}><${Icon} name="copy" /> Copy</button></span>`;
}

/** Exclusive choices of a form, each with an explanation: `options` is `[[value, label, help]]`. */
export function Options({ label, options, value, onChange }) {
  const name = useUniqueId('options');
  return html`<fieldset class="choices"><legend>${label}</legend>${options.map(([one, text, help]) => html`<label key=${one}>
    <input type="radio" name=${name} value=${one} checked=${one === value} onChange=${() => onChange(one)} /><span>${text}${help && html`<small>${help}</small>`}</span></label>`)}</fieldset>`;
}

/** A set of exclusive choices: `options` is `[[value, label]]`. */
export function Choice({ label, options, value, onChange }) {
  return html`<div class="segments" role="group" aria-label=${label}>${options.map(([one, text]) => html`<button key=${one} type="button" class="button"
    aria-pressed=${String(one === value)} onClick=${() => onChange(one)}>${text}</button>`)}</div>`;
}

/** A line about the connection: live, connecting, or gone. */
export function LiveState() {
  const { state } = useObservable(connection);
  const [kind, text] = { live: ['', 'Live'], connecting: ['wait', 'Connecting'], disconnected: ['away', 'Disconnected'], token: ['away', 'Token needed'] }[state];
  return html`<span class=${`live ${kind}`} data-connection=${state}>${text}</span>`;
}
