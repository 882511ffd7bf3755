// Runs the JavaScript tests on every supported runtime, each installed from npm:
//
//   npm run test:runtimes [-- RUNTIME…]      node@20 node@22 node@24 node@26 bun deno
//   npm run test:runtimes -- examples [RUNTIME…]   runs the examples of README and the guides only
//   npm run test:runtimes -- casts           compares the table of docs/guide/runtimes.md with what Bun and Deno do; `casts --write` writes it
//
// Without a name, all of these.
// Each runtime runs the examples; where the guide says that one does not work, it must fail with ERR_UNSUPPORTED_PLATFORM.
// Node runs all tests, on each back end. Bun runs the data path, and tests that check received descriptors with Node's modules. Deno's node:fs
// and node:net accept no foreign descriptors, so Deno runs the tests of the data path that use the package alone, and those of reading and writing.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { installRuntime } from './install.mjs'
import { root, run, sum } from '../run.mjs'

const installed = join(root, 'node_modules', '.fdpass', 'runtimes')
const ava = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs')

const specs = (...names) => names.map((name) => `build/__test__/${name}.spec.js`)
const everything = []

// ava ends with v8.takeCoverage(), which Bun and Deno lack.
const preload = join(installed, 'no-coverage.mjs')

// Deno prints an uncaught error without its code.
const printCodes = join(installed, 'print-codes.mjs')

const examples = specs('package/readme')

const runtimes = {
  'node@20': { bin: 'node', args: [], avaArgs: [], backends: ['uv', 'thread'], files: everything },
  'node@22': { bin: 'node', args: [], avaArgs: [], backends: ['uv', 'thread'], files: everything },
  'node@24': { bin: 'node', args: [], avaArgs: [], backends: ['uv', 'thread'], files: everything },
  'node@26': { bin: 'node', args: [], avaArgs: [], backends: ['uv', 'thread'], files: everything },
  bun: {
    bin: 'bun',
    title: 'Bun',
    args: [],
    avaArgs: ['--bun', '--preload', preload],
    exampleArgs: [],
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
      'event-loop/keep-alive',
      'package/runtimes',
      'descriptor/reading',
      'descriptor/files-and-polling'
    )
  },
  deno: {
    bin: 'deno',
    title: 'Deno',
    args: ['run', '--allow-all'],
    avaArgs: ['--preload', preload],
    exampleArgs: ['--preload', printCodes],
    backends: ['thread'],
    files: specs('native/data-path', 'package/runtimes', 'descriptor/reading', 'descriptor/files-and-polling')
  }
}

if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: 'inherit' }).status !== 0)
  process.exit(1)
mkdirSync(installed, { recursive: true })
writeFileSync(preload, "import v8 from 'node:v8'\nv8.takeCoverage = () => {}\n")
writeFileSync(
  printCodes,
  `for (const type of ['error', 'unhandledrejection'])
  addEventListener(type, ({ error, reason }) => console.error((error ?? reason)?.code))
`
)

const CAST_TIMEOUT = 20_000

/** Runs one cast of __test__/helpers/casts.ts on a runtime, beside a sender on Node; returns the cell of the table. */
async function castOn({ executable, args }, title, send, { socketpair }) {
  const [socket, theirs] = socketpair()
  const fixture = join(root, 'build/__test__/fixtures/casts.js')
  const child = spawn(executable, [...args, fixture, 'try', title], { stdio: ['ignore', 'pipe', 'pipe', theirs.fd] })
  theirs.close()
  const timer = setTimeout(() => child.kill('SIGKILL'), CAST_TIMEOUT)
  const sending = send(socket).catch((error) => error)
  let [output, errors] = ['', '']
  child.stdout.on('data', (text) => (output += text))
  child.stderr.on('data', (text) => (errors += text))
  const [code, signal] = await once(child, 'close')
  clearTimeout(timer)
  // The sender of a cast that works ends by itself; that of another one may wait for its receiver.
  const failure = code === 0 && output === '' ? await sending : undefined
  socket.close()
  if (code !== 0 || failure !== undefined) return `fails: ${failure?.message ?? `${signal ?? code} ${errors}`}`
  return output === '' ? 'yes' : `no: ${/use .*/.exec(output)[0].replace(/\w+\(\)/g, '`$&`')}`
}

