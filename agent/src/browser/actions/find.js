// Finds elements: what the selectors of an action mean in a page.
//
// With `reach.js` it is one function that runs once in each document, in an
// isolated world: the page sees none of it and cannot replace what it uses.

class Invalid extends Error {}

const collapse = (text) => text.replace(/\s+/g, ' ').trim();
const window_of = (element) => element.ownerDocument.defaultView;
const style_of = (element) => window_of(element)?.getComputedStyle(element);
const parent_of = (node) => node.assignedSlot ?? node.parentElement ?? node.getRootNode().host ?? null;

// ---- Where elements are: the document, open shadow roots, reachable frames.

function inner_document(element) {
  try { return element.contentDocument ?? null; } catch { return null; }
}

function* roots(root) {
  yield root;
  for (const element of root.querySelectorAll('*')) {
    if (element.shadowRoot) yield* roots(element.shadowRoot);
    else if (element.localName === 'iframe' || element.localName === 'frame') {
      const inside = inner_document(element);
      if (inside) yield* roots(inside);
    }
  }
}

// ---- What a selector finds.

const finders = {
  css({ css }) {
    try { document.createDocumentFragment().querySelector(css); } catch (error) { throw new Invalid(error.message); }
    for (const root of roots(document)) {
      const found = root.querySelector(css);
      if (found) return found;
    }
    return null;
  },

  xpath({ xpath }) {
    try { document.createExpression(xpath); } catch { throw new Invalid('the XPath cannot be read'); }
    for (const root of roots(document)) {
      if (root.nodeType !== Node.DOCUMENT_NODE) continue;
      let found;
      try {
        found = root.evaluate(xpath, root, null, XPathResult.FIRST_ORDERED_NODE_TYPE, null).singleNodeValue;
      } catch { throw new Invalid('the XPath does not name elements'); }
      if (found) return found.nodeType === Node.ELEMENT_NODE ? found : found.parentElement ?? found.ownerElement ?? null;
    }
    return null;
  },

  text({ text, exact }) {
    const fold = (it) => exact ? collapse(it) : collapse(it).toLowerCase();
    const wanted = fold(text);
    const known = new Map();
    const skipped = new Set(['script', 'style', 'noscript', 'template', 'head']);
    const children = (node) => {
      if (node.shadowRoot) return node.shadowRoot.childNodes;
      const inside = node.contentWindow && inner_document(node);
      return inside ? [inside.documentElement] : node.childNodes;
    };
    const text_of = (element) => {
      let sum = known.get(element);
      if (sum !== undefined) return sum;
      sum = '';
      if (element.localName === 'input' && ['button', 'submit', 'reset'].includes(element.type)) sum = element.value;
      else if (!skipped.has(element.localName)) {
        for (const child of children(element)) {
          if (child?.nodeType === Node.TEXT_NODE) sum += child.data;
          else if (child?.nodeType === Node.ELEMENT_NODE) sum += text_of(child);
        }
      }
      known.set(element, sum);
      return sum;
    };
    let hidden = null;
    // The innermost element that has the text; one that is seen, if any is.
    const search = (element) => {
      const own = fold(text_of(element));
      if (!own.includes(wanted)) return { inside: false, found: null };
      let inside = false;
      for (const child of children(element)) {
        if (child?.nodeType !== Node.ELEMENT_NODE) continue;
        const below = search(child);
        if (below.found) return below;
        inside ||= below.inside;
      }
      if (inside || (exact && own !== wanted)) return { inside, found: null };
      if (!hides(element)) return { inside: true, found: element };
      hidden ??= element;
      return { inside: true, found: null };
    };
    if (!document.documentElement) return null;
    return search(document.documentElement).found ?? hidden;
  },

  role({ role, name, states }) {
    const candidates = `[role]${implicit[role] ? ',' + implicit[role] : ''}`;
    for (const root of roots(document)) {
      for (const element of root.querySelectorAll(candidates)) {
        const explicit = element.getAttribute('role')?.trim().split(/\s+/)[0].toLowerCase();
        if (explicit ? explicit !== role : !(implicit[role] && element.matches(implicit[role]))) continue;
        if (!states.every(({ key, value }) => state_of(element, key) === value)) continue;
        if (hides(element)) continue;
        if (name) {
          const own = collapse(name_of(element, role));
          const wanted = collapse(name.text);
          if (name.exact ? own !== wanted : !own.toLowerCase().includes(wanted.toLowerCase())) continue;
        }
        return element;
      }
    }
    return null;
  },
};

// ---- Roles and names, as HTML-AAM gives them, in the cases that pages use.

