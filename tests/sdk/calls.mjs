// Calls through unmodified client libraries for Node; `calls.py` states the arguments, the input and the output.
//
// usage: calls.mjs CLIENT URL, in a folder with the libraries in `node_modules`

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const [name, url] = process.argv.slice(2);
const messages = [{ role: "user", content: "say hello" }];
const apiKey = "the-applications-own";

async function openai() {
  const { OpenAI } = await load("openai");
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
  const request = { model: "gpt-4o", messages };
  return {
    isOwn: (error) => error instanceof OpenAI.OpenAIError,
    async *ordinary() {
      yield (await client.chat.completions.create(request)).choices[0].message.content;
    },
    async *streamed() {
      const stream = await client.chat.completions.create({ ...request, stream: true });
      for await (const chunk of stream) yield chunk.choices[0].delta.content;
    },
  };
}

async function vercel(api) {
  const { APICallError, AISDKError, generateText, streamText } = await load("ai");
  const { createOpenAI } = await load("@ai-sdk/openai");
  const request = { model: createOpenAI({ baseURL: `${url}/v1`, apiKey })[api]("gpt-4o"), messages, maxRetries: 0 };
  return {
    // An event with an error is passed on as it is.
    isOwn: (error) => AISDKError.isInstance(error) || APICallError.isInstance(error) || !(error instanceof Error),
    async *ordinary() {
      yield (await generateText(request)).text;
    },
    async *streamed() {
      for await (const part of streamText({ ...request, onError() {} }).fullStream) {
        if (part.type === "text-delta") yield part.text;
        if (part.type === "error") throw part.error;
      }
    },
  };
}

const clients = { "openai-node": openai, "ai-chat": () => vercel("chat"), "ai-responses": () => vercel("responses") };
const client = await clients[name]();
for await (const line of createInterface({ input: process.stdin })) {
  const result = { text: "", error: null, is_own: false };
  try {
    for await (const piece of client[line.trim()]()) result.text += piece ?? "";
  } catch (error) {
    result.error = `${error?.constructor?.name}: ${error?.message ?? JSON.stringify(error)}`.slice(0, 300);
    result.is_own = client.isOwn(error);
  }
  console.log(JSON.stringify(result));
}
