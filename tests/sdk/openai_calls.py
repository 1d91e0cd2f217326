"""Calls through the unmodified OpenAI SDK, one for each line of input.

usage: openai_calls.py BASE_URL

A line `ordinary` or `streamed` makes one call, and prints `ok` or the error. Only the base URL
points at the sidecar; the retries of the SDK are off.
"""

import sys

from openai import OpenAI, OpenAIError

MESSAGES = [{"role": "user", "content": "say hello"}]


def ordinary(client: OpenAI) -> str:
    response = client.chat.completions.create(model="small", messages=MESSAGES)
    content = response.choices[0].message.content
    is_expected = content == "hello there" and response.model == "small"
    return "ok" if is_expected else f"unexpected response {response!r}"


def streamed(client: OpenAI) -> str:
    pieces, finish = [], None
    for chunk in client.chat.completions.create(model="small", messages=MESSAGES, stream=True):
        pieces.append(chunk.choices[0].delta.content or "")
        finish = chunk.choices[0].finish_reason or finish
    whole = "".join(f"word{i} " for i in range(5))
    is_expected = "".join(pieces) == whole and finish == "stop"
    return "ok" if is_expected else f"unexpected stream {pieces} {finish}"


def main() -> None:
    client = OpenAI(base_url=sys.argv[1], api_key="the-applications-own", max_retries=0)
    calls = {"ordinary": ordinary, "streamed": streamed}
    for line in sys.stdin:
        try:
            outcome = calls[line.strip()](client)
        except OpenAIError as error:
            outcome = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(outcome, flush=True)


if __name__ == "__main__":
    main()
