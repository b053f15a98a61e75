// What the npm package openai makes of the API, as JSON.
import OpenAI from "openai";

const [url, model, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const asked = { model, messages: [{ role: "user", content: question }], temperature: 0 };
const found = {};

found.models = [];
for await (const each of client.models.list()) found.models.push(each.id);

const whole = await client.chat.completions.create(asked);
found.answer = whole.choices[0].message.content;
found.finish = whole.choices[0].finish_reason;

let text = "";
let usage = null;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
found.streamed = text;
found.stream_usage = usage.total_tokens === whole.usage.total_tokens;

const short = await client.chat.completions.create({ ...asked, max_tokens: 3 });
found.cut = [short.choices[0].finish_reason, short.usage.completion_tokens];
const stopped = await client.chat.completions.create({ ...asked, stop: ["France"] });
found.stopped = stopped.choices[0].message.content;

const schema = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, people: { type: "integer" } },
  required: ["city", "people"],
  additionalProperties: false,
};
const format = { type: "json_schema", json_schema: { name: "city", schema, strict: true } };
const made = await client.chat.completions.create({ ...asked, max_tokens: 100, response_format: format });
const city = JSON.parse(made.choices[0].message.content);
found.schema = { city: typeof city.city === "string" ? "str" : "?", people: Number.isInteger(city.people) ? "int" : "?" };

try {
  await client.chat.completions.create({ ...asked, model: "nobody/nothing" });
} catch (error) {
  found.unknown_model = [error instanceof OpenAI.NotFoundError ? "NotFoundError" : String(error), error.code];
}
console.log(JSON.stringify(found));
