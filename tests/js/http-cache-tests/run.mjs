// Runs http-cache-tests against the proxy at this URL, and writes what came of each test as JSON:
// {id: [kind, true or why not]}. A second argument runs the test with this id alone, and shows its messages.
import fetch from 'node-fetch'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

const [url, only] = process.argv.slice(2)
const kinds = {}
for (const suite of suites) {
  suite.tests = suite.tests.filter(test => !only || test.id === only)
  for (const test of suite.tests) {
    kinds[test.id] = test.kind ?? 'required'
    test.dump = Boolean(only)
  }
}
await runTests(suites, fetch, false, url)
const results = Object.entries(getResults())
console.log(JSON.stringify(Object.fromEntries(results.map(([id, result]) => [id, [kinds[id], result]]))))
