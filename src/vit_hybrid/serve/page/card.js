// A model's card, which is Markdown, as elements. What comes from it is put in as text, never as HTML.

export function element(name, text = "", ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|!?\[([^\]]*)\]\(([^)\s]+)[^)]*\)/g;

/** Code, bold text and links; what a picture would show is said by its text. */
function inline(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(end, found.index));
    const [whole, code, bold, words, address] = found;
    end = found.index + whole.length;
    if (code !== undefined) parts.push(element("code", code));
    else if (bold !== undefined) parts.push(element("strong", bold));
    else if (whole.startsWith("!") || !/^https?:\/\//.test(address)) parts.push(words);
    else {
      const link = element("a", words || address);
      link.href = address;
      link.rel = "noreferrer";
      parts.push(link);
    }
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
const isRule = (line) => line !== undefined && /^\s*\|?[\s:|-]+$/.test(line) && line.includes("-");

function table(lines) {
  const row = (line, name) => element("tr", "", ...cells(line).map((cell) => element(name, "", ...inline(cell))));
  const [head, , ...rest] = lines;
  const isSaid = cells(head).some((cell) => cell);
  const made = element("table", "", ...(isSaid ? [row(head, "th")] : []), ...rest.map((line) => row(line, "td")));
  const around = element("div", "", made);
  around.className = "table";
  around.tabIndex = 0; // it may scroll
  return around;
}

/** The blocks of a text: [heading level, text] or an element. */
function* blocks(text) {
  const lines = text.split(/\r?\n/);
  const taken = (isPart) => {
    const part = [];
    while (lines.length && isPart(lines[0])) part.push(lines.shift());
    return part;
  };
  while (lines.length) {
    const line = lines[0];
    const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    const listed = /^\s*([-*+]|\d+[.)])\s+/.exec(line);
    if (!line.trim() || /^\s*([-*_]\s*){3,}$/.test(line)) lines.shift(); // nothing, or a rule
    else if (heading) {
      lines.shift();
      yield [heading[1].length, heading[2]];
    } else if (/^\s*(```|~~~)/.test(line)) {
      lines.shift();
      const code = element("pre", taken((one) => !/^\s*(```|~~~)/.test(one)).join("\n"));
      code.tabIndex = 0;
      lines.shift();
      yield code;
    } else if (line.includes("|") && isRule(lines[1])) {
      yield table(taken((one) => one.includes("|")));
    } else if (listed) {
      const items = [];
      for (const one of taken((one) => one.trim() && !/^#{1,6}\s/.test(one))) {
        const start = /^\s*([-*+]|\d+[.)])\s+(.*)$/.exec(one);
        if (start) items.push(start[2]);
        else items[items.length - 1] += ` ${one.trim()}`;
      }
      const list = /\d/.test(listed[1]) ? "ol" : "ul";
      yield element(list, "", ...items.map((item) => element("li", "", ...inline(item))));
    } else {
      const first = lines.shift();
      const rest = taken((one) => one.trim() && !/^(#{1,6}\s|\s*```|\s*~~~)/.test(one) && !isRule(lines[1]));
      yield element("p", "", ...inline([first, ...rest].join(" ").replace(/^\s*>\s?/, "")));
    }
  }
}

// Sections that say what a model is good for, and what not: these are open.
const TELLING = /know|accura|good|limit|weak|bias|risk|evaluat|result|caution|scope|intended/i;

/** The elements of a card: its beginning, then each section, to be opened where it does not say what people need. */
export function cardElements(text) {
  const body = text.replace(/^---\r?\n[\s\S]*?\r?\n---\r?\n/, "").replace(/<!--[\s\S]*?-->/g, "");
  const parts = [];
  let into = null;
  for (const block of blocks(body)) {
    if (!Array.isArray(block)) (into ?? { append: (one) => parts.push(one) }).append(block);
    else if (block[0] === 1) continue; // the model's name, which stands above
    else if (block[0] === 2 || into === null) {
      into = element("details", "", element("summary", "", element("h3", "", ...inline(block[1]))));
      into.open = TELLING.test(block[1]);
      parts.push(into);
    } else into.append(element("h4", "", ...inline(block[1])));
  }
  return parts;
}
