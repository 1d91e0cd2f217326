// Events.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Events() {
  return html`<${Page} title="Events"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
