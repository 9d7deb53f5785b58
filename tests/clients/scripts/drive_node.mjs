// The vendors' own SDKs for Node, and Vercel's AI SDK over both dialects.

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [url, keyed, key] = process.argv.slice(2);
const LONG = "Hello, ".repeat(100);
const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const TOOL = { type: "function", function: { name: "get_weather", description: "", parameters: WEATHER } };

async function tell(scenario, play) {
  const began = Date.now();
  let outcome;
  try {
    outcome = { said: await play() };
  } catch (error) {
    outcome = { error: error.constructor.name, text: String(error.message) };
  }
  console.log(JSON.stringify({ scenario, seconds: (Date.now() - began) / 1000, ...outcome }));
}

// -- openai

const openai = (base = url, apiKey = "none") => new OpenAI({ baseURL: `${base}/v1`, apiKey });
const asked = (content, model = "m") => ({ model, messages: [{ role: "user", content }] });

async function chat(body, client = openai()) {
  return (await client.chat.completions.create(body)).choices[0].message.content;
}

async function streamed(body) {
  let text = "";
  for await (const chunk of await openai().chat.completions.create({ ...body, stream: true })) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  return text;
}

await tell("openai_plain", () => chat(asked("Hello")));
await tell("openai_stream", () => streamed(asked("Hello")));
await tell("openai_tool", async () => {
  const results = [];
  const runner = openai().chat.completions.runTools({
    ...asked("CALL it"),
    stream: true,
    tools: [{ type: "function", function: { ...TOOL.function, parse: JSON.parse, function: ({ city }) => { results.push(city); return `rain in ${city}`; } } }],
  });
  return [results, await runner.finalContent()];
});
await tell("openai_helper", async () => (await openai().chat.completions.stream(asked("THINK")).finalChatCompletion()).choices[0].message.content);
await tell("openai_keyed", () => chat(asked("Hello"), openai(keyed, key)));
await tell("openai_unauthorized", () => chat(asked("Hello"), openai(keyed, "wrong")));
await tell("openai_unknown", () => chat(asked("Hello", "nobody")));
await tell("openai_long", () => chat(asked(LONG, "small")));
await tell("openai_models", async () => (await openai().models.list()).data.map((model) => model.id).sort());

// -- anthropic

const anthropic = (base = url, apiKey = "none") => new Anthropic({ baseURL: base, apiKey });
const message = (content, model = "m") => ({ ...asked(content, model), max_tokens: 4000 });
const MESSAGE_TOOL = { name: "get_weather", input_schema: WEATHER };

await tell("anthropic_plain", async () => (await anthropic().messages.create(message("Hello"))).content[0].text);
await tell("anthropic_stream", async () => (await anthropic().messages.stream(message("THINK")).finalMessage()).content);
await tell("anthropic_tool", async () => {
  const body = { ...message("CALL it"), tools: [MESSAGE_TOOL] };
  const first = await anthropic().messages.stream(body).finalMessage();
  const call = first.content.find((block) => block.type === "tool_use");
  body.messages.push({ role: "assistant", content: first.content });
  body.messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "rain" }] });
  return [call.input, first.stop_reason, (await anthropic().messages.create(body)).content[0].text];
});
await tell("anthropic_keyed", async () => (await anthropic(keyed, key).messages.create(message("Hello"))).content[0].text);
await tell("anthropic_unauthorized", () => anthropic(keyed, "wrong").messages.create(message("Hello")));
await tell("anthropic_unknown", () => anthropic().messages.create(message("Hello", "nobody")));
await tell("anthropic_long", () => anthropic().messages.create(message(LONG, "small")));
await tell("anthropic_count", async () => (await anthropic().messages.countTokens(asked("Hello"))).input_tokens);

// -- AI SDK

const ways = {
  compatible: (base, apiKey) => createOpenAICompatible({ name: "cortex", baseURL: `${base}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  openai: (base, apiKey) => (model) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).chat(model),
  anthropic: (base, apiKey) => createAnthropic({ baseURL: `${base}/v1`, apiKey }),
};
const weather = tool({ description: "", inputSchema: z.object({ city: z.string() }), execute: ({ city }) => `rain in ${city}` });

for (const [way, provider] of Object.entries(ways)) {
  const model = (name = "m", base = url, apiKey = "none") => provider(base, apiKey)(name);
  const text = async (...given) => (await generateText({ model: model(...given), prompt: "Hello", maxRetries: 0 })).text;
  const parts = async (name, prompt) => {
    const kinds = [];
    let said = "";
    for await (const part of streamText({ model: model(name), prompt, maxRetries: 0, onError: () => {} }).fullStream) {
      kinds.push(part.type === "error" ? `error: ${part.error.message ?? JSON.stringify(part.error)}` : part.type);
      said += part.type === "text-delta" ? part.text : "";
    }
    return [said, kinds.filter((kind) => /error|finish$|reasoning-end/.test(kind))];
  };
  await tell(`ai_${way}_plain`, () => text());
  await tell(`ai_${way}_stream`, () => parts("m", "Hello"));
  await tell(`ai_${way}_think`, () => parts("m", "THINK"));
  await tell(`ai_${way}_tool`, async () => {
    const answer = streamText({ model: model(), prompt: "CALL it", tools: { get_weather: weather }, stopWhen: stepCountIs(3) });
    await answer.consumeStream();
    return [(await answer.steps)[0].toolCalls[0].input, await answer.text];
  });
  await tell(`ai_${way}_object`, async () => (await generateObject({ model: model(), prompt: "Hello", schema: z.object({ city: z.string(), degrees: z.number().int() }) })).object);
  await tell(`ai_${way}_keyed`, () => text("m", keyed, key));
  await tell(`ai_${way}_unauthorized`, () => text("m", keyed, "wrong"));
  await tell(`ai_${way}_unknown`, () => text("nobody"));
}
await tell("ai_death", async () => {
  const kinds = [];
  const model = ways.compatible(url, "none")("mortal");
  for await (const part of streamText({ model, prompt: "Hello", maxRetries: 0, onError: () => {} }).fullStream) kinds.push(part.type);
  return kinds.filter((kind) => kind === "error" || kind === "finish");
});
await tell("openai_cold", () => chat(asked("Hello", "cold")));
