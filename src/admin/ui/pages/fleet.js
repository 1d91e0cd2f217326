// Fleet.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Fleet() {
  return html`<${Page} title="Fleet"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
