"""The APIs of LLM vendors as the drills need them: requests, responses, event streams and errors, and how a client reads them."""
import json

WORDS = [f"word{i} " for i in range(6)]
TEXT = "".join(WORDS)
TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error",
         529: "overloaded_error"}
GRPC = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


def sse(data, name=None):
    data = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def read_sse(body):
    """The (name, data) of each event."""
    events = []
    for block in body.decode(errors="replace").replace("\r\n", "\n").split("\n\n"):
        fields = [line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":")]
        if data := [value for name, value in fields if name == "data"]:
            events.append((dict(fields).get("event"), "\n".join(data)))
    return events


def parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


class OpenAI:
    # The preset for both providers; None for those of the policy as they are.
    name, preset = "openai", None
    too_long = ("context_length_exceeded", "This model's maximum context length is 128000 tokens. However, your messages "
                "resulted in 200000 tokens.")

    def path(self, streamed):
        return "/v1/chat/completions"

    def request(self, streamed, text="hi"):
        return {"messages": [{"role": "user", "content": text}], "model": "gpt-4o", **({"stream": True} if streamed else {})}

    def attachment(self, data):
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        return {"messages": [{"role": "user", "content": [part]}], "model": "gpt-4o-audio"}

    def whole(self, text=TEXT, finish="stop"):
        message = {"role": "assistant", "content": text}
        return {"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o",
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}}

    def chunk(self, delta, finish=None):
        return sse({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def opening(self):
        return [self.chunk({"role": "assistant", "content": ""})]

    def content(self, word):
        return self.chunk({"content": word})

    def closing(self, finish="stop"):
        return [self.chunk({}, finish), sse("[DONE]")]

    def malformed(self):
        return b'data: {"id": "c-1", "choices": [{"delta": {"con\n\n'

    def error(self, status, code=None, message="the provider fails"):
        return {"error": {"message": message, "type": TYPES.get(status, "server_error"), "code": code, "param": None}}

    def error_event(self):
        return sse(self.error(500, "server_error"))

    def filtered(self):
        """Refusals by a content filter: (status, body), and events."""
        error = self.error(400, "content_filter", "The response was filtered")
        return [(400, error), (200, self.whole("", "content_filter"))], self.opening() + self.closing("content_filter")

    def text_of(self, body):
        return body["choices"][0]["message"]["content"]

    def text_of_event(self, name, event):
        return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", []))

    def ends(self, name, data):
        return data == "[DONE]" or (parsed(data) or {}).get("choices", [{}])[0].get("finish_reason") == "stop"

    def error_of_event(self, name, event):
        error = event.get("error")
        return error["message"] if isinstance(error, dict) and error.get("type") and "code" in error else None


class Anthropic:
    name, preset = "anthropic", "anthropic"
    too_long = (None, "prompt is too long: 208310 tokens > 200000 maximum")

    def path(self, streamed):
        return "/v1/messages"

    def request(self, streamed, text="hi"):
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 64, "model": "claude-sonnet-4-5",
                **({"stream": True} if streamed else {})}

    def attachment(self, data):
        part = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}
        return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 64, "model": "claude-sonnet-4-5"}

    def message(self, content, stop):
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": content,
                "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 6}}

    def whole(self, text=TEXT, finish="end_turn"):
        return self.message([{"type": "text", "text": text}] if text else [], finish)

    def event(self, kind, **fields):
        return sse({"type": kind, **fields}, kind)

    def opening(self):
        block = {"type": "text", "text": ""}
        return [self.event("message_start", message=self.message([], None)),
                self.event("content_block_start", index=0, content_block=block), self.event("ping")]

    def content(self, word):
        return self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})

    def closing(self, finish="end_turn"):
        delta = {"stop_reason": finish, "stop_sequence": None}
        return [self.event("content_block_stop", index=0),
                self.event("message_delta", delta=delta, usage={"output_tokens": 6}), self.event("message_stop")]

    def malformed(self):
        return b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": {"ty\n\n'

    def error(self, status, code=None, message="the provider fails"):
        return {"type": "error", "error": {"type": TYPES.get(status, "api_error"), "message": message}, "request_id": "req_1"}

    def error_event(self):
        return self.event("error", error={"type": "overloaded_error", "message": "Overloaded"})

    def filtered(self):
        error = self.error(400, None, "Output blocked by content filtering policy")
        return [(400, error), (200, self.whole("", "refusal"))], self.opening() + self.closing("refusal")

    def text_of(self, body):
        return "".join(part["text"] for part in body["content"])

    def text_of_event(self, name, event):
        return event["delta"].get("text", "") if event.get("type") == "content_block_delta" else ""

    def ends(self, name, data):
        return name == "message_stop"

    def error_of_event(self, name, event):
        is_error = name == "error" and event.get("type") == "error" and event["error"].get("type")
        return event["error"]["message"] if is_error else None


