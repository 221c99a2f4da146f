"""Requests to a server of completions that scores a prompt: the OpenAI protocol, `POST {url}/completions`.

Answers that promise better luck, 408, 429 and 5xx, and connections that fail, are tried again with exponential
back-off. All else is an error at once, in the words of the server.
"""

import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

#: The environment variable of the key, where none is given.
KEY = "KERAS_KD_API_KEY"

#: Seconds before the second attempt, doubled before each further one, and the most of them.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0

#: Of an answer that is shown in an error.
_SHOWN = 400

_REMEDIES = {
    400: "Where it allows fewer classes, lower `top_k`, or raise its limit (vLLM: --max-logprobs).",
    401: f"Give `api_key`, or set {KEY}.",
    403: f"Give `api_key`, or set {KEY}.",
    404: "See whether `url` is the server's, as http://127.0.0.1:8000/v1, and whether it serves this `model`.",
}


class Question(NamedTuple):
    """What a request to a server holds.

    Attributes:
        tokens: token ids of a prompt.
        named: how many of the most probable tokens to return at each position.
        as_ids: whether tokens are to be returned as "token_id:7", which servers other than vLLM may refuse.
    """

    tokens: list[int]
    named: int
    as_ids: bool

    def body(self, model: str) -> dict[str, Any]:
        """Return the fields of the request: nothing is generated, and the prompt comes back with log-probabilities."""
        fields = {"model": model, "prompt": self.tokens, "max_tokens": 0, "echo": True, "logprobs": self.named}
        return {**fields, "temperature": 1, **({"return_tokens_as_token_ids": True} if self.as_ids else {})}


class Stopped(Exception):
    """Another question has failed, and the answer to this one is not needed."""


class CompletionServer:
    """Ask a server for the log-probabilities of prompts. Threads may share it.

    Args:
        url: of the API, without "/completions".
        model: as the server calls it.
        api_key: sent as a bearer token, and shown nowhere; None: that of the environment, if it has one.
        timeout: seconds for which nothing may arrive.
        attempts: how often a request is sent at most.

    Raises:
        ImportError: httpx is not installed.
    """

    def __init__(self, url: str, model: str, api_key: str | None, timeout: float, attempts: int) -> None:
        self._httpx = _httpx()
        self._address = f"{url.rstrip('/')}/completions"
        self._model, self._attempts = model, attempts
        self._given_key = api_key
        self._client = self._httpx.Client(timeout=timeout, limits=self._httpx.Limits(max_connections=None))

    def choice(self, question: Question, stopped: threading.Event) -> dict[str, Any]:
        """Return the one choice of the answer.

        Args:
            question: what is requested.
            stopped: set where another question has failed.

        Raises:
            Stopped: it was set.
            ValueError: the server refuses, has failed too often, or answers something else.
        """
        began, failure, asked_for = time.monotonic(), "", 0.0
        for attempt in range(self._attempts):
            if stopped.wait(_pause(attempt - 1, asked_for) if attempt else 0.0):
                raise Stopped
            try:
                response = self._client.post(self._address, json=question.body(self._model), headers=self._headers())
            except self._httpx.TransportError as error:
                failure, asked_for = f"{type(error).__name__}: {error}".rstrip(": "), 0.0
            else:
                if not _may_succeed_later(response.status_code):
                    return self._choice_of(response, question)
                failure, asked_for = self._described(response), _retry_after(response)
        raise ValueError(
            f"{self._expectation(question)} It was asked {self._attempts} times in {time.monotonic() - began:.1f} s; "
            f"the last time: {failure}. See whether it runs and how much it can take: lower `in_flight`, raise "
            "`attempts` or `timeout`. What a cache has of other examples is kept: the same call goes on."
        )

    def _choice_of(self, response: Any, question: Question) -> dict[str, Any]:
        if response.status_code != 200:
            remedy = _REMEDIES.get(response.status_code, "")
            refused = f"It refused: {self._described(response)}. {remedy}".strip()
            raise ValueError(f"{self._expectation(question)} {refused}")
        try:
            [choice] = response.json()["choices"]
            choice["logprobs"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self._expectation(question)} Received no answer of that protocol: {self._described(response)}"
            ) from None
        return choice

    def _expectation(self, question: Question) -> str:
        return (
            f"Expected {self._address} to return the {question.named} largest log-probabilities at each of "
            f"{len(question.tokens)} tokens of a prompt, by the model {self._model!r}."
        )

    def _headers(self) -> dict[str, str]:
        key = self._key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _key(self) -> str | None:
        return self._given_key or os.environ.get(KEY)

    def _described(self, response: Any) -> str:
        """Return the status of an answer and its message, without the key, which some servers repeat."""
        text = f"{response.status_code} {response.reason_phrase}: {_message(response.text)}"
        key = self._key()
        return text.replace(key, "***") if key else text


def check_url(url: Any) -> str:
    """Return the address of a server, or raise an error.

    Raises:
        ValueError: it is none of http, or holds a password.
    """
    parts = urllib.parse.urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"Expected `url` to be as http://127.0.0.1:8000/v1. Received: url={url!r}")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "Expected a `url` without a user, a password or a query, which would be written into files. Received one "
            f"of the host {parts.hostname!r} with some. Give `api_key`, or set {KEY}."
        )
    return str(url)


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ImportError('A teacher behind HTTP needs httpx: pip install "keras_kd[served]"') from error
    return httpx


def _may_succeed_later(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _pause(attempt: int, asked_for: float, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return seconds to wait: what the server asks for, and somewhat more or less than others wait."""
    return min(LONGEST_WAIT, max(asked_for, FIRST_WAIT * 2**attempt * uniform(0.75, 1.25)))


def _retry_after(response: Any) -> float:
    """Return the seconds that an answer asks to wait, or 0; a date is not read."""
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _message(text: str) -> str:
    """Return the message of an answer, in one of the forms in which servers send one."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    for name in ("error", "message", "detail"):
        found = found.get(name, found) if isinstance(found, dict) else found
    return str(found)[:_SHOWN].rstrip(".")
