// Queue and jobs.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Queue() {
  return html`<${Page} title="Queue and jobs"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
