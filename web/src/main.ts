import "./style.css";

import { ApiError, listChatModels, type ModelEntry, type ModelState } from "./api";
import { Conversation } from "./conversation";
import { describeError } from "./errors";
import { translate, type Key, type Language, type Translate } from "./i18n";
import { loadKey, loadPreferences, saveKey, savePreferences, type Theme } from "./preferences";
import { applyWords, byId, copyText } from "./view";

const STATE_WORDS: Readonly<Record<ModelState, Key>> = {
  loaded: "stateLoaded",
  cold: "stateCold",
  loading: "stateLoading",
};

class ChatPage {
  readonly #preferences = loadPreferences();
  #key = loadKey();
  #t: Translate = translate(this.#preferences.language);
  #models: ModelEntry[] = [];
  #trouble: unknown = null;
  #looking = true;
  #following = true;

  readonly #model = byId<HTMLSelectElement>("model");
  readonly #chip = byId("model-state");
  readonly #input = byId<HTMLTextAreaElement>("input");
  readonly #send = byId<HTMLButtonElement>("send");
  readonly #stop = byId<HTMLButtonElement>("stop");
  readonly #scroller = byId("scroller");
  readonly #log = byId("log");
  readonly #keyForm = byId<HTMLFormElement>("key-form");
  readonly #status = byId("status");

  readonly #conversation = new Conversation(
    this.#log,
    {
      busy: (busy) => this.#showBusy(busy),
      grew: () => this.#grew(),
      announce: (text) => (this.#status.textContent = text),
      keyNeeded: () => this.#askForKey(),
      modelState: (model, state) => this.#showState(model, state),
    },
    () => ({
      model: this.#preferences.model,
      system: this.#preferences.system,
      temperature: this.#preferences.temperature,
      key: this.#key,
      t: this.#t,
    }),
  );

  start(): void {
    this.#bindComposer();
    this.#bindSettings();
    this.#bindKeyForm();
    this.#bindLog();
    byId("new-chat").addEventListener("click", () => this.#newChat());
    byId("welcome-retry").addEventListener("click", () => void this.#loadModels());
    this.#model.addEventListener("change", () => this.#choose(this.#model.value));
    window.addEventListener("focus", () => {
      if (!this.#conversation.busy) void this.#loadModels();
    });
    this.#applyTheme();
    this.#applyLanguage();
    void this.#loadModels();
  }

  // --- models -----------------------------------------------------------------------------------

  async #loadModels(): Promise<void> {
    try {
      this.#models = await listChatModels(this.#key);
      this.#trouble = null;
    } catch (error) {
      this.#trouble = error;
      this.#models = [];
      if (error instanceof ApiError && error.status === 401) this.#askForKey();
    }
    this.#looking = false;
    this.#showModels();
  }

  #showModels(): void {
    const ids = this.#models.map((model) => model.id);
    this.#model.replaceChildren(...ids.map((id) => new Option(id, id)));
    byId("picker").hidden = ids.length === 0;
    const wanted = this.#preferences.model;
    const first = this.#models.find((model) => model.state === "loaded") ?? this.#models[0];
    if (first) this.#choose(ids.includes(wanted) ? wanted : first.id);
    this.#showWelcome();
    this.#showSendable();
  }

  #choose(id: string): void {
    this.#preferences.model = id;
    this.#model.value = id;
    savePreferences(this.#preferences);
    const state = this.#models.find((model) => model.id === id)?.state;
    if (state) this.#showState(id, state);
    this.#showWelcome();
  }

  #showState(id: string, state: ModelState): void {
    this.#models = this.#models.map((model) => (model.id === id ? { id, state } : model));
    if (id !== this.#preferences.model) return;
    this.#chip.dataset["state"] = state;
    this.#chip.textContent = this.#t(STATE_WORDS[state]);
  }

  #showWelcome(): void {
    byId("welcome").hidden = !this.#conversation.empty;
    const command = this.#welcomeCommand();
    byId("welcome-command").hidden = command === "";
    byId("welcome-retry").hidden = command === "" && !(this.#trouble && !this.#needsKey());
    byId("welcome-command").firstElementChild?.replaceChildren(command);
    const [title, text] = this.#welcomeWords();
    byId("welcome-title").textContent = title;
    byId("welcome-text").textContent = text;
  }

  #needsKey(): boolean {
    return this.#trouble instanceof ApiError && this.#trouble.status === 401;
  }

  #welcomeCommand(): string {
    if (this.#trouble instanceof ApiError && this.#trouble.status === 0) return "mooring serve";
    return !this.#trouble && !this.#looking && this.#models.length === 0 ? "mooring pull smollm2:135m" : "";
  }

