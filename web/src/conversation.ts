/** One conversation: sends what was said so far, shows the answer as it grows. */

import { ApiError, listChatModels, streamChat, type ChatMessage, type ModelState } from "./api";
import { describeError } from "./errors";
import type { Translate } from "./i18n";
import { emptyAnswer, type Answer } from "./sse";
import { AnswerView, userMessage } from "./view";

/** What a turn needs to know; read when the turn starts. */
export interface Turn {
  readonly model: string;
  readonly system: string;
  readonly temperature: number;
  readonly key: string;
  readonly t: Translate;
}

export interface ConversationEvents {
  /** An answer has begun or ended. */
  busy(busy: boolean): void;
  /** A message was added, or grew. */
  grew(): void;
  /** Words for those who listen rather than look. */
  announce(text: string): void;
  /** The server wants a key, or another one. */
  keyNeeded(): void;
  /** The model's state was seen while waiting. */
  modelState(model: string, state: ModelState): void;
}

export class Conversation {
  #messages: ChatMessage[] = [];
  #abort: AbortController | null = null;
  #failed: { readonly view: AnswerView; readonly answer: Answer } | null = null;

  constructor(
    private readonly log: HTMLElement,
    private readonly events: ConversationEvents,
    private readonly turn: () => Turn,
  ) {}

  get busy(): boolean {
    return this.#abort !== null;
  }

  get empty(): boolean {
    return this.#messages.length === 0;
  }

  async say(text: string): Promise<void> {
    // Some chat templates refuse two messages of one role in a row.
    if (this.#failed) this.#keep(this.#failed.answer);
    this.#messages.push({ role: "user", content: text });
    this.log.append(userMessage(text, this.turn().t));
    await this.#answer();
  }

  /** Asks again for the answer that failed. */
  async retry(): Promise<void> {
    if (this.busy || this.#failed === null) return;
    this.#failed.view.element.remove();
    await this.#answer();
  }

  stop(): void {
    this.#abort?.abort();
  }

  clear(): void {
    this.stop();
    this.#abort = null;
    this.#failed = null;
    this.#messages = [];
    this.log.replaceChildren();
    this.events.busy(false);
  }

  async #answer(): Promise<void> {
    const turn = this.turn();
    const abort = new AbortController();
    const view = new AnswerView(turn.model, turn.t, () => this.events.grew());
    this.#abort = abort;
    this.#failed = null;
    this.log.append(view.element);
    this.events.busy(true);
    this.events.announce(turn.t("answering", { model: turn.model }));
    this.events.grew();
    try {
      await this.#stream(turn, abort, view);
    } finally {
      // A cleared conversation has let go of this answer already.
      if (this.#abort === abort) {
        this.#abort = null;
        this.events.busy(false);
      }
    }
  }

  async #stream(turn: Turn, abort: AbortController, view: AnswerView): Promise<void> {
    const sentAt = performance.now();
    const waiting = new AbortController();
    let answer: Answer = emptyAnswer;
    void this.#showWait(turn, view, waiting.signal);
    try {
      for await (answer of streamChat(this.#request(turn), turn.key, abort.signal)) {
        if (answer.firstAt !== null && !waiting.signal.aborted) {
          waiting.abort();
          this.events.modelState(turn.model, "loaded");
        }
        view.show(answer);
      }
      this.#keep(answer);
      view.finish(answer, sentAt, false);
      this.events.announce(turn.t("answered"));
    } catch (error) {
      if (abort.signal.aborted) {
        this.#keep(answer);
        view.finish(answer, sentAt, true);
        this.events.announce(turn.t("stopped"));
      } else if (this.#abort === abort) {
        this.#fail(error, turn, answer, view);
      }
    } finally {
      waiting.abort();
    }
    this.events.grew();
  }

  #request(turn: Turn): { model: string; messages: ChatMessage[]; temperature: number } {
    const system: ChatMessage[] = turn.system.trim() === "" ? [] : [{ role: "system", content: turn.system }];
    return { model: turn.model, messages: [...system, ...this.#messages], temperature: turn.temperature };
  }

  /** An answer that was said, whole or stopped half-way, is part of the conversation. */
  #keep(answer: Answer): void {
    if (!this.empty) this.#messages.push({ role: "assistant", content: answer.content });
  }

  #fail(error: unknown, turn: Turn, answer: Answer, view: AnswerView): void {
    this.#failed = { view, answer };
    this.events.announce("");
    view.fail(answer, describeError(error, turn.t), () => void this.retry());
    if (error instanceof ApiError && error.status === 401) this.events.keyNeeded();
  }

  /** Says each second whether the model is still starting, until the first word or the end. */
  async #showWait(turn: Turn, view: AnswerView, signal: AbortSignal): Promise<void> {
    const began = performance.now();
    let state: ModelState = "loaded";
    while (!signal.aborted) {
      const seconds = Math.round((performance.now() - began) / 1000);
      view.wait(turn.t(state === "loaded" ? "waiting" : "starting", { model: turn.model, seconds }));
      await new Promise((resolve) => setTimeout(resolve, 1000));
      try {
        const models = await listChatModels(turn.key, signal);
        state = models.find((model) => model.id === turn.model)?.state ?? state;
        this.events.modelState(turn.model, state);
      } catch {
        // The chat request itself tells what is wrong.
      }
    }
  }
}
