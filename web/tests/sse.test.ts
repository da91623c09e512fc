import { describe, expect, it } from "vitest";

import { decodeSpeed, emptyAnswer, reduce, SseParser, type Answer } from "../src/sse";

const chunk = (delta: object, rest: object = {}): string => JSON.stringify({ choices: [{ delta, ...rest }] });

const fold = (events: readonly string[]): Answer =>
  events.reduce((answer, data, index) => reduce(answer, data, index * 1000), emptyAnswer);

describe("SseParser", () => {
  const stream = 'data: {"a":1}\n\n: a comment\r\n\r\ndata: two\r\ndata: lines\r\n\r\nevent: x\ndata:[DONE]\n\n';
  const events = ['{"a":1}', "two\nlines", "[DONE]"];

  it("finds the same events however the network cuts the stream", () => {
    expect(new SseParser().push(stream)).toEqual(events);
    for (let size = 1; size < stream.length; size++) {
      const parser = new SseParser();
      const found: string[] = [];
      for (let at = 0; at < stream.length; at += size) found.push(...parser.push(stream.slice(at, at + size)));
      expect(found, `cut every ${size} characters`).toEqual(events);
    }
  });

  it("holds back an event that is not complete", () => {
    const parser = new SseParser();
    expect(parser.push("data: half")).toEqual([]);
    expect(parser.push(" more\n")).toEqual([]);
    expect(parser.push("\n")).toEqual(["half more"]);
  });
});

describe("reduce", () => {
  it("adds up text and reasoning and keeps why it ended", () => {
    const answer = fold([
      chunk({ role: "assistant", content: null }),
      chunk({ reasoning_content: "hm" }),
      chunk({ content: "Hel" }),
      chunk({ content: "lo" }),
      chunk({}, { finish_reason: "stop" }),
      "[DONE]",
    ]);
    expect(answer).toMatchObject({ content: "Hello", reasoning: "hm", finish: "stop", done: true, error: null });
  });

  it("takes usage from a chunk without choices, and ignores usage that is null", () => {
    const usage = { prompt_tokens: 7, completion_tokens: 3 };
    const answer = fold([
      JSON.stringify({ choices: [{ delta: { content: "x" } }], usage: null }),
      JSON.stringify({ choices: [], usage }),
    ]);
    expect(answer.usage).toEqual({ prompt: 7, completion: 3 });
  });

  it("keeps the text already said when the server reports an error mid-stream", () => {
    const answer = fold([
      chunk({ content: "so far" }),
      JSON.stringify({ error: { message: "The worker stopped.", code: "worker_failed" } }),
    ]);
    expect(answer.content).toBe("so far");
    expect(answer.error).toEqual({ message: "The worker stopped.", code: "worker_failed" });
  });

  it("calls data that is not JSON an error instead of dropping it", () => {
    expect(fold(["<html>"]).error).toEqual({ message: "<html>", code: "invalid_event" });
  });
});

describe("decodeSpeed", () => {
  it("counts tokens after the first, over the time since the first", () => {
    const answer = { ...emptyAnswer, firstAt: 1000, lastAt: 3000, usage: { prompt: 5, completion: 21 } };
    expect(decodeSpeed(answer)).toBe(10);
  });

  it("is unknown without usage, and for an answer of one token", () => {
    expect(decodeSpeed(emptyAnswer)).toBeNull();
    expect(decodeSpeed({ ...emptyAnswer, firstAt: 1, lastAt: 1, usage: { prompt: 5, completion: 1 } })).toBeNull();
  });
});
