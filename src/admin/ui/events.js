// Events that several pages show: as marks in charts, and by their kind in words.
import { Observable } from './dom.js';

/** The newest event that arrived by the stream. */
export const newest = new Observable(null);

export function noteEvent(event) {
  if (event && typeof event === 'object') newest.set(event);
}

/** `breaker`, `policy`, ... in words. */
export const KINDS = {
  breaker: 'Breaker', policy: 'Policy', degradation: 'Degradation', fleet: 'Fleet', override: 'Manual change',
  regression: 'Regression', benchmark: 'Benchmark', benchmark_regression: 'Benchmark regression',
  job_dead: 'Dead job', job_expired: 'Expired job',
};

/** The new state of an event: its `state`, or the word after the arrow of its detail. */
export function stateOf(event) {
  if (event.state) return event.state;
  return /-> (\w+)/.exec(event.detail ?? '')?.[1] ?? null;
}

/** The reason of a breaker's change. */
export function causeOf(event) {
  return event.cause ?? /^\S+ -> \w+: (.+)$/.exec(event.detail ?? '')?.[1] ?? null;
}

/**
 * Marks for a chart: reloads of the policy, breakers that opened, degradation modes that were entered. With
 * `provider`, only trips of that provider.
 */
export function marks(events, provider) {
  return events.flatMap((event) => {
    const at = Date.parse(event.at) / 1000;
    if (event.kind === 'policy') return [{ at, kind: 'reload', tone: 'info', label: 'policy reload' }];
    if (event.kind === 'breaker' && stateOf(event) === 'open') {
      const mine = !provider || event.key === provider || event.key.startsWith(`${provider}/`);
      return mine ? [{ at, kind: 'trip', tone: 'bad', label: 'breaker opened' }] : [];
    }
    if (event.kind === 'degradation' && /entered|in force/.test(`${event.state ?? ''} ${event.detail ?? ''}`)) {
      return [{ at, kind: 'mode', tone: 'warn', label: `degradation ${event.key}` }];
    }
    return [];
  });
}
