// The CSS cursor at a place of the view.
(x, y) => {
  let at = document.elementFromPoint(x, y);
  let left = x;
  let top = y;
  for (let deeper = at; deeper; ) {
    at = deeper;
    if (at.shadowRoot) {
      deeper = at.shadowRoot.elementFromPoint(left, top);
      if (deeper === at) deeper = null;
    } else if (at.contentDocument) {
      const box = at.getBoundingClientRect();
      left -= box.left + at.clientLeft;
      top -= box.top + at.clientTop;
      deeper = at.contentDocument.elementFromPoint(left, top);
    } else {
      deeper = null;
    }
  }
  if (!at) return 'default';
  const own = at.ownerDocument;
  const { cursor } = own.defaultView.getComputedStyle(at);
  if (cursor !== 'auto') return cursor;
  // What is under the pointer decides: text shows a beam.
  const text = own.caretRangeFromPoint(left, top)?.startContainer;
  if (text?.nodeType !== Node.TEXT_NODE || text.parentElement !== at) return 'default';
  const range = own.createRange();
  range.selectNodeContents(text);
  const inside = [...range.getClientRects()].some(
    (box) => left >= box.left && left <= box.right && top >= box.top && top <= box.bottom,
  );
  return inside ? 'text' : 'default';
}
