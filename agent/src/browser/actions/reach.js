// Brings an element to where input can reach it, and answers requests.
//
// The one door is `browserfleet(request)`: it answers what was asked for, or
// `{fault, reason}`. It waits in here, so that nobody has to ask twice; a newer
// request ends an older wait.

let turn = 0;

const holds = (outer, inner) => {
  for (let node = inner; node; node = parent_of(node)) if (node === outer) return true;
  return false;
};
const next_frame = () => new Promise((done) => {
  // A tab in the background has no frames.
  const timer = setTimeout(done, 100);
  requestAnimationFrame(() => { clearTimeout(timer); done(); });
});
const change_or = (wait_ms) => new Promise((done) => {
  const observer = new MutationObserver(() => finish(true));
  const timer = setTimeout(() => finish(false), wait_ms);
  const finish = (changed) => {
    observer.disconnect();
    clearTimeout(timer);
    // Once a frame is enough on a page that changes all the time.
    if (changed) next_frame().then(done); else done();
  };
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
});

// ---- Whether the pointer would meet an element.

const describe = (element) => {
  if (!element) return 'nothing';
  const id = element.id ? ` id="${element.id.slice(0, 60)}"` : '';
  const names = !id && element.getAttribute('class');
  return `<${element.localName}${id}${names ? ` class="${names.slice(0, 60)}"` : ''}>`;
};

// From a point inside a frame to the same point of the document that holds it.
function outer_point({ x, y }, frame) {
  const box = frame.getBoundingClientRect();
  const style = style_of(frame);
  const scale_x = frame.offsetWidth ? box.width / frame.offsetWidth : 1;
  const scale_y = frame.offsetHeight ? box.height / frame.offsetHeight : 1;
  return {
    x: box.x + (frame.clientLeft + parseFloat(style.paddingLeft) + x) * scale_x,
    y: box.y + (frame.clientTop + parseFloat(style.paddingTop) + y) * scale_y,
  };
}

function top_point(point, view) {
  while (view !== window) {
    const frame = view.frameElement;
    if (!frame) return null;
    point = outer_point(point, frame);
    view = window_of(frame);
  }
  return point;
}

// What the pointer meets at a point of the element's own frame, through shadow
// roots; a frame that is itself covered is told by its cover.
function hit_at(point, target) {
  const view = window_of(target);
  if (view !== window) {
    const frame = view.frameElement;
    const outside = frame && outer_point(point, frame);
    const cover = outside && hit_at(outside, frame);
    if (cover !== frame) return cover;
  }
  let hit = view.document.elementFromPoint(point.x, point.y);
  while (hit?.shadowRoot) {
    const deeper = hit.shadowRoot.elementFromPoint(point.x, point.y);
    if (!deeper || deeper === hit) break;
    hit = deeper;
  }
  return hit;
}

// The middle of what is seen of the element, or null if none of it is.
function middle_of(element) {
  const view = window_of(element);
  for (const box of element.getClientRects()) {
    const left = Math.max(box.left, 0), right = Math.min(box.right, view.innerWidth);
    const top = Math.max(box.top, 0), bottom = Math.min(box.bottom, view.innerHeight);
    if (right - left > 0.9 && bottom - top > 0.9) return { x: (left + right) / 2, y: (top + bottom) / 2 };
  }
  return null;
}

const receives = (hit, element) => hit && (holds(element, hit) || hit.closest('label')?.control === element);

function reachable_at(element) {
  const point = middle_of(element);
  return point && receives(hit_at(point, element), element) ? point : null;
}

const same_box = (a, b) => a.x === b.x && a.y === b.y && a.width === b.width && a.height === b.height;
const alignments = ['center', 'end', 'start', 'nearest'];

// Why the element cannot be used for the purpose yet, or null.
async function hindrance(element, purpose, attempt) {
  if (purpose === 'scroll') return null;
  if (hides(element)) return 'it is hidden';
  if (purpose !== 'look' && disables(element)) return 'it is disabled';
  if (purpose === 'type' && (element.readOnly === true || element.getAttribute('aria-readonly') === 'true')) return 'it is read-only';
  const seen = purpose === 'click' ? reachable_at(element) : middle_of(element);
  if (!seen || window_of(element) !== window) {
    element.scrollIntoView({ block: alignments[attempt % 4], inline: alignments[attempt % 4], behavior: 'instant' });
  }
  if (purpose === 'type') return null;
  const before = element.getBoundingClientRect();
  await next_frame();
  if (!element.isConnected) return 'it was removed';
  if (!same_box(before, element.getBoundingClientRect())) return 'it is moving';
  if (purpose !== 'click') return null;
  const point = middle_of(element);
  if (!point) return 'it is outside of the viewport';
  const hit = hit_at(point, element);
  return receives(hit, element) ? null : `it is covered by ${describe(hit)}`;
}

