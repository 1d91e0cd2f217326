// Benchmarks and baselines.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Benchmarks() {
  return html`<${Page} title="Benchmarks and baselines"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
