// A conversation from JavaScript: tools, a picture, a cancel, an error. Usage: node chat.js TARGET
// Prints what it saw as one JSON object; the test reads it.
"use strict";
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const root = path.join(__dirname, "../../proto");
const definition = loader.loadSync("talkwire/v1/chat.proto", {
  includeDirs: [root], keepCase: true, longs: Number, enums: String, defaults: false, oneofs: true,
});
const { ChatService } = grpc.loadPackageDefinition(definition).talkwire.v1;
const client = new ChatService(process.argv[2], grpc.credentials.createInsecure());

const chat = (request) => new Promise((resolve, reject) => {
  client.Chat(request, (error, answer) => (error ? reject(error) : resolve(answer)));
});

async function tools() {
  const request = {
    messages: [{ text: 'weather({"city": "Paris"})' }],
    tools: [{ function: { name: "weather", parameters: '{"type": "object"}' } }],
  };
  const asked = await chat(request);
  const [call] = asked.message.tool_calls;
  const { city } = JSON.parse(call.arguments);
  request.messages.push(asked.message);
  request.messages.push({ role: "ROLE_TOOL", tool_call_id: call.id, text: `sunny in ${city}` });
  const told = await chat(request);
  return { finish_reason: asked.finish_reason, name: call.name, answer: told.message.text };
}

async function picture() {
  const data = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC", "base64");
  const answer = await chat({ messages: [{ parts: [{ text: "See:" }, { image: { data, mime_type: "image/png" } }] }] });
  return { text: answer.message.text, media_tokens: answer.usage.media_tokens, bytes: data.length };
}

function cancelled() {
  return new Promise((resolve) => {
    const stream = client.ChatStream({ query: "word ".repeat(2000) });
    let read = 0;
    stream.on("data", () => { if (++read === 3) stream.cancel(); });
    stream.on("error", (error) => resolve({ code: error.code, read }));
  });
}

function refused() {
  return chat({ query: "", sampling: { temperature: -1 } }).then(
    () => null,
    (error) => ({ code: error.code, details: error.details, rich: error.metadata.get("grpc-status-details-bin").length }),
  );
}

async function main() {
  const seen = { tools: await tools(), picture: await picture(), cancelled: await cancelled(), refused: await refused() };
  process.stdout.write(`${JSON.stringify(seen)}\n`);
  client.close();
}

main();
