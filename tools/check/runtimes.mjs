// Runs the JavaScript tests on every supported runtime, each installed from npm:
//
//   npm run test:runtimes [-- RUNTIME…]      node@20 node@22 node@24 node@26 bun deno
//
// Node runs all tests, on each back end. Bun runs the data path, and tests that check received descriptors with Node's modules. Deno's node:fs
// and node:net accept no foreign descriptors, so Deno runs only the tests of the data path that use the package alone.
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { installRuntime } from './install.mjs'
import { root, run, sum } from '../run.mjs'

const installed = join(root, 'node_modules', '.fdpass', 'runtimes')
const ava = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs')

const specs = (...names) => names.map((name) => `build/__test__/${name}.spec.js`)
const everything = []

// ava ends with v8.takeCoverage(), which Bun and Deno lack.
const preload = join(installed, 'no-coverage.mjs')

const runtimes = {
  'node@20': { bin: 'node', args: [], backends: ['uv', 'thread'], files: everything },
  'node@22': { bin: 'node', args: [], backends: ['uv', 'thread'], files: everything },
  'node@24': { bin: 'node', args: [], backends: ['uv', 'thread'], files: everything },
  'node@26': { bin: 'node', args: [], backends: ['uv', 'thread'], files: everything },
  bun: {
    bin: 'bun',
    args: ['--bun', '--preload', preload],
    backends: ['thread'],
    files: specs(
      'native/data-path',
      'base/abort',
      'socket/transfer',
      'socket/transfer-to-processes',
      'socket/streams',
      'socket/boundaries',
      'socket/control-messages',
      'socket/frames',
      'socket/iteration',
      'socket/received-ahead',
      'socket/end-of-connection',
      'socket/close',
      'socket/order',
      'event-loop/keep-alive'
    )
  },
  deno: {
    bin: 'deno',
    args: ['run', '--allow-all', '--preload', preload],
    backends: ['thread'],
    files: specs('native/data-path')
  }
}

if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)
mkdirSync(installed, { recursive: true })
writeFileSync(preload, "import v8 from 'node:v8'\nv8.takeCoverage = () => {}\n")

const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(runtimes)
let passed = 0
let failed = 0
for (const name of chosen) {
  const runtime = runtimes[name]
  if (runtime === undefined) throw new Error(`Unknown runtime ${name}; known: ${Object.keys(runtimes).join(' ')}`)
  const executable = installRuntime(name, runtime.bin)
  const version = spawnSync(executable, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0]
  for (const backend of runtime.backends) {
    const { code, output } = await run(executable, [...runtime.args, ava, '--tap', ...runtime.files], {
      env: { FDPASS_BACKEND: backend },
      show: false
    })
    const [pass, fail] = [sum(output, /^# pass (\d+)$/gm), sum(output, /^# fail (\d+)$/gm)]
    const skipped = sum(output, /^# skip (\d+)$/gm)
    passed += pass
    failed += code !== 0 && fail === 0 ? 1 : fail
    console.log(
      `${name} (${version}), back end ${backend}: ${pass} passed, ${fail} failed, ${skipped} skipped, exit ${code}`
    )
    if (code !== 0)
      console.log(
        output
          .split('\n')
          .filter((line) => !line.startsWith('ok '))
          .join('\n')
      )
  }
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
