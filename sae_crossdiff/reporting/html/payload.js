// The packed data (see packing.py): gzip of [length, JSON header, typed arrays].
const KINDS = { Float32Array, Int32Array, Uint8Array };

async function unpack(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const columns = {};
  for (const [name, [kind, offset, size]] of Object.entries(data.arrays)) {
    columns[name] = new KINDS[kind](buffer, 4 + length + offset, size);
  }
  return { ...data, columns, n: columns.delta.length };
}
