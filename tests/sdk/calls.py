"""Calls through unmodified client libraries, one for each line of input.

usage: calls.py CLIENT URL

A line `ordinary` or `streamed` makes one call. The result is a line of JSON: the `text` so far, the `error` or null, and
`is_own`, whether the error is of the library's own classes. Only the base URL points at the sidecar; the retries of the
libraries are off.
"""

import asyncio
import json
import sys

MESSAGES = [{"role": "user", "content": "say hello"}]
KEY = "the-applications-own"


class OpenAI:
    def __init__(self, url):
        import openai

        self.errors = (openai.OpenAIError,)
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)

    def ordinary(self):
        response = self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        yield response.choices[0].message.content

    def streamed(self):
        for chunk in self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True):
            yield chunk.choices[0].delta.content


class OpenAIResponses(OpenAI):
    def ordinary(self):
        yield self.client.responses.create(model="gpt-4o", input="say hello").output_text

    def streamed(self):
        for event in self.client.responses.create(model="gpt-4o", input="say hello", stream=True):
            yield event.delta if event.type == "response.output_text.delta" else ""


class OpenAIAsync:
    def __init__(self, url):
        import openai

        self.errors = (openai.OpenAIError,)
        self.loop = asyncio.new_event_loop()
        self.client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)

    def ordinary(self):
        call = self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        yield self.loop.run_until_complete(call).choices[0].message.content

    def streamed(self):
        pieces = []

        async def read():
            stream = await self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
            async for chunk in stream:
                pieces.append(chunk.choices[0].delta.content)

        try:
            self.loop.run_until_complete(read())
        finally:
            yield from pieces


class Anthropic:
    def __init__(self, url):
        import anthropic

        self.errors = (anthropic.AnthropicError,)
        self.client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
        self.request = {"model": "claude-opus-4-7", "max_tokens": 64, "messages": MESSAGES}

    def ordinary(self):
        yield self.client.messages.create(**self.request).content[0].text

    def streamed(self):
        with self.client.messages.stream(**self.request) as stream:
            yield from stream.text_stream


class GoogleGenAI:
    def __init__(self, url):
        from google import genai

        self.errors = (genai.errors.APIError,)
        self.client = genai.Client(api_key=KEY, http_options=genai.types.HttpOptions(base_url=url))
        self.request = {"model": "gemini-2.5-flash", "contents": "say hello"}

    def ordinary(self):
        yield self.client.models.generate_content(**self.request).text

    def streamed(self):
        for chunk in self.client.models.generate_content_stream(**self.request):
            yield chunk.text


class Mistral:
    def __init__(self, url):
        from mistralai.client import Mistral, errors

        self.errors = (errors.MistralError, errors.NoResponseError)
        self.client = Mistral(api_key=KEY, server_url=url)

    def ordinary(self):
        response = self.client.chat.complete(model="mistral-small-latest", messages=MESSAGES)
        yield response.choices[0].message.content

    def streamed(self):
        for event in self.client.chat.stream(model="mistral-small-latest", messages=MESSAGES):
            choice = event.data.choices[0]
            yield choice.delta.content
            if choice.finish_reason == "error":
                raise Reported("finish_reason: error")


class Cohere:
    def __init__(self, url):
        from cohere import ClientV2
        from cohere.core.api_error import ApiError

        self.errors = (ApiError,)
        self.client = ClientV2(KEY, base_url=url, max_retries=0)

    def ordinary(self):
        yield self.client.chat(model="command-a-03-2025", messages=MESSAGES).message.content[0].text

    def streamed(self):
        for event in self.client.chat_stream(model="command-a-03-2025", messages=MESSAGES):
            if event.type == "content-delta":
                yield event.delta.message.content.text
            if event.type == "message-end" and event.delta.finish_reason == "ERROR":
                raise Reported("finish_reason: ERROR")


class LiteLLM:
    def __init__(self, url):
        import litellm

        # Its exceptions are subclasses of those of the library `openai`.
        import openai

        self.errors, self.litellm = (openai.OpenAIError,), litellm
        litellm.suppress_debug_info = True
        self.request = {"model": "openai/gpt-4o", "messages": MESSAGES, "api_base": f"{url}/v1", "api_key": KEY,
                        "max_retries": 0, "num_retries": 0}

    def ordinary(self):
        yield self.litellm.completion(**self.request).choices[0].message.content

    def streamed(self):
        for chunk in self.litellm.completion(**self.request, stream=True):
            yield chunk.choices[0].delta.content


class LangChain:
    def __init__(self, url):
        import openai
        from langchain_openai import ChatOpenAI

        self.errors = (openai.OpenAIError,)
        self.chat = ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key=KEY, max_retries=0)

    def ordinary(self):
        yield self.chat.invoke("say hello").content

    def streamed(self):
        for chunk in self.chat.stream("say hello"):
            yield chunk.content


class Reported(Exception):
    """An error in a value that the library passes on without raising."""


CLIENTS = {
    "openai": OpenAI, "openai-responses": OpenAIResponses, "openai-async": OpenAIAsync, "anthropic": Anthropic,
    "google-genai": GoogleGenAI, "mistralai": Mistral, "cohere": Cohere, "litellm": LiteLLM, "langchain-openai": LangChain,
}


def main():
    client = CLIENTS[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        pieces, error, is_own = [], None, False
        try:
            for piece in getattr(client, line.strip())():
                pieces.append(piece or "")
        except Exception as raised:
            error = f"{type(raised).__module__}.{type(raised).__name__}: {raised}"[:300]
            is_own = isinstance(raised, (*client.errors, Reported))
        print(json.dumps({"text": "".join(pieces), "error": error, "is_own": is_own}), flush=True)


if __name__ == "__main__":
    main()
