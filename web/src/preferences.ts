/** What this browser remembers. A browser that forbids storage gets the defaults each time. */

import { detectLanguage, type Language } from "./i18n";

export type Theme = "auto" | "light" | "dark";

export interface Preferences {
  language: Language;
  theme: Theme;
  model: string;
  system: string;
  temperature: number;
}

const NAME = "mooring.chat";
const KEY_NAME = "mooring.key";

export function loadPreferences(): Preferences {
  const defaults: Preferences = {
    language: detectLanguage(navigator.languages),
    theme: "auto",
    model: "",
    system: "",
    temperature: 0.7,
  };
  try {
    return { ...defaults, ...(JSON.parse(localStorage.getItem(NAME) ?? "{}") as Partial<Preferences>) };
  } catch {
    return defaults;
  }
}

export function savePreferences(preferences: Preferences): void {
  quietly(() => localStorage.setItem(NAME, JSON.stringify(preferences)));
}

/** The API key lives as long as the tab. */
export function loadKey(): string {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? "";
  } catch {
    return "";
  }
}

export function saveKey(key: string): void {
  quietly(() => sessionStorage.setItem(KEY_NAME, key));
}

function quietly(store: () => void): void {
  try {
    store();
  } catch {
    // Storage is full or forbidden: the page works without it.
  }
}
