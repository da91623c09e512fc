/** The two calls this page makes: which models there are, and one streamed chat completion. */

import { emptyAnswer, reduce, SseParser, type Answer } from "./sse";

export type ModelState = "loaded" | "cold" | "loading";

export interface ModelEntry {
  readonly id: string;
  readonly state: ModelState;
}

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** `status` is 0 when no answer came at all; `retryAfter` is in seconds. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

function headers(key: string): Record<string, string> {
  return key === "" ? {} : { authorization: `Bearer ${key}` };
}

async function request(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "connection", error instanceof Error ? error.message : "");
  }
  if (!response.ok) throw await asError(response);
  return response;
}

async function asError(response: Response): Promise<ApiError> {
  const text = await response.text();
  const retryAfter = Number.parseFloat(response.headers.get("retry-after") ?? "");
  let message = text.slice(0, 300);
  let code = "";
  try {
    const body = JSON.parse(text) as { error?: { message?: string; code?: string | null } };
    message = body.error?.message ?? message;
    code = body.error?.code ?? "";
  } catch {
    // Not our server's shape (a proxy's page, say): its text is all there is to show.
  }
  return new ApiError(response.status, code, message, Number.isFinite(retryAfter) ? retryAfter : null);
}

/** The models that can chat, in the server's order. */
export async function listChatModels(key: string, signal?: AbortSignal): Promise<ModelEntry[]> {
  const response = await request("v1/models", { headers: headers(key), ...(signal ? { signal } : {}) });
  const body = (await response.json()) as {
    data: { id: string; capabilities?: string[]; state?: ModelState }[];
  };
  return body.data
    .filter((model) => model.capabilities?.includes("chat"))
    .map((model) => ({ id: model.id, state: model.state ?? "cold" }));
}

export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  readonly temperature: number;
}

/** Yields the answer as it grows. Throws ApiError; an aborted signal throws the fetch's AbortError. */
export async function* streamChat(chat: ChatRequest, key: string, signal: AbortSignal): AsyncGenerator<Answer> {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers(key) },
    body: JSON.stringify({ ...chat, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (response.body === null) throw new ApiError(0, "connection", "");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new SseParser();
  let answer = emptyAnswer;
  while (!answer.done) {
    const { value, done } = await read(reader, signal);
    if (done && answer.finish === null) throw new ApiError(0, "cut", "");
    if (done) return;
    for (const data of parser.push(value)) answer = reduce(answer, data, performance.now());
    yield answer;
    if (answer.error) throw new ApiError(response.status, answer.error.code, answer.error.message);
  }
}

async function read(
  reader: ReadableStreamDefaultReader<string>,
  signal: AbortSignal,
): Promise<ReadableStreamReadResult<string>> {
  try {
    return await reader.read();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError(0, "cut", "");
  }
}
