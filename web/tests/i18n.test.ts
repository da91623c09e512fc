import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { detectLanguage, dictionaries, translate, type Key } from "../src/i18n";

const { en, zh } = dictionaries;
const keys = Object.keys(en) as Key[];
const slots = (words: string): string[] => (words.match(/\{\w+\}/g) ?? []).sort();

describe("the dictionaries", () => {
  it("say everything in both languages", () => {
    expect(Object.keys(zh).sort()).toEqual([...keys].sort());
    for (const key of keys) expect(zh[key].trim(), key).not.toBe("");
  });

  it("put the same values into both languages", () => {
    for (const key of keys) expect(slots(zh[key]), key).toEqual(slots(en[key]));
  });

  it("have every word that the page asks for", () => {
    const html = readFileSync(new URL("../index.html", import.meta.url), "utf8");
    const asked = [...html.matchAll(/data-i18n(?:-label|-placeholder)?="(\w+)"/g)].map((match) => match[1]);
    expect(asked.length).toBeGreaterThan(10);
    for (const key of asked) expect(keys).toContain(key);
  });
});

describe("translate", () => {
  it("puts values in, and leaves a missing one visible", () => {
    expect(translate("en")("speed", { speed: "61.5" })).toBe("61.5 tokens/s");
    expect(translate("zh")("starting", { model: "m" })).toBe("正在启动 m……{seconds} 秒");
  });
});

describe("detectLanguage", () => {
  it("takes the first language that the page speaks, else English", () => {
    expect(detectLanguage(["zh-Hans-CN", "en"])).toBe("zh");
    expect(detectLanguage(["fr-FR", "zh-TW", "en"])).toBe("zh");
    expect(detectLanguage(["en-GB", "zh"])).toBe("en");
    expect(detectLanguage(["fr"])).toBe("en");
  });
});
