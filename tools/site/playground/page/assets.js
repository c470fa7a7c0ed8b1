// What the page loads: a script, code and weights, beside the page or in it.

const assets = JSON.parse(document.getElementById("assets").textContent); // where each lies

async function load(name) {
  const answer = await fetch(assets[name]);
  if (!answer.ok) throw new Error(`${name} did not arrive (${answer.status})`);
  return new Response(answer.body.pipeThrough(new DecompressionStream("gzip")));
}

export const bytes = async (name) => (await load(name)).arrayBuffer();
export const json = async (name) => (await load(name)).json();