  #welcomeWords(): [string, string] {
    const t = this.#t;
    if (this.#looking) return [t("loadingModels"), ""];
    if (this.#needsKey()) return [t("keyNeeded"), ""];
    if (this.#trouble instanceof ApiError && this.#trouble.status === 0) return [t("noServer"), t("noServerText")];
    if (this.#trouble) {
      const { headline, detail } = describeError(this.#trouble, t);
      return [headline, detail];
    }
    if (this.#models.length === 0) return [t("noModels"), t("noModelsText")];
    const url = new URL("v1", document.baseURI).href;
    return [t("welcome", { model: this.#preferences.model }), t("welcomeText", { url })];
  }

  // --- the conversation ---------------------------------------------------------------------------

  #bindComposer(): void {
    byId<HTMLFormElement>("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#input.addEventListener("input", () => {
      this.#showSendable();
      this.#fitInput();
    });
    this.#input.addEventListener("keydown", (event) => {
      // While an input method composes, Enter picks a candidate (Safari says so only by key code 229).
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#submit();
    });
    this.#stop.addEventListener("click", () => this.#conversation.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#conversation.stop();
    });
  }

  #submit(): void {
    const text = this.#input.value.trim();
    if (text === "" || this.#conversation.busy || this.#models.length === 0) return;
    this.#input.value = "";
    this.#fitInput();
    this.#following = true;
    void this.#conversation.say(text);
    this.#showWelcome();
    this.#showSendable();
  }

  /** Browsers without `field-sizing` need the box's height set. */
  #fitInput(): void {
    if (CSS.supports("field-sizing", "content")) return;
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #newChat(): void {
    this.#conversation.clear();
    this.#showWelcome();
    this.#input.focus();
  }

  #showBusy(busy: boolean): void {
    const hadFocus = document.activeElement === this.#send || document.activeElement === this.#stop;
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    if (hadFocus) this.#input.focus();
    if (!busy) void this.#loadModels();
  }

  #showSendable(): void {
    this.#send.disabled = this.#input.value.trim() === "" || this.#models.length === 0;
  }

  #grew(): void {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #bindLog(): void {
    new ResizeObserver(() => this.#grew()).observe(this.#scroller);
    this.#scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
      this.#following = scrollHeight - scrollTop - clientHeight < 40;
    });
    this.#log.addEventListener("click", (event) => {
      const button = event.target instanceof HTMLElement ? event.target.closest("button.copy") : null;
      const code = button?.closest(".code-box")?.querySelector("pre")?.textContent;
      if (!button || code === undefined || code === null) return;
      void copyText(code.replace(/\n$/, "")).then(() => {
        button.textContent = this.#t("copied");
        setTimeout(() => (button.textContent = this.#t("copy")), 1500);
      });
    });
  }

  // --- the key ------------------------------------------------------------------------------------

  #bindKeyForm(): void {
    this.#keyForm.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#key = byId<HTMLInputElement>("key").value.trim();
      saveKey(this.#key);
      this.#keyForm.hidden = true;
      this.#input.focus();
      void this.#loadModels().then(() => this.#conversation.retry());
    });
  }

  #askForKey(): void {
    if (!this.#keyForm.hidden) return;
    const label = this.#keyForm.querySelector("label");
    if (label) label.textContent = this.#t(this.#key === "" ? "keyNeeded" : "errorKey");
    this.#keyForm.hidden = false;
    byId<HTMLInputElement>("key").select();
  }

  // --- settings -----------------------------------------------------------------------------------

  #bindSettings(): void {
    const preferences = this.#preferences;
    const toggle = byId("settings-toggle");
    toggle.addEventListener("click", () => {
      const panel = byId("settings");
      panel.hidden = !panel.hidden;
      toggle.setAttribute("aria-expanded", String(!panel.hidden));
    });
    this.#bind<HTMLTextAreaElement>("system", preferences.system, (value) => (preferences.system = value));
    this.#bind<HTMLInputElement>("temperature", String(preferences.temperature), (value) => {
      preferences.temperature = Number(value);
      this.#showTemperature();
    });
    this.#bind<HTMLSelectElement>("theme", preferences.theme, (value) => {
      preferences.theme = value as Theme;
      this.#applyTheme();
    });
    this.#bind<HTMLSelectElement>("language", preferences.language, (value) => {
      preferences.language = value as Language;
      this.#applyLanguage();
    });
    this.#showTemperature();
  }

  #bind<T extends HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement>(
    id: string,
    value: string,
    changed: (value: string) => void,
  ): void {
    const control = byId<T>(id);
    control.value = value;
    control.addEventListener("input", () => {
      changed(control.value);
      savePreferences(this.#preferences);
    });
  }

  #showTemperature(): void {
    byId("temperature-value").textContent = this.#preferences.temperature.toFixed(1);
  }

  #applyTheme(): void {
    document.documentElement.dataset["theme"] = this.#preferences.theme;
  }

  #applyLanguage(): void {
    this.#t = translate(this.#preferences.language);
    document.documentElement.lang = this.#preferences.language === "zh" ? "zh-CN" : "en";
    applyWords(document, this.#t);
    this.#showModels();
  }
}

new ChatPage().start();
