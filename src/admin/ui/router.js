// The address after `#`: `#/requests?filter=failed`.
import { Observable, useObservable } from './dom.js';

function read() {
  const text = location.hash.replace(/^#\/?/, '');
  const at = text.indexOf('?');
  return {
    page: (at < 0 ? text : text.slice(0, at)) || 'overview',
    query: new URLSearchParams(at < 0 ? '' : text.slice(at + 1)),
  };
}

const route = new Observable(read());
addEventListener('hashchange', () => route.set(read()));

export const useRoute = () => useObservable(route);

/** The address of a page. Absent and empty values are left out. */
export function link(page, query = {}) {
  const entries = Object.entries(query).filter(([, value]) => value != null && value !== '');
  const text = new URLSearchParams(entries).toString();
  return `#/${page}${text ? `?${text}` : ''}`;
}

export function go(page, query) {
  location.hash = link(page, query);
}

/** Changes the query of this page without a new entry in the history. */
export function replaceQuery(changes) {
  const { page, query } = route.value;
  const next = { ...Object.fromEntries(query), ...changes };
  history.replaceState(null, '', link(page, next));
  route.set(read());
}
