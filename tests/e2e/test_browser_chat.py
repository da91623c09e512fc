"""The chat page in a real browser: with a real model, and on the fake engine where an answer must be known."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from support.server import RunningServer, fake_home, mooring_serve

pytestmark = pytest.mark.browser

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOAD_MS = 60_000

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def fake_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose model, ``tiny``, answers ``/count 3`` with ``0 1 2``."""
    home = tmp_path_factory.mktemp("fake-chat")
    fake_home(home, "tiny")
    (home / "mooring.yaml").write_text(
        "deployments:\n  tiny: {engine: fake, context: 256, slots: 2, options: {token_delay: 0.02}}\n"
    )
    with mooring_serve(home) as server:
        yield server


@pytest.fixture(scope="module")
def browser(live_server: RunningServer, fake_chat: RunningServer) -> Iterator[Browser]:
    """Chromium. The servers come first: they need an event loop, and so does Playwright while it runs."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        missing = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens the page of a server as a visitor with that language; fails on any error the page makes."""
    errors: list[str] = []
    contexts = []

    def open_page(server: RunningServer, locale: str = "en-US", **options: object) -> Page:
        context = browser.new_context(locale=locale, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def shorten(route: Route) -> None:
    """Sends a chat request on with a limit: a small model may ramble until its context is full."""
    body = json.loads(route.request.post_data or "")
    route.continue_(post_data=json.dumps(body | {"max_tokens": 48}))


def say(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")


@pytest.mark.weights
@pytest.mark.parametrize(
    ("locale", "question", "ready", "greeting", "speed"),
    [
        ("en-GB", "What is the capital of France?", "ready", "Chat with smollm2:135m", "tokens/s"),
        ("zh-CN", "法国的首都是哪里？", "就绪", "与 smollm2:135m 对话", "token/秒"),
    ],
)
def test_a_visitor_chats_with_the_real_model_in_their_language(
    open_page: OpenPage,
    live_server: RunningServer,
    locale: str,
    question: str,
    ready: str,
    greeting: str,
    speed: str,
) -> None:
    page = open_page(live_server, locale)
    page.route("**/v1/chat/completions", shorten)
    expect(page.locator("#welcome-title")).to_have_text(greeting)
    page.locator("#settings-toggle").click()
    page.locator("#system").fill("Answer in one short sentence.")
    say(page, question)
    expect(page.locator(".bubble")).to_have_text(question)
    expect(page.locator(".prose").last).not_to_be_empty(timeout=LOAD_MS)
    expect(page.locator("#model-state")).to_have_text(ready)
    expect(page.locator(".stats").last).to_contain_text(speed, timeout=LOAD_MS)


@pytest.mark.weights
def test_only_models_that_can_chat_are_offered(open_page: OpenPage, live_server: RunningServer) -> None:
    page = open_page(live_server)
    expect(page.locator("#model option")).to_have_text(["smollm2:135m"])


def test_nothing_is_fetched_from_anywhere_else(open_page: OpenPage, fake_chat: RunningServer) -> None:
    page = open_page(fake_chat)
    asked: list[str] = []

    def remember(request: Request) -> None:
        asked.append(request.url)

    page.on("request", remember)
    page.reload()
    say(page, "![picture](https://example.org/leak.png) <img src='https://example.org/leak.png'>")
    expect(page.locator(".stats")).to_contain_text("tokens/s")
    assert len(asked) > 3
    assert [url for url in asked if not url.startswith(fake_chat.url)] == []


def test_a_conversation_goes_on_and_a_new_chat_forgets_it(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat)
    bodies: list[list[dict[str, str]]] = []

    def remember(request: Request) -> None:
        if request.post_data is not None:
            bodies.append(json.loads(request.post_data)["messages"])

    page.on("request", remember)
    say(page, "/count 3")
    expect(page.locator(".prose")).to_have_text("0 1 2")
    expect(page.locator(".stats")).to_contain_text("3 written")
    say(page, "/count 4")
    expect(page.locator(".prose").last).to_have_text("0 1 2 3")
    assert [message["content"] for message in bodies[-1]] == ["/count 3", "0 1 2", "/count 4"]
    expect(page.locator("#send")).to_be_visible()
    page.locator("#new-chat").click()
    expect(page.locator(".message")).to_have_count(0)
    say(page, "/count 2")
    expect(page.locator(".prose")).to_have_text("0 1")
    assert [message["content"] for message in bodies[-1]] == ["/count 2"]


def test_stop_keeps_what_was_said_and_the_next_message_works(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat)
    say(page, "/count 2000")
    expect(page.locator(".prose")).to_contain_text("0 1 2")
    page.locator("#stop").click()
    expect(page.locator(".stats")).to_contain_text("Stopped")
    said = page.locator(".prose").inner_text()
    assert not said.endswith("1999")
    say(page, "/count 3")
    expect(page.locator(".prose").last).to_have_text("0 1 2")
    expect(page.locator(".prose").first).to_have_text(said)


def test_a_crash_is_told_in_words_and_trying_again_is_offered(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat, "zh-CN")
    say(page, "/crash")
    expect(page.locator(".error strong")).to_have_text("模型已停止工作，正在重新启动。请重试。")
    expect(page.locator(".error button")).to_have_text("重试")
    say(page, "/count 3")
    expect(page.locator(".prose").last).to_have_text("0 1 2", timeout=LOAD_MS)


def test_enter_that_picks_a_word_in_an_input_method_does_not_send(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat, "zh-CN")
    page.locator("#input").fill("ni hao")
    for kind in ("{isComposing: true}", "{keyCode: 229}"):
        page.locator("#input").evaluate(
            f"box => box.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true, ...{kind}}}))"
        )
    page.locator("#input").press("Shift+Enter")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#input")).to_have_value("ni hao\n")
    page.locator("#input").press("Enter")
    expect(page.locator(".message")).to_have_count(2)


def test_language_and_colours_are_kept_for_the_next_visit(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat, color_scheme="light")
    page.locator("#settings-toggle").click()
    page.locator("#language").select_option("zh")
    page.locator("#theme").select_option("dark")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.reload()
    expect(page.locator("#input")).to_have_attribute("placeholder", "输入消息")
    expect(page.locator("html")).to_have_css("background-color", "rgb(21, 25, 27)")


def test_code_can_be_copied(open_page: OpenPage, fake_chat: RunningServer) -> None:
    page = open_page(fake_chat, permissions=["clipboard-read", "clipboard-write"])
    say(page, "this:\n```python\nprint('hi')\n```")
    page.locator("button.copy").click()
    expect(page.locator("button.copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "print('hi')"


def test_a_phone_shows_everything_without_scrolling_sideways(
    open_page: OpenPage, fake_chat: RunningServer
) -> None:
    page = open_page(fake_chat, viewport={"width": 360, "height": 640})
    say(page, "/count 200")
    expect(page.locator(".stats")).to_contain_text("200 written", timeout=LOAD_MS)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for control in ("#model", "#new-chat", "#settings-toggle", "#input", "#send"):
        expect(page.locator(control)).to_be_in_viewport()


def test_every_control_has_a_name_for_a_screen_reader(open_page: OpenPage, fake_chat: RunningServer) -> None:
    page = open_page(fake_chat)
    page.locator("#settings-toggle").click()
    tree = page.locator("body").aria_snapshot()
    controls = re.findall(r"- (?:button|combobox|textbox|slider)(.*)", tree)
    assert len(controls) >= 8
    assert [control for control in controls if not control.strip().startswith('"')] == []


def test_the_page_asks_for_a_key_when_the_server_does(
    browser: Browser, open_page: OpenPage, tmp_path: Path
) -> None:
    fake_home(tmp_path, "tiny")
    (tmp_path / "mooring.yaml").write_text("deployments:\n  tiny: {engine: fake, context: 256}\n")
    create = [sys.executable, "-m", "mooring", "--home", str(tmp_path), "key", "create", "--name", "visitor"]
    secret = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
    with mooring_serve(tmp_path) as server:
        page = open_page(server)
        expect(page.locator("#welcome-title")).to_have_text("This server asks for an API key")
        page.locator("#key").fill("sk-mrg-wrong")
        page.locator("#key").press("Enter")
        expect(page.locator("#key-form label")).to_have_text("The server did not accept this API key.")
        page.locator("#key").fill(secret)
        page.locator("#key").press("Enter")
        expect(page.locator("#key-form")).to_be_hidden()
        say(page, "/count 3")
        expect(page.locator(".prose")).to_have_text("0 1 2")
