/** Builds and updates the parts of the page that a conversation is made of. */

import type { Trouble } from "./errors";
import type { Translate } from "./i18n";
import { renderMarkdown } from "./markdown";
import { decodeSpeed, type Answer } from "./sse";

export function byId<T extends HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html lacks #${id}`);
  return element as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = "",
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Puts the words of the chosen language into every element that asks for them. */
export function applyWords(root: ParentNode, t: Translate): void {
  for (const element of root.querySelectorAll<HTMLElement>("[data-i18n]")) {
    element.textContent = t(element.dataset["i18n"] as Parameters<Translate>[0]);
  }
  for (const element of root.querySelectorAll<HTMLElement>("[data-i18n-label]")) {
    const label = t(element.dataset["i18nLabel"] as Parameters<Translate>[0]);
    element.setAttribute("aria-label", label);
    if (element instanceof HTMLButtonElement) element.title = label;
  }
  for (const element of root.querySelectorAll<HTMLTextAreaElement>("[data-i18n-placeholder]")) {
    element.placeholder = t(element.dataset["i18nPlaceholder"] as Parameters<Translate>[0]);
  }
}

export function userMessage(text: string, t: Translate): HTMLElement {
  const article = make("article", "message user");
  article.setAttribute("aria-label", t("you"));
  article.append(make("div", "bubble", text));
  return article;
}

/** One answer on the page. It redraws at most once per frame, however fast chunks arrive. */
export class AnswerView {
  readonly element = make("article", "message assistant");
  readonly #wait = make("p", "wait");
  readonly #thinking = make("details", "thinking");
  readonly #thoughts = make("div", "thoughts");
  readonly #body = make("div", "prose");
  readonly #stats = make("p", "stats");
  #pending: Answer | null = null;

  constructor(
    model: string,
    private readonly t: Translate,
    private readonly drawn: () => void,
  ) {
    this.element.setAttribute("aria-label", model);
    this.element.setAttribute("aria-busy", "true");
    this.#thinking.append(make("summary", "", t("thinking")), this.#thoughts);
    this.#thinking.hidden = true;
    this.element.append(make("p", "who", model), this.#wait, this.#thinking, this.#body, this.#stats);
  }

  /** What is being waited for, before the first word. */
  wait(text: string): void {
    this.#wait.textContent = text;
  }

  show(answer: Answer): void {
    if (this.#pending === null) requestAnimationFrame(() => this.#draw());
    this.#pending = answer;
  }

  #draw(): void {
    const answer = this.#pending;
    if (answer === null) return;
    this.#pending = null;
    this.#wait.hidden = answer.firstAt !== null;
    this.#thinking.hidden = answer.reasoning === "";
    this.#thoughts.textContent = answer.reasoning;
    this.#body.replaceChildren(renderMarkdown(answer.content, this.t("copy")));
    this.drawn();
  }

  /** The last words: `sentAt` is when the request left, on the clock of the answer's times. */
  finish(answer: Answer, sentAt: number, stopped: boolean): void {
    this.#settle(answer);
    const facts: string[] = [];
    const speed = decodeSpeed(answer);
    if (stopped) facts.push(this.t("stopped"));
    if (answer.finish === "length") facts.push(this.t("cutLength"));
    if (speed !== null) facts.push(this.t("speed", { speed: speed.toFixed(1) }));
    if (answer.firstAt !== null) {
      facts.push(this.t("firstToken", { seconds: ((answer.firstAt - sentAt) / 1000).toFixed(1) }));
    }
    if (answer.usage !== null) facts.push(this.t("usage", { ...answer.usage }));
    this.#stats.textContent = facts.join(" · ");
  }

  /** Keeps what was said, and says what went wrong. */
  fail(answer: Answer, trouble: Trouble, retry: (() => void) | null): void {
    this.#settle(answer);
    const box = make("div", "error");
    box.setAttribute("role", "alert");
    box.append(make("strong", "", trouble.headline));
    if (trouble.detail !== "") box.append(make("p", "", trouble.detail));
    if (retry !== null) {
      const button = make("button", "secondary", this.t("retry"));
      button.type = "button";
      button.addEventListener("click", retry);
      box.append(button);
    }
    this.element.append(box);
  }

  #settle(answer: Answer): void {
    this.#pending = answer;
    this.#draw();
    this.#wait.hidden = true;
    this.element.removeAttribute("aria-busy");
  }
}

/** Copies text, also on plain-HTTP addresses where the clipboard API is withheld. */
export async function copyText(text: string): Promise<void> {
  if (window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const box = make("textarea", "sr-only");
  box.value = text;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
}
