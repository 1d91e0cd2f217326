// Reads a JSON array of PromQL expressions, and prints a JSON array with the problem of each: null for one that parses.
import { readFileSync } from 'node:fs';
import { parser } from '@prometheus-io/lezer-promql';

const strict = parser.configure({ strict: true });
const problem = expression => {
  try {
    strict.parse(expression);
    return null;
  } catch (error) {
    return error.message;
  }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(problem)));
