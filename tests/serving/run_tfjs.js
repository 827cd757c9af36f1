// Computes functions of an export: node run_tfjs.js CLIENT FOLDER CALLS.json
// CALLS.json is a list of {function, inputs: {name: {dtype, shape, values}}}; it prints a list of
// {name: {shape, values}}.
'use strict';
const fs = require('fs');
const tf = require('@tensorflow/tfjs-core');

async function main(client, folder, calls) {
  const {functions} = await require(client).load(folder);
  const results = [];
  for (const {function: name, inputs} of JSON.parse(fs.readFileSync(calls, 'utf8'))) {
    const tensors = Object.entries(inputs).map(
        ([key, {dtype, shape, values}]) => [key, tf.tensor(values, shape, dtype)]);
    const outputs = await functions[name](Object.fromEntries(tensors));
    const result = {};
    for (const [key, tensor] of Object.entries(outputs)) {
      result[key] = {shape: tensor.shape, values: Array.from(await tensor.data())};
    }
    results.push(result);
  }
  console.log(JSON.stringify(results));
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error.stack);
  process.exitCode = 1;
});
