// What Vercel's AI SDK (ai and @ai-sdk/openai-compatible) makes of the API, as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText } from "ai";

const [url, model, question] = process.argv.slice(2);
const server = createOpenAICompatible({ name: "llm-serve", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
const asked = { model: server(model), prompt: question, temperature: 0, maxRetries: 0 };
const found = {};

const whole = await generateText(asked);
found.answer = whole.text;
found.finish = whole.finishReason;

found.streamed = "";
for await (const piece of streamText(asked).textStream) found.streamed += piece;

const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, people: { type: "integer" } },
  required: ["city", "people"],
  additionalProperties: false,
});
const made = await generateText({ ...asked, maxOutputTokens: 100, output: Output.object({ schema }) });
const city = made.output;
found.schema = { city: typeof city.city === "string" ? "str" : "?", people: Number.isInteger(city.people) ? "int" : "?" };

try {
  await generateText({ ...asked, model: server("nobody/nothing") });
} catch (error) {
  const code = JSON.parse(error.responseBody).error.code;
  found.unknown_model = [error.statusCode === 404 ? "NotFoundError" : String(error), code];
}
console.log(JSON.stringify(found));
