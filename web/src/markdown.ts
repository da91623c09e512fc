/** A model's Markdown as HTML that can do no harm: no scripts, no images (nothing is fetched), no styles. */

import DOMPurify from "dompurify";
import { Marked } from "marked";

const marked = new Marked({ gfm: true, breaks: true, async: false });

const TAGS = [
  ...["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p"],
  ...["pre", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"],
];

/** A fragment to put into the page. Links open in a new tab and tell their target nothing. */
export function renderMarkdown(text: string, copyLabel: string): DocumentFragment {
  const html = marked.parse(text) as string;
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const element of fragment.querySelectorAll("[class]")) {
    if (element.tagName !== "CODE") element.removeAttribute("class");
  }
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) wrap(table, "table-box");
  for (const code of fragment.querySelectorAll("code")) dressCode(code, copyLabel);
  return fragment;
}

function wrap(element: Element, className: string): HTMLElement {
  const box = document.createElement("div");
  box.className = className;
  element.replaceWith(box);
  box.append(element);
  return box;
}

function dressCode(code: Element, copyLabel: string): void {
  const language = /^language-([\w+#.-]{1,30})$/.exec(code.className)?.[1] ?? "";
  code.removeAttribute("class");
  const block = code.parentElement;
  if (block?.tagName !== "PRE") return;
  const head = document.createElement("div");
  head.className = "code-head";
  const name = document.createElement("span");
  name.textContent = language;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = copyLabel;
  head.append(name, button);
  wrap(block, "code-box").prepend(head);
}
