// Speaks to a server of ours through OpenAI's own client (npm openai, 6.49.0), unchanged.
//
// node openai_client.cjs http://127.0.0.1:8080/v1 image.png mask.png     (token: secret)

const assert = require("node:assert");
const fs = require("node:fs");
// From where node finds packages of the folder in which it was started, or of NODE_PATH.
const { default: OpenAI, toFile } = require("openai");

const [url, image, mask] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "secret", maxRetries: 0 });
const file = (path) => toFile(fs.createReadStream(path), "picture.png", { type: "image/png" });
const isPng = (b64) => Buffer.from(b64, "base64").subarray(0, 4).toString("latin1") === "\x89PNG";

async function refused(kind, call) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof kind, `${error}`);
    return error;
  }
  assert.fail(`no ${kind.name}`);
}

async function main() {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepStrictEqual(models, ["tiny"]);

  const made = await client.images.generate({ prompt: "a big red circle on a gray background", n: 2, seed: 3, num_steps: 4 });
  assert.strictEqual(made.data.length, 2);
  assert(made.data.every((one) => isPng(one.b64_json)));

  // The pictures stand before the words in the form.
  const edit = { image: await file(image), mask: await file(mask), task: "recolor", seed: 5, prompt: "make the circle green" };
  const { data: edited, response } = await client.images.edit(edit).withResponse();
  assert.strictEqual(response.headers.get("x-ace-mask"), "alpha");
  assert(isPng(edited.data[0].b64_json));

  const both = await client.images.edit({ image: [await file(image), await file(image)], prompt: "the item", num_steps: 2, loras: ["subject"] });
  assert(isPng(both.data[0].b64_json));

  const kinds = [];
  const stream = await client.images.edit({ image: await file(image), mask: await file(mask), prompt: "make the circle green", stream: true, partial_images: 2 });
  for await (const event of stream) kinds.push(event.type);
  assert.deepStrictEqual(kinds, ["image_edit.partial_image", "image_edit.partial_image", "image_edit.completed"]);

  const bad = await refused(OpenAI.BadRequestError, () => client.images.generate({ prompt: " " }));
  assert.strictEqual(bad.param, "prompt");
  const missing = await refused(OpenAI.NotFoundError, () => client.images.generate({ prompt: "p", model: "other" }));
  assert.strictEqual(missing.code, "model_not_found");
  const stranger = new OpenAI({ baseURL: url, apiKey: "wrong", maxRetries: 0 });
  await refused(OpenAI.AuthenticationError, () => stranger.models.list());
  console.log("all is well");
}

main();
