// Numbers, durations, times and names as text. An absent value is an en dash.
export const NONE = '–';

const grouped = [0, 1, 2, 3].map((digits) =>
  new Intl.NumberFormat('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }));

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

/** 1,234; with decimals only as asked for. */
export function number(value, digits = 0) {
  return isNumber(value) ? grouped[digits].format(value) : NONE;
}

/** Three significant digits: 0.12, 3.4, 56, 1,234. */
export function compact(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 0.01) return value.toPrecision(1);
  if (size < 1) return number(value, 2);
  return number(value, size < 10 ? 1 : 0);
}

/** A share of 1 as percent. It is 100 % or 0 % only if it is exactly that. */
export function percent(share) {
  if (!isNumber(share)) return NONE;
  if (share === 0 || share === 1) return `${share * 100} %`;
  const near = Math.min(Math.abs(share), Math.abs(1 - share));
  const digits = near < 0.001 ? 2 : near < 0.1 ? 1 : 0;
  const scale = 10 ** digits;
  const value = Math.floor(share * 100 * scale + 1e-9) / scale;
  return value === 0 ? '< 0.01 %' : `${number(value, digits)} %`;
}

/** Milliseconds as 0.8 ms, 85 ms, 2.5 s, 3 min 20 s, 2 h 5 min, 3 d. */
export function duration(ms) {
  if (!isNumber(ms)) return NONE;
  if (ms < 0) return `-${duration(-ms)}`;
  if (ms === 0) return '0 ms';
  if (ms < 10) return `${number(ms, 1)} ms`;
  if (ms < 999.5) return `${number(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${number(seconds, seconds < 2 ? 2 : 1)} s`;
  if (seconds < 59.5) return `${number(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return join(Math.floor(whole / 60), 'min', whole % 60, 's');
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return join(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.round(minutes / 60);
  return join(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function join(large, unit, small, smallUnit) {
  return small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`;
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at++;
  }
  return `${at === 0 ? number(value) : compact(value)} ${units[at]}`;
}

/** `{USD: 1.2}` as $1.20; several currencies are joined. */
export function cost(amounts) {
  const entries = Object.entries(amounts ?? {});
  return entries.length ? entries.map(([currency, amount]) => money(amount, currency)).join(' + ') : NONE;
}

export function money(amount, currency) {
  if (!isNumber(amount)) return NONE;
  const digits = amount !== 0 && Math.abs(amount) < 1 ? 4 : 2;
  try {
    const form = { style: 'currency', currency, minimumFractionDigits: 2, maximumFractionDigits: digits };
    return new Intl.NumberFormat('en', form).format(amount);
  } catch {
    return `${number(amount, 2)} ${visible(String(currency), 12)}`;
  }
}

/** RFC 3339, Unix seconds or a Date as a Date; null if it is none. */
export function time(value) {
  if (value == null) return null;
  const date = value instanceof Date ? value : new Date(typeof value === 'number' ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? null : date;
}

const two = (n) => String(n).padStart(2, '0');

/** 03:12:45 in the local zone. */
export function clockTime(value) {
  const date = time(value);
  return date ? `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}` : NONE;
}

/** The time today, or the day and the time. */
export function dayTime(value, now = new Date()) {
  const date = time(value);
  if (!date) return NONE;
  if (date.toDateString() === now.toDateString()) return clockTime(date);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clockTime(date)}`;
}

/** How long ago a moment was. */
export function ago(value, now = Date.now()) {
  const date = time(value);
  if (!date) return NONE;
  const ms = now - date.getTime();
  if (ms < 1000) return 'now';
  return `${coarse(ms)} ago`;
}

/** One unit, for a figure that changes while it is read. */
export function coarse(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return join(Math.floor(seconds / 3600), 'h', Math.floor((seconds % 3600) / 60), 'min');
  return `${Math.floor(seconds / 86400)} d`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** Text of the API with a capital letter, an arrow and a full stop. A name at its beginning stays as it is. */
export function sentence(text, name) {
  let words = String(text ?? '').trim();
  // `half_open -> open: probe_failed`
  if (/^\w+ -> [\w: ]+$/.test(words)) words = words.replaceAll('_', ' ');
  words = words.replaceAll('->', '→');
  if (!words) return '';
  const isName = (name && words.startsWith(name)) || /^\S*[^A-Za-z\s,;]\S/.test(words);
  return `${isName ? words.charAt(0) : words.charAt(0).toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? '' : '.'}`;
}

/** A code of the API as words: `may_have_been_processed` is May have been processed. */
export function words(code) {
  const text = visible(code, 80).replaceAll('_', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const invisible = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A name from outside: marks that cannot be seen, or that turn the text around, become visible. */
export function visible(text, longest = 160) {
  const name = String(text ?? '');
  const cut = name.length > longest ? `${name.slice(0, longest)}…` : name;
  return cut.replace(invisible, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
