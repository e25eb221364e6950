// JSON with indents. Only spaces change: numbers keep all their digits, and names that stand twice stay.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g;
const OPENING = { '{': '}', '[': ']' };

/** Whether the text is JSON that has a structure; a bare number or word looks like any other text. */
export function isJson(text) {
  if (!/^\s*[{[]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The parts of a JSON text with indents: `{ text, kind }` of `name`, `string`, `word` and `mark`. It must be JSON. */
export function indented(text) {
  const tokens = text.match(TOKEN) ?? [];
  const parts = [];
  let depth = 0;
  const line = () => parts.push({ kind: 'mark', text: `\n${'  '.repeat(depth)}` });
  tokens.forEach((token, at) => {
    const following = tokens[at + 1];
    if (token in OPENING) {
      parts.push({ kind: 'mark', text: token });
      if (following === OPENING[token]) return;
      depth += 1;
      line();
    } else if (token === '}' || token === ']') {
      if (!(tokens[at - 1] in OPENING)) {
        depth -= 1;
        line();
      }
      parts.push({ kind: 'mark', text: token });
    } else if (token === ',') {
      parts.push({ kind: 'mark', text: token });
      line();
    } else if (token === ':') {
      parts.push({ kind: 'mark', text: ': ' });
    } else {
      const string = following === ':' ? 'name' : 'string';
      parts.push({ kind: token.startsWith('"') ? string : 'word', text: token });
    }
  });
  return parts;
}

/** The same in one piece. */
export const indentedText = (text) => indented(text).map((part) => part.text).join('');
