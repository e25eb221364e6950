// Elements, made without HTML: whatever comes from a map becomes text and nothing else.

const SVG = 'http://www.w3.org/2000/svg';

/** An element. An attribute that is a function listens to the event of that name; one that is nothing is left away. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same within a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button that does something, by pointer or key. `kind` is its look. */
export const button = (label, click, kind = null) => el('button', { type: 'button', class: kind, click }, label);

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Sets the text of an element, if it is another one: so selections and screen readers are left in peace. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or removes an attribute, if it is to change. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Says something to those who do not see the page. */
export function announce(text) {
  byId('announcer').textContent = text;
}

/** A short word for what has been done, that goes away by itself. */
export function toast(text) {
  const shown = byId('toast');
  shown.textContent = text;
  shown.classList.add('shown');
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => shown.classList.remove('shown'), 4000);
}