const sections = ':is(article,aside,main,nav,section)';
const implicit = {
  article: 'article', banner: `header:not(${sections} header)`, blockquote: 'blockquote',
  button: 'button,summary,input:is([type=button],[type=submit],[type=reset],[type=image])',
  caption: 'caption', cell: 'td', checkbox: 'input[type=checkbox]', code: 'code', columnheader: 'th:not([scope=row])',
  combobox: 'select:not([multiple]):not([size]),input[list]', complementary: 'aside',
  contentinfo: `footer:not(${sections} footer)`, dialog: 'dialog', figure: 'figure', form: 'form',
  group: 'fieldset,details,optgroup', heading: 'h1,h2,h3,h4,h5,h6', img: 'img,svg', link: 'a[href],area[href]',
  list: 'ul,ol,menu', listbox: 'select[multiple],select[size]', listitem: 'li', main: 'main', meter: 'meter',
  navigation: 'nav', option: 'option', paragraph: 'p', progressbar: 'progress', radio: 'input[type=radio]',
  region: 'section:is([aria-label],[aria-labelledby],[title])', row: 'tr', rowgroup: 'tbody,thead,tfoot',
  rowheader: 'th[scope=row]', search: 'search', searchbox: 'input[type=search]:not([list])', separator: 'hr',
  slider: 'input[type=range]', spinbutton: 'input[type=number]', status: 'output', table: 'table', term: 'dfn',
  textbox: 'textarea,input:is(:not([type]),[type=""],[type=text],[type=email],[type=tel],[type=url]):not([list])',
};
const named_by_content = new Set(['button', 'cell', 'checkbox', 'columnheader', 'gridcell', 'heading', 'link', 'menuitem',
  'menuitemcheckbox', 'menuitemradio', 'option', 'radio', 'row', 'rowheader', 'switch', 'tab', 'tooltip', 'treeitem']);

function name_of(element, role) {
  const root = element.getRootNode();
  const by = element.getAttribute('aria-labelledby');
  if (by) {
    const texts = by.trim().split(/\s+/).map((id) => root.getElementById?.(id)).filter(Boolean).map(content_of);
    if (texts.join('').trim()) return texts.join(' ');
  }
  const label = element.getAttribute('aria-label');
  if (label?.trim()) return label;
  const tag = element.localName;
  if (tag === 'input' && ['button', 'submit', 'reset'].includes(element.type)) {
    return element.value || { submit: 'Submit', reset: 'Reset' }[element.type] || element.title;
  }
  if (element.labels?.length) return [...element.labels].map(content_of).join(' ');
  const alt = ['img', 'area', 'input'].includes(tag) && element.getAttribute('alt');
  if (alt) return alt;
  const titled = { fieldset: 'legend', table: 'caption', figure: 'figcaption', svg: 'title' }[tag];
  const title = titled && [...element.children].find((child) => child.localName === titled);
  if (title) return content_of(title);
  if (named_by_content.has(role)) {
    const content = content_of(element);
    if (content.trim()) return content;
  }
  return element.getAttribute('title') || element.getAttribute('placeholder') || '';
}

function content_of(element) {
  let sum = '';
  for (const node of (element.shadowRoot ?? element).childNodes) {
    if (node.nodeType === Node.TEXT_NODE) sum += node.data;
    if (node.nodeType !== Node.ELEMENT_NODE || node.getAttribute('aria-hidden') === 'true') continue;
    if (node.localName === 'script' || node.localName === 'style' || style_of(node)?.display === 'none') continue;
    const own = node.getAttribute('aria-label') || (node.localName === 'img' && node.alt) || content_of(node);
    sum += style_of(node)?.display.startsWith('inline') ? own : ` ${own} `;
  }
  return sum;
}

function state_of(element, key) {
  const aria = element.getAttribute(`aria-${key}`);
  if (key === 'level') return Number(aria ?? element.localName.match(/^h([1-6])$/)?.[1] ?? 0);
  if (key === 'disabled') return disables(element);
  if (key === 'checked' && 'checked' in element) return element.checked;
  if (key === 'selected' && 'selected' in element) return element.selected;
  if (key === 'expanded' && element.localName === 'summary') return element.parentElement?.open === true;
  return aria === 'true';
}

// ---- Whether a user would see it, and could use it.

function hides(element) {
  const style = style_of(element);
  if (!style || style.visibility !== 'visible') return true;
  if (style.display === 'contents') return ![...element.children].some((child) => !hides(child));
  const box = element.getBoundingClientRect();
  return box.width <= 0 || box.height <= 0;
}

function disables(element) {
  if (element.matches(':disabled')) return true;
  for (let node = element; node; node = parent_of(node)) {
    const stated = node.getAttribute('aria-disabled');
    if (stated) return stated === 'true';
  }
  return false;
}
