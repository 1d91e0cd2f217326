// Preact, its hooks and htm in one place: `html` makes elements, and text in them is always text.
import htm from './vendor/htm.mjs';

export const { h, render, Fragment } = globalThis.preact;
export const { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback } = globalThis.preactHooks;
export const html = htm.bind(h);

/** A value that components subscribe to. */
export class Observable {
  constructor(value) {
    this.value = value;
    this.listeners = new Set();
  }

  set(value) {
    if (value === this.value) return;
    this.value = value;
    for (const listener of [...this.listeners]) listener();
  }

  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

/** Renders again when the observable changes. */
export function useObservable(observable) {
  const [, render] = useState(0);
  useLayoutEffect(() => observable.subscribe(() => render((n) => n + 1)), [observable]);
  return observable.value;
}

let ids = 0;

/** An id for `for` and `aria-labelledby`, unique in the page. */
export function useUniqueId(prefix) {
  const [id] = useState(() => `${prefix}-${++ids}`);
  return id;
}

/** Calls `action` when one of these values has changed and the page is rendered. */
export function useChange(action, values) {
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else action();
  }, values);
}
