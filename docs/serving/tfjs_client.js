// Calls an export of `tfmoe export --format tfjs` with the CPU back end of TensorFlow.js.
//
//   npm install @tensorflow/tfjs-core @tensorflow/tfjs-converter @tensorflow/tfjs-backend-cpu
//   node tfjs_client.js FOLDER score SENTENCE …
//   node tfjs_client.js FOLDER generate PREFIX … [--length 20]
//   node tfjs_client.js FOLDER translate SENTENCE … [--language fr]
//
// The words of a language model are separated by white space. In a browser, `loadGraphModel` takes
// the address of a function's JSON file.
'use strict';
const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs-core');
require('@tensorflow/tfjs-backend-cpu');
const {loadGraphModel} = require('@tensorflow/tfjs-converter');

// The files of a model, as `loadGraphModel` takes them.
function artifacts(folder, name) {
  const model = JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), 'utf8'));
  const paths = model.weightsManifest.flatMap((group) => group.paths);
  const data = Buffer.concat(paths.map((file) => fs.readFileSync(path.join(folder, file))));
  return {
    ...model,
    weightSpecs: model.weightsManifest.flatMap((group) => group.weights),
    weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength),
  };
}

// An export: `{manifest, functions}`. A function takes and returns named tensors.
async function load(folder) {
  await tf.ready();
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, 'manifest.json'), 'utf8'));
  if (manifest.format !== 'tfjs') {
    throw new Error(`${folder} must be of the format tfjs, got ${manifest.format}`);
  }
  const functions = {};
  for (const name of Object.keys(manifest.signatures)) {
    const content = artifacts(folder, name);
    const hasLoop = content.modelTopology.node.some(({op}) => /While$/.test(op));
    const model = await loadGraphModel({load: async () => content});
    functions[name] = (inputs) => (hasLoop ? model.predictAsync(inputs) : model.predict(inputs));
  }
  return {manifest, functions, file: path.join(folder, manifest.vocabulary.file)};
}

const integers = (values, shape) => tf.tensor(Int32Array.from(values), shape, 'int32');

// Lists of ids as one tensor [B, S], padded at the end with 0.
function padded(sentences) {
  const width = Math.max(0, ...sentences.map((ids) => ids.length));
  const rows = sentences.flatMap((ids) => [...ids, ...Array(width - ids.length).fill(0)]);
  return integers(rows, [sentences.length, width]);
}

// The states before the first of a number of steps: zeros.
function firstStates(manifest, rows, steps) {
  return Object.fromEntries(manifest.states.map(({input, shape, dtype}) => {
    const sizes = shape.slice(1).map((size) => (size === null ? steps : size));
    return [input, tf.zeros([rows, ...sizes], dtype)];
  }));
}

// The states that a step returned, as inputs of the next step.
const nextStates = (manifest, outputs) =>
  Object.fromEntries(manifest.states.map(({input, output}) => [input, outputs[output]]));

function readWords(file, {unknown}) {
  const words = fs.readFileSync(file, 'utf8').replace(/\n$/, '').split('\n');
  const ids = new Map(words.map((word, id) => [word, id]));
  const encode = (text) => text.split(/\s+/u).filter(Boolean)
      .map((word) => Math.max(ids.has(word) ? ids.get(word) : unknown, unknown));
  return {words, encode};
}

// The log-probability and the number of predictions of each sentence.
async function score({manifest, functions, file}, sentences) {
  const {encode} = readWords(file, manifest.vocabulary);
  const outputs = await functions.score({ids: padded(sentences.map(encode))});
  const [sums, counts] = [await outputs.log_probability.data(), await outputs.token_count.data()];
  return sentences.map((_, row) => `${sums[row].toFixed(6)} ${counts[row]}`);
}

// Continues a sentence by up to `length` words, each the most probable one.
async function generate({manifest, functions, file}, prefix, length) {
  const {words, encode} = readWords(file, manifest.vocabulary);
  const ids = [manifest.vocabulary.start, ...encode(prefix)];
  const written = [], last = ids.length + length - 1;
  let states = firstStates(manifest, 1, manifest.max_length);
  for (let position = 0; position < last; position++) {
    const inputs = {
      ids: integers([ids[position]], [1]), positions: integers([position], [1]), ...states,
    };
    const outputs = await functions.step(inputs), logits = await outputs.logits.data();
    states = nextStates(manifest, outputs);
    tf.dispose([inputs, outputs.logits]);
    if (position < ids.length - 1) continue;
    manifest.never_generated.forEach((id) => { logits[id] = -Infinity; });
    const best = logits.indexOf(Math.max(...logits));
    if (best === manifest.vocabulary.end) break;
    ids.push(best);
    written.push(words[best]);
  }
  return written.join(' ');
}