class Gemini:
    name, preset = "gemini", "gemini"
    too_long = (None, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).")

    def path(self, streamed):
        return "/v1beta/models/gemini-2.5-flash:" + ("streamGenerateContent?alt=sse" if streamed else "generateContent")

    def request(self, streamed, text="hi"):
        return {"contents": [{"role": "user", "parts": [{"text": text}]}]}

    def attachment(self, data):
        return {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "audio/wav", "data": data}}]}]}

    def whole(self, text=TEXT, finish="STOP"):
        content = {"role": "model", "parts": [{"text": text}] if text else []}
        candidate = {"index": 0, "content": content, **({"finishReason": finish} if finish else {})}
        return {"candidates": [candidate], "modelVersion": "gemini-2.5-flash",
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 6, "totalTokenCount": 9}}

    def opening(self):
        return []

    def content(self, word):
        return sse(self.whole(word, None))

    def closing(self, finish="STOP"):
        return [sse(self.whole("", finish))]

    def malformed(self):
        return b'data: {"candidates": [{"content": {"parts": [{"te\n\n'

    def error(self, status, code=None, message="the provider fails"):
        return {"error": {"code": status, "message": message, "status": GRPC.get(status, "INTERNAL")}}

    def error_event(self):
        return sse(self.error(503))

    def filtered(self):
        blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "gemini-2.5-flash"}
        return [(200, blocked), (200, self.whole("", "SAFETY"))], [sse(blocked)]

    def text_of(self, body):
        return "".join(part["text"] for part in body["candidates"][0]["content"]["parts"])

    def text_of_event(self, name, event):
        return self.text_of(event) if event.get("candidates") else ""

    def ends(self, name, data):
        return (parsed(data) or {}).get("candidates", [{}])[0].get("finishReason") == "STOP"

    def error_of_event(self, name, event):
        error = event.get("error")
        return error["message"] if isinstance(error, dict) and error.get("status") and name is None else None


class Responses(OpenAI):
    """OpenAI's responses."""
    name = "responses"

    def path(self, streamed):
        return "/v1/responses"

    def whole(self, text=TEXT, finish="completed"):
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": "m-1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        usage = {"input_tokens": 3, "output_tokens": 6, "total_tokens": 9, "input_tokens_details": {"cached_tokens": 0},
                 "output_tokens_details": {"reasoning_tokens": 0}}
        return {"id": "r-1", "object": "response", "created_at": 1, "status": finish, "model": "gpt-4o", "output": [item],
                "usage": usage, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
                "parallel_tool_calls": True, "temperature": 1, "tool_choice": "auto", "tools": [], "top_p": 1}

    def event(self, kind, number=0, **fields):
        return sse({"type": kind, "sequence_number": number, **fields}, kind)

    def opening(self):
        begun = {**self.whole(), "status": "in_progress", "output": [], "usage": None}
        item = {"id": "m-1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return [self.event("response.created", response=begun),
                self.event("response.output_item.added", 1, output_index=0, item=item),
                self.event("response.content_part.added", 2, item_id="m-1", output_index=0, content_index=0, part=part)]

    def content(self, word):
        return self.event("response.output_text.delta", 3, item_id="m-1", output_index=0, content_index=0, delta=word, logprobs=[])

    def closing(self, finish="completed"):
        at, item = {"item_id": "m-1", "output_index": 0, "content_index": 0}, self.whole()["output"][0]
        return [self.event("response.output_text.done", 4, text=TEXT, logprobs=[], **at),
                self.event("response.content_part.done", 5, part=item["content"][0], **at),
                self.event("response.output_item.done", 6, output_index=0, item=item),
                self.event("response.completed", 7, response=self.whole())]


class Cohere:
    """Cohere's chat, version 2."""
    name = "cohere"

    def whole(self, text=TEXT, finish="COMPLETE"):
        return {"id": "c-1", "finish_reason": finish,
                "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
                "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 6}, "tokens": {"input_tokens": 3, "output_tokens": 6}}}

    def event(self, kind, **fields):
        return sse({"type": kind, **fields}, kind)

    def opening(self):
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        content = {"message": {"content": {"type": "text", "text": ""}}}
        return [self.event("message-start", id="c-1", delta={"message": message}),
                self.event("content-start", index=0, delta=content)]

    def content(self, word):
        return self.event("content-delta", index=0, delta={"message": {"content": {"text": word}}})

    def closing(self, finish="COMPLETE"):
        return [self.event("content-end", index=0),
                self.event("message-end", delta={"finish_reason": finish, "usage": self.whole()["usage"]})]

    def error(self, status, code=None, message="the provider fails"):
        return {"id": "e-1", "message": message}


class Transcription:
    """OpenAI's transcription of audio, whose request is a form."""
    name = "transcription"

    def whole(self):
        return {"text": TEXT}

    def error(self, status, code=None, message="the provider fails"):
        return OpenAI().error(status, code, message)

    def text_of(self, body):
        return body["text"]


APIS = {"/chat/completions": OpenAI(), "/messages": Anthropic(), ":generateContent": Gemini(),
        ":streamGenerateContent": Gemini(), "/responses": Responses(), "/v2/chat": Cohere(),
        "/audio/transcriptions": Transcription()}


def api_of(path):
    path = path.split("?")[0]
    return next(api for end, api in APIS.items() if path.endswith(end))
