// The text that is selected where the focus is, up to a length in UTF-16 units.
(longest) => {
  let place = document;
  let focused = place.activeElement;
  for (let deeper = focused; deeper; ) {
    focused = deeper;
    if (focused.shadowRoot?.activeElement) {
      deeper = focused.shadowRoot.activeElement;
    } else if (focused.contentDocument) {
      place = focused.contentDocument;
      deeper = place.activeElement;
    } else {
      deeper = null;
    }
  }
  const isField = focused?.tagName === 'INPUT' || focused?.tagName === 'TEXTAREA';
  if (isField && typeof focused.selectionStart === 'number') {
    // As in any browser, a password is not copied.
    if (focused.type === 'password') return '';
    return focused.value.slice(focused.selectionStart, focused.selectionEnd).slice(0, longest);
  }
  return String(place.getSelection() ?? '').slice(0, longest);
}