// ---- Typing.

function focused() {
  let element = document.activeElement;
  for (;;) {
    const inside = element?.shadowRoot?.activeElement ?? (element?.contentWindow && inner_document(element)?.activeElement);
    if (!inside) return element;
    element = inside;
  }
}

const is_field = (element) => 'selectionStart' in element && typeof element.select === 'function';

function focus(element) {
  if (focused() === element) return true;
  element.focus({ preventScroll: true });
  const now = focused();
  if (!now || now === now.ownerDocument.body && !now.isContentEditable || !holds(now, element) && !holds(element, now)) return false;
  // A user's caret would be behind what is there.
  if (is_field(element)) {
    try { element.setSelectionRange(element.value.length, element.value.length); } catch { /* a type without a caret */ }
  } else if (element.isContentEditable) {
    window_of(element).getSelection().selectAllChildren(element);
    window_of(element).getSelection().collapseToEnd();
  }
  return true;
}

function select_all(element) {
  if (is_field(element)) {
    element.select();
    return element.value !== '';
  }
  if (!element.isContentEditable) return false;
  window_of(element).getSelection().selectAllChildren(element);
  return element.textContent !== '' || element.childElementCount > 0;
}

// ---- Requests.

const scroller = () => document.scrollingElement ?? document.documentElement;
const position = () => ({ x: window.scrollX, y: window.scrollY });

function answer(element, request) {
  switch (request.purpose) {
    case 'click': {
      const point = top_point(middle_of(element), window_of(element));
      return point ?? { fault: 'unready', reason: 'its frame cannot be reached' };
    }
    case 'type':
      if (!focus(element)) return { fault: 'unready', reason: `${describe(element)} takes no text` };
      return { selected: request.clear && select_all(element) };
    case 'look': {
      const box = element.getBoundingClientRect();
      const corner = top_point(box, window_of(element));
      const { x, y } = position();
      return corner ? { x: corner.x + x, y: corner.y + y, width: box.width, height: box.height }
        : { fault: 'unready', reason: 'its frame cannot be reached' };
    }
    default:
      element.scrollIntoView({ block: 'center', inline: 'nearest', behavior: 'instant' });
      return position();
  }
}

async function reach(request) {
  const mine = ++turn;
  const end = performance.now() + request.limit_ms;
  let reason = null;
  for (let attempt = 0; ; attempt++) {
    let element = finders[request.selector.kind](request.selector);
    if (element && request.purpose === 'type' && element.localName === 'label') element = element.control ?? element;
    if (element) {
      reason = await hindrance(element, request.purpose, attempt);
      if (mine !== turn) return { fault: 'superseded' };
      if (reason === null) return answer(element, request);
    }
    const left = end - performance.now();
    if (left <= 0) return reason === null ? { fault: 'missing' } : { fault: 'unready', reason };
    await change_or(Math.min(left, 20 * (attempt + 1), 100));
    if (mine !== turn) return { fault: 'superseded' };
  }
}

const requests = {
  reach,
  focused({ clear }) {
    const element = focused();
    const rests = !element || element === element.ownerDocument.documentElement
      || element === element.ownerDocument.body && !element.isContentEditable;
    if (rests) return { fault: 'unready', reason: 'nothing has the focus' };
    if (element.readOnly === true) return { fault: 'unready', reason: `${describe(element)} is read-only` };
    return { selected: clear && select_all(element) };
  },
  scroll({ position: to, delta, edge }) {
    if (to) window.scrollTo({ left: to.x, top: to.y, behavior: 'instant' });
    if (delta) window.scrollBy({ left: delta.x, top: delta.y, behavior: 'instant' });
    if (edge) window.scrollTo({ left: window.scrollX, top: edge === 'top' ? 0 : scroller().scrollHeight, behavior: 'instant' });
    return position();
  },
  page() {
    const root = scroller();
    return {
      url: location.href,
      title: document.title,
      status: performance.getEntriesByType('navigation')[0]?.responseStatus ?? 0,
      loading: document.readyState !== 'complete',
      viewport: { width: innerWidth, height: innerHeight, scale: devicePixelRatio },
      scroll: position(),
      document: { width: root?.scrollWidth ?? 0, height: root?.scrollHeight ?? 0 },
    };
  },
};

globalThis.browserfleet = async (request) => {
  try {
    return await requests[request.request](request);
  } catch (error) {
    if (error instanceof Invalid) return { fault: 'invalid', reason: error.message };
    throw error;
  }
};
