/** Server-sent events, and what a stream of chat.completion.chunk events adds up to. */

/** Splits decoded text into the data of whole events (WHATWG HTML, 9.2.6). Keeps what is not yet complete. */
export class SseParser {
  #rest = "";
  #data: string[] = [];

  push(text: string): string[] {
    const events: string[] = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}

export interface Usage {
  readonly prompt: number;
  readonly completion: number;
}

export interface WireError {
  readonly message: string;
  readonly code: string;
}

/** One answer so far. Times are milliseconds of one clock; `firstAt` and `lastAt` frame the text. */
export interface Answer {
  readonly content: string;
  readonly reasoning: string;
  readonly finish: string | null;
  readonly usage: Usage | null;
  readonly error: WireError | null;
  readonly done: boolean;
  readonly firstAt: number | null;
  readonly lastAt: number | null;
}

export const emptyAnswer: Answer = {
  content: "",
  reasoning: "",
  finish: null,
  usage: null,
  error: null,
  done: false,
  firstAt: null,
  lastAt: null,
};

interface Chunk {
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null; readonly reasoning_content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  readonly error?: { readonly message?: string; readonly code?: string | number | null };
}

/** The answer after one more event. Data that is not JSON counts as a broken stream. */
export function reduce(answer: Answer, data: string, now: number): Answer {
  if (data === "[DONE]") return { ...answer, done: true };
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data) as Chunk;
  } catch {
    return { ...answer, error: { message: data.slice(0, 200), code: "invalid_event" } };
  }
  if (chunk.error) {
    return { ...answer, error: { message: chunk.error.message ?? "", code: String(chunk.error.code ?? "") } };
  }
  const choice = chunk.choices?.[0];
  const content = choice?.delta?.content ?? "";
  const reasoning = choice?.delta?.reasoning_content ?? "";
  const spoke = content !== "" || reasoning !== "";
  return {
    ...answer,
    content: answer.content + content,
    reasoning: answer.reasoning + reasoning,
    finish: choice?.finish_reason ?? answer.finish,
    usage: chunk.usage
      ? { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens }
      : answer.usage,
    firstAt: spoke ? (answer.firstAt ?? now) : answer.firstAt,
    lastAt: spoke ? now : answer.lastAt,
  };
}

/** Tokens per second while decoding: the first token belongs to the prompt's time. Null when unknown. */
export function decodeSpeed(answer: Answer): number | null {
  if (!answer.usage || answer.usage.completion < 2 || answer.firstAt === null || answer.lastAt === null) return null;
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  return seconds > 0 ? (answer.usage.completion - 1) / seconds : null;
}
