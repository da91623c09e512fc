/** An error in the reader's language, with the server's own words beneath it where they add something. */

import { ApiError } from "./api";
import type { Key, Translate } from "./i18n";

export interface Trouble {
  readonly headline: string;
  readonly detail: string;
}

const BY_CODE: Readonly<Record<string, Key>> = {
  connection: "errorConnection",
  cut: "errorCut",
  model_not_found: "errorModel",
  context_length_exceeded: "errorContext",
  model_too_large: "errorMemory",
  memory_busy: "errorMemory",
  worker_failed: "errorWorker",
  upstream_failed: "errorWorker",
};

const BY_STATUS: Readonly<Record<number, Key>> = {
  401: "errorKey",
  403: "errorForbidden",
  404: "errorModel",
  429: "errorBusy",
  503: "errorBusy",
};

export function describeError(error: unknown, t: Translate): Trouble {
  if (!(error instanceof ApiError)) return { headline: t("errorServer"), detail: String(error) };
  const detail = error.status === 0 ? "" : error.message;
  const key = BY_CODE[error.code] ?? BY_STATUS[error.status] ?? general(error.status);
  if (key === "errorBusy" && error.retryAfter !== null) {
    return { headline: t("errorBusyFor", { seconds: Math.ceil(error.retryAfter) }), detail };
  }
  return { headline: t(key), detail };
}

function general(status: number): Key {
  return status >= 400 && status < 500 ? "errorRequest" : "errorServer";
}
