// The vendors' own SDKs for Node, and Vercel's AI SDK over both dialects.

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [url, keyed, crowded, key, slow, spent] = process.argv.slice(2);
const LONG = "Hello, ".repeat(100);
const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const TOOL = { type: "function", function: { name: "get_weather", description: "", parameters: WEATHER } };

// Whoever died has come back, as far as the gateway knows.
async function recovered() {
  for (;;) {
    const { neurons } = await (await fetch(`${url}/fleet`)).json();
    if (neurons.every((neuron) => neuron.state !== "away")) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function tell(scenario, play) {
  await recovered();
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

const twice = async (play) => [await play(), await play()];

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
await tell("openai_slow", () => twice(() => chat(asked("Hello"), openai(keyed, slow))));
await tell("openai_spent", () => twice(() => chat(asked("Hello"), openai(keyed, spent))));
await tell("openai_full", () => chat(asked("Hello", "full"), openai(crowded)));
await tell("openai_death", () => streamed(asked("Hello", "doomed")));
await tell("openai_cold", () => chat(asked("Hello", "cold")));
await tell("openai_models", async () => (await openai().models.list()).data.map((model) => model.id).sort());

// -- openai, Responses

const RESPONSE_TOOL = { type: "function", name: "get_weather", parameters: WEATHER, strict: false };

await tell("responses_plain", async () => (await openai().responses.create({ model: "m", input: "Hello" })).output_text);
await tell("responses_stream", async () => (await openai().responses.stream({ model: "m", input: "Hello" }).finalResponse()).output_text);
await tell("responses_parsed", async () => {
  const format = { type: "json_schema", name: "weather", schema: WEATHER, strict: true };
  return (await openai().responses.parse({ model: "m", input: "Hello", text: { format } })).output_parsed;
});
await tell("responses_tool", async () => {
  const input = [{ role: "user", content: "CALL it" }];
  const first = await openai().responses.stream({ model: "m", input, tools: [RESPONSE_TOOL] }).finalResponse();
  const call = first.output.find((item) => item.type === "function_call");
  input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: "rain" });
  return [call.arguments, (await openai().responses.create({ model: "m", input, tools: [RESPONSE_TOOL] })).output_text];
});
await tell("responses_long", () => openai().responses.create({ model: "small", input: LONG }));
await tell("responses_death", async () => (await openai().responses.stream({ model: "doomed", input: "Hello" }).finalResponse()).output_text);

await tell("embeddings", async () => {
  const ask = async (more) => (await openai().embeddings.create({ model: "vector", input: ["Hello", "there"], ...more })).data.map((row) => row.embedding);
  const [own, numbers] = [await ask({}), await ask({ encoding_format: "float" })];
  const same = own.flat().every((number, at) => number === Math.fround(numbers.flat()[at]));
  return [own.map((vector) => vector.length), same];
});

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
await tell("anthropic_slow", () => twice(async () => (await anthropic(keyed, slow).messages.create(message("Hello"))).content[0].text));
await tell("anthropic_spent", () => anthropic(keyed, spent).messages.create(message("Hello")));
await tell("anthropic_full", async () => (await anthropic(crowded).messages.create(message("Hello", "full2"))).content[0].text);
await tell("anthropic_death", () => anthropic().messages.stream(message("Hello", "doomed")).finalMessage());
await tell("anthropic_cold", async () => (await anthropic().messages.create(message("Hello", "cold"))).content[0].text);
await tell("anthropic_runner", async () => {
  const run = ({ city }) => `rain in ${city}`;
  const tools = [{ ...MESSAGE_TOOL, type: "custom", run, parse: (given) => given }];
  return (await anthropic().beta.messages.toolRunner({ ...message("CALL it"), tools })).content[0].text;
});
await tell("anthropic_count", async () => (await anthropic().messages.countTokens(asked("Hello"))).input_tokens);

// -- AI SDK

const ways = {
  compatible: (base, apiKey) => createOpenAICompatible({ name: "cortex", baseURL: `${base}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  openai: (base, apiKey) => (model) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).chat(model),
  responses: (base, apiKey) => (model) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).responses(model),
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
    // Nothing is kept here that it could refer to, as it would otherwise.
    const providerOptions = { openai: { store: false } };
    const answer = streamText({ model: model(), prompt: "CALL it", tools: { get_weather: weather }, stopWhen: stepCountIs(3), providerOptions });
    await answer.consumeStream();
    return [(await answer.steps)[0].toolCalls[0].input, await answer.text];
  });
  await tell(`ai_${way}_object`, async () => (await generateObject({ model: model(), prompt: "Hello", schema: z.object({ city: z.string(), degrees: z.number().int() }) })).object);
  await tell(`ai_${way}_keyed`, () => text("m", keyed, key));
  await tell(`ai_${way}_unauthorized`, () => text("m", keyed, "wrong"));
  await tell(`ai_${way}_unknown`, () => text("nobody"));
  await tell(`ai_${way}_long`, async () => (await generateText({ model: model("small"), prompt: LONG })).text);
  await tell(`ai_${way}_death`, () => parts("doomed", "Hello"));
  await tell(`ai_${way}_cold`, () => text("cold"));
}
const patient = async (base, apiKey, name = "m") => (await generateText({ model: ways.compatible(base, apiKey)(name), prompt: "Hello" })).text;
await tell("ai_embeddings", async () => {
  const model = createOpenAICompatible({ name: "cortex", baseURL: `${url}/v1`, apiKey: "none" }).textEmbeddingModel("vector");
  return (await embedMany({ model, values: ["Hello", "there"] })).embeddings.map((vector) => vector.length);
});
await tell("ai_slow", () => twice(() => patient(keyed, slow)));
await tell("ai_spent", () => patient(keyed, spent));
await tell("ai_full", () => patient(crowded, "none", "full3"));
