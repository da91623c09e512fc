// @vitest-environment jsdom
import { describe, expect, it } from "vitest";

import { renderMarkdown } from "../src/markdown";

function html(text: string): string {
  const box = document.createElement("div");
  box.append(renderMarkdown(text, "Copy"));
  return box.innerHTML;
}

describe("renderMarkdown", () => {
  it.each([
    ["scripts", "<script>alert(1)</script>"],
    ["event handlers", '<p onclick="alert(1)">x</p>'],
    ["pictures, which would tell a stranger what is being read", "![x](https://example.org/?leak)"],
    ["pictures in HTML", '<img src="https://example.org/?leak" onerror="alert(1)">'],
    ["styles", '<p style="background:url(https://example.org)">x</p><style>*{display:none}</style>'],
    ["frames and forms", '<iframe src="//example.org"></iframe><form action="//example.org"><input></form>'],
    ["script links", "[x](javascript:alert(1)) [y](data:text/html,x) [z](vbscript:x)"],
    ["the page's own classes", '<a class="copy" href="https://example.org">x</a>'],
  ])("lets no %s through", (_, text) => {
    const result = html(text);
    expect(result).not.toMatch(/<(script|img|style|iframe|form|input)|on\w+=|style=|javascript:|data:|vbscript:|class=/i);
  });

  it("shows Markdown as it is meant", () => {
    const result = html("# T\n\n- **a**\n- `b`\n\n| x |\n|---|\n| 1 |");
    expect(result).toContain("<h1>T</h1>");
    expect(result).toContain("<strong>a</strong>");
    expect(result).toContain("<code>b</code>");
    expect(result).toContain('<div class="table-box"><table>');
  });

  it("opens links in a new tab that learns nothing of this page", () => {
    expect(html("[x](https://example.org)")).toContain('rel="noopener noreferrer"');
  });

  it("gives code its language and a copy button, also while the fence is still open", () => {
    const result = html("```python\nprint(1 < 2)");
    expect(result).toContain("<span>python</span>");
    expect(result).toContain('<button type="button" class="copy">Copy</button>');
    expect(result).toContain("print(1 &lt; 2)");
  });
});