/** Returns the table of the casts by runtime, as Markdown. */
async function castTable() {
  const { casts } = await import('../../build/__test__/helpers/casts.js')
  const fdpass = await import('../../dist/index.js')
  const columns = ['bun', 'deno'].map((name) => {
    const { bin, args } = runtimes[name]
    return { executable: installRuntime(name, bin), args }
  })
  const rows = [['cast', 'of', 'Node', 'Bun', 'Deno']]
  for (const [title, { method, send }] of Object.entries(casts)) {
    const cells = []
    for (const column of columns) cells.push(await castOn(column, title, send, fdpass))
    rows.push([`\`${method}()\``, title.replace(/ as a \w+$/, ''), 'yes', ...cells])
  }
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)))
  const line = (cells) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  const [head, ...body] = rows.map(line)
  return [head, `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...body].join('\n')
}

/** Compares the table of the guide with the runtimes, or writes it; returns whether it is theirs. */
async function checkCasts(write) {
  const file = join(root, 'docs/guide/runtimes.md')
  const guide = readFileSync(file, 'utf8')
  const table = await castTable()
  const current = guide.replace(/(?<=<!-- casts -->\n)[^]*?(?=<!-- end of casts -->)/, () => `\n${table}\n\n`)
  if (write) writeFileSync(file, current)
  if (!write && guide !== current) console.log(`docs/guide/runtimes.md has another table than the runtimes:\n${table}`)
  return (write || guide === current) && !table.includes('fails: ')
}

const named = process.argv.slice(2).filter((argument) => argument !== '--write')
const names = named.filter((name) => name !== 'casts' && name !== 'examples')
const unknown = names.find((name) => !Object.hasOwn(runtimes, name))
if (unknown !== undefined) throw new Error(`Unknown runtime ${unknown}; known: ${Object.keys(runtimes).join(' ')}`)
const isExamplesOnly = named.includes('examples')
const chosen = named.length === 0 || (isExamplesOnly && names.length === 0) ? Object.keys(runtimes) : names
let passed = 0
let failed = 0

/** Runs test files with a program; reports and counts their results. */
async function runTests(title, executable, args, env = {}) {
  const { code, output } = await run(executable, args, { env, show: false })
  const [pass, fail] = [sum(output, /^# pass (\d+)$/gm), sum(output, /^# fail (\d+)$/gm)]
  const skipped = sum(output, /^# skip (\d+)$/gm)
  passed += pass
  failed += code !== 0 && fail === 0 ? 1 : fail
  console.log(`${title}: ${pass} passed, ${fail} failed, ${skipped} skipped, exit ${code}`)
  if (code === 0) return
  const lines = output.split('\n').filter((line) => !line.startsWith('ok '))
  console.log(lines.join('\n'))
}

if (named.length === 0 || named.includes('casts')) {
  const isRight = await checkCasts(process.argv.includes('--write'))
  console.log(`casts by runtime: ${isRight ? 'as' : 'not as'} in docs/guide/runtimes.md`)
  if (isRight) passed++
  else failed++
}
for (const name of chosen) {
  const { bin, title, args, avaArgs, exampleArgs, backends, files } = runtimes[name]
  const executable = installRuntime(name, bin)
  const version = spawnSync(executable, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0]
  for (const backend of isExamplesOnly ? [] : backends) {
    const env = { FDPASS_BACKEND: backend }
    await runTests(
      `${name} (${version}), back end ${backend}`,
      executable,
      [...args, ...avaArgs, ava, '--tap', ...files],
      env
    )
  }
  // On Bun and Deno, this process's Node tests the examples. The tests that Node runs include them.
  const examplesTitle = `${name} (${version}), examples`
  if (title !== undefined) {
    const words = [title, executable, ...args, ...exampleArgs]
    await runTests(examplesTitle, process.execPath, [ava, '--tap', ...examples, '--', ...words])
  } else if (isExamplesOnly) {
    await runTests(examplesTitle, executable, [ava, '--tap', ...examples])
  }
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
