// Pictures as files, as text and as pixels.

/** A `data:` URL of a blob. */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The blob of a `data:` URL, by hand: fetching one is not allowed to this page. */
export function fromDataUrl(url) {
  const [head, body] = url.slice(5).split(",");
  const bytes = Uint8Array.from(atob(body), letter => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.split(";")[0] });
}

const SIGNS = [["image/png", [0x89, 0x50, 0x4e, 0x47]], ["image/jpeg", [0xff, 0xd8, 0xff]]];

/** What a file is, by its first bytes. */
async function kind(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  return SIGNS.find(([, sign]) => sign.every((byte, at) => bytes[at] === byte))?.[0] ?? "";
}

function canvasOf(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}

const encoded = (canvas, type = "image/png") => new Promise(resolve => canvas.toBlob(resolve, type, 0.85));

/**
 * Reads a picture: `{blob, width, height, scaledFrom}`. PNG and JPEG stay the bytes they are, everything else becomes a
 * PNG; what has more than `most` pixels is made smaller. Null if the browser cannot read it.
 */
export async function readPicture(file, most = Infinity) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return null;
  let { width, height } = bitmap;
  const type = await kind(file);
  const share = Math.sqrt(most / (width * height));
  if (type && share >= 1) return { blob: new Blob([file], { type }), width, height };
  const scaledFrom = share < 1 ? [width, height] : undefined;
  if (scaledFrom) [width, height] = [width, height].map(side => Math.max(1, Math.floor(side * share)));
  const [canvas, context] = canvasOf(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return { blob: await encoded(canvas), width, height, scaledFrom };
}

/** A picture's bytes, red, green, blue and opacity. */
export async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const [, context] = canvasOf(bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** A small copy for the strip of turns; null where the picture is small itself. */
export async function thumb(blob, width, height, side = 160) {
  const share = side / Math.max(width, height);
  if (share >= 1) return null;
  const bitmap = await createImageBitmap(blob, {
    resizeWidth: Math.max(1, Math.round(width * share)), resizeHeight: Math.max(1, Math.round(height * share)), resizeQuality: "high",
  });
  const [canvas, context] = canvasOf(bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return encoded(canvas, "image/webp");
}

/** A mask as a PNG, white where it is painted. */
export async function maskUrl(data, width, height) {
  const [canvas, context] = canvasOf(width, height);
  const image = context.createImageData(width, height);
  for (let at = 0; at < data.length; at++) image.data.set([data[at], data[at], data[at], 255], at * 4);
  context.putImageData(image, 0, 0);
  return dataUrl(await encoded(canvas));
}

/** A mask out of a picture: 255 where it is light. */
export async function maskOf(url, width, height) {
  const pixels = await pixelsOf(fromDataUrl(url));
  const data = new Uint8Array(width * height);
  for (let at = 0; at < data.length; at++) data[at] = pixels[at * 4] > 127 ? 255 : 0;
  return data;
}

/** Whether two files are the same, byte by byte. */
export async function isSame(one, other) {
  if (one.size !== other.size) return false;
  const [a, b] = (await Promise.all([one.arrayBuffer(), other.arrayBuffer()])).map(buffer => new Uint8Array(buffer));
  return a.every((byte, at) => byte === b[at]);
}
