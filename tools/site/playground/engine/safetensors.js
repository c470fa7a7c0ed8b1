// Files of tensors: the header's length in 8 bytes, a JSON header of names, types, shapes and places, and the numbers.

const READERS = {
  F32: [4, (bytes) => new Float32Array(bytes)],
  F16: [2, (bytes) => Float32Array.from(new Uint16Array(bytes), fromHalf)],
  BF16: [2, (bytes) => new Float32Array(Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer)],
};

// Of each tensor in `buffer`, by name, its shape and its numbers in fp32. Throws an Error that says what is wrong.
export function readSafetensors(buffer) {
  const [header, start] = headerOf(buffer);
  const tensors = new Map();
  for (const [name, about] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: [from, to] = [] } = about ?? {};
    if (!READERS[dtype])
      throw new Error(`${name} holds numbers of the type ${dtype}; the page reads ${Object.keys(READERS).join(", ")}`);
    const [size, read] = READERS[dtype];
    const bytes = size * shape.reduce((product, length) => product * length, 1);
    if (!(from >= 0) || to - from !== bytes || start + to > buffer.byteLength)
      throw new Error(`${name} should take ${bytes} bytes and does not: the file is cut short or damaged`);
    tensors.set(name, { shape, values: read(buffer.slice(start + from, start + to)) });
  }
  return tensors;
}

function headerOf(buffer) {
  const length = buffer.byteLength < 8 ? NaN : Number(new DataView(buffer).getBigUint64(0, true));
  if (!(length <= buffer.byteLength - 8)) throw new Error("this is no safetensors file, or it is cut short");
  try {
    return [JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length))), 8 + length];
  } catch {
    throw new Error("this is no safetensors file: its header is no JSON");
  }
}

// `tensors` is a list of [name, shape, Float32Array].
export function writeSafetensors(tensors) {
  let end = 0;
  const header = { __metadata__: { format: "pt" } };
  for (const [name, shape, values] of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [end, end + values.byteLength] };
    end += values.byteLength;
  }
  const text = JSON.stringify(header);
  const encoded = new TextEncoder().encode(text.padEnd(8 * Math.ceil(text.length / 8))); // names are ASCII
  const file = new Uint8Array(8 + encoded.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(encoded.length), true);
  file.set(encoded, 8);
  let at = 8 + encoded.length;
  for (const [, , values] of tensors) {
    file.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
    at += values.byteLength;
  }
  return file;
}

const [BITS, FLOAT] = (() => {
  const bits = new Uint32Array(1);
  return [bits, new Float32Array(bits.buffer)];
})();

function fromHalf(half) {
  const [sign, exponent, fraction] = [half & 0x8000, (half >> 10) & 31, half & 1023];
  if (exponent === 0) return (sign ? -1 : 1) * fraction * 2 ** -24;
  BITS[0] = (sign << 16) | ((exponent === 31 ? 255 : exponent + 112) << 23) | (fraction << 13);
  return FLOAT[0];
}