// The pieces of a SentencePiece model, `{text, score, type}`. It is a protocol buffer: field 1 is a
// piece, with its text in field 1, its score in 2 and its type in 3.
function readPieces(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  function fields(end, handle) {
    while (at < end) {
      const key = varint(), field = Math.floor(key / 8), kind = key % 8;
      const size = kind === 2 ? varint() : kind === 5 ? 4 : kind === 1 ? 8 : 0;
      const value = kind === 0 ? varint() : undefined, next = at + size;
      handle(field, value, next);
      at = next;
    }
  }
  const pieces = [];
  fields(bytes.length, (field, _, end) => {
    if (field !== 1) return;
    const piece = {type: 1};
    fields(end, (inner, value, next) => {
      if (inner === 1) piece.text = bytes.toString('utf8', at, next);
      if (inner === 2) piece.score = bytes.readFloatLE(at);
      if (inner === 3) piece.type = value;
    });
    pieces.push(piece);
  });
  return pieces;
}

const NORMAL = 1, SPACE = '\u2581', UNKNOWN_PENALTY = 10;

function subwords(file, {unknown}) {
  const pieces = readPieces(fs.readFileSync(file));
  const normal = pieces.map((piece, id) => ({...piece, id})).filter((p) => p.type === NORMAL);
  const byText = new Map(normal.map((piece) => [piece.text, piece]));
  const longest = Math.max(...normal.map((piece) => [...piece.text].length));
  const lowest = Math.min(...normal.map((piece) => piece.score)) - UNKNOWN_PENALTY;

  // The most probable pieces of a text.
  function encode(text) {
    const spaced = text.split(/[ \u2581]/).filter(Boolean).map((word) => SPACE + word).join('');
    const characters = [...spaced], best = [{score: 0}];
    for (let end = 1; end <= characters.length; end++) {
      best[end] = {score: best[end - 1].score + lowest, id: unknown, start: end - 1};
      for (let start = Math.max(0, end - longest); start < end; start++) {
        const piece = byText.get(characters.slice(start, end).join(''));
        if (!piece || best[start].score + piece.score <= best[end].score) continue;
        best[end] = {score: best[start].score + piece.score, id: piece.id, start};
      }
    }
    const ids = [];
    for (let end = characters.length; end > 0; end = best[end].start) {
      if (best[end].id !== unknown || ids[0] !== unknown) ids.unshift(best[end].id);
    }
    return ids;
  }

  const textOf = (id) =>
    id === unknown ? '\u2047' : pieces[id].type === NORMAL ? pieces[id].text : '';
  const decode = (ids) => ids.map(textOf).join('').replaceAll(SPACE, ' ').replace(/^ /, '');
  return {encode, decode};
}

// The most probable subword at each step, for all sentences at once.
async function translate({manifest, functions, file}, sentences, language) {
  const {start, end, languages} = manifest.vocabulary, {encode, decode} = subwords(
      file, manifest.vocabulary);
  const names = Object.keys(languages);
  if (names.length && !(language in languages)) {
    throw new Error(`--language must be one of ${names.join(', ')}, got '${language}'`);
  }
  const first = names.length ? [languages[language]] : [];
  const sources = sentences.map((sentence) => [...first, ...encode(sentence)]);
  const source = padded(sources);
  if (!source.size) return sentences.map(() => '');
  const memories = await functions.encode({source});
  const limits = sources.map((ids) => 2 * ids.length + 10);
  const written = sentences.map(() => []), isOpen = sentences.map(() => true);
  let states = firstStates(manifest, sentences.length, Math.max(...limits));
  let ids = sentences.map(() => start);
  while (isOpen.some(Boolean)) {
    const inputs = {ids: integers(ids, [ids.length]), ...states};
    const outputs = await functions.decode_step({...inputs, ...memories});
    const best = await tf.tidy(() => tf.argMax(outputs.log_probabilities, 1)).data();
    states = nextStates(manifest, outputs);
    tf.dispose([inputs, outputs.log_probabilities, outputs.attention]);
    ids = ids.map((_, row) => (isOpen[row] ? best[row] : end));
    ids.forEach((id, row) => {
      if (isOpen[row] && id !== end) written[row].push(id);
      isOpen[row] &&= id !== end && written[row].length < limits[row];
    });
  }
  return written.map((row, index) => (sentences[index].trim() ? decode(row) : ''));
}

async function main(args) {
  const options = {'--length': '20'}, words = [];
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--length' || args[i] === '--language') options[args[i]] = args[++i];
    else words.push(args[i]);
  }
  const [folder, name, ...sentences] = words;
  if (!sentences.length || !['score', 'generate', 'translate'].includes(name)) {
    throw new Error('usage: node tfjs_client.js FOLDER score|generate|translate SENTENCE …');
  }
  const model = await load(folder);
  const needed = {score: 'score', generate: 'step', translate: 'encode'}[name];
  if (!(needed in model.functions)) {
    const known = Object.keys(model.functions).join(', ');
    throw new Error(`${folder} has no function ${needed}, only ${known}: another model`);
  }
  if (name === 'score') return score(model, sentences);
  if (name === 'translate') return translate(model, sentences, options['--language']);
  const lines = [];
  for (const prefix of sentences) {
    lines.push(await generate(model, prefix, Number(options['--length'])));
  }
  return lines;
}

if (require.main === module) {
  main(process.argv.slice(2)).then(
      (lines) => console.log(lines.join('\n')),
      (error) => { console.error(error.message); process.exitCode = 1; });
}
module.exports = {load, score, generate, translate, subwords};
