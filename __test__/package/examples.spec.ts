import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import { buffer } from 'node:stream/consumers'
import { open } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { newPort } from '../helpers/inetds.ts'
import { fixturePath } from '../helpers/processes.ts'

const example = (name: string) => fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url))
const program = example('mycat')

interface Result {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

async function mycat(
  args: readonly string[],
  options: SpawnOptions = {},
  nodeArgs: readonly string[] = []
): Promise<Result> {
  const child = spawn(process.execPath, [...nodeArgs, program, ...args], options)
  const result = { stdout: '', stderr: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (result.stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (result.stderr += text))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, ...result }
}

test('mycat prints files to the byte, in their order', async (t) => {
  const paths = [temporaryFile('first\n'), temporaryFile(''), temporaryFile('läßt\0 sich '.repeat(50_000))]
  const { code, stdout, stderr } = await mycat(paths)
  t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  t.is(stdout, `first\n${'läßt\0 sich '.repeat(50_000)}`)
})

test('mycat prints what cat prints of files that cannot be read, goes on, and ends with 1', async (t) => {
  const folder = temporaryFolder()
  const missing = join(folder, 'missing')
  const paths = [temporaryFile('before\n'), missing, folder, temporaryFile('after\n')]
  const { code, stdout, stderr } = await mycat(paths)
  const cat = spawnSync('cat', paths, { encoding: 'utf8', env: { LC_ALL: 'C' } })
  t.is(code, 1)
  t.is(cat.status, 1)
  t.is(stdout, cat.stdout)
  t.deepEqual(stderr.replaceAll('mycat: ', ''), cat.stderr.replaceAll('cat: ', ''))
})

const root = process.getuid?.() === 0
const asNobody = root ? { uid: 65_534, gid: 65_534 } : {}

test('mycat prints a file that may not be opened as cat does', async (t) => {
  const path = temporaryFile('secret')
  chmodSync(path, 0)
  const { code, stdout, stderr } = await mycat([path], asNobody)
  t.deepEqual({ code, stdout }, { code: 1, stdout: '' })
  t.is(stderr, `mycat: ${path}: Permission denied\n`)
})

test('mycat waits for the writer of a FIFO and prints what it writes', async (t) => {
  const fifo = join(temporaryFolder(), 'fifo')
  t.is(spawnSync('mkfifo', [fifo]).status, 0)
  const printed = mycat([fifo])
  const writer = await open(fifo, 'w')
  await writer.writeFile('through a FIFO\n')
  await writer.close()
  t.deepEqual(await printed, { code: 0, stdout: 'through a FIFO\n', stderr: '' })
})

test('mycat without a FILE, and with -, copies its standard input', async (t) => {
  for (const args of [[], ['-']]) {
    const input = openSync(temporaryFile('from standard input\n'), 'r')
    const result = await mycat(args, { stdio: [input, 'pipe', 'pipe'] })
    t.deepEqual(result, { code: 0, stdout: 'from standard input\n', stderr: '' })
  }
})

test('mycat copies a file of 1 GiB in constant memory', async (t) => {
  const GIB = 1024 ** 3
  const path = temporaryFile()
  truncateSync(path, GIB)
  const tellMemory = "data:text/javascript,process.on('exit',()=>console.error(process.resourceUsage().maxRSS))"
  const child = spawn(process.execPath, ['--import', tellMemory, program, path])
  let [stderr, bytes] = ['', 0]
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const closed = once(child, 'close')
  await pipeline(
    child.stdout,
    new Writable({
      write(chunk: Buffer, _, next) {
        bytes += chunk.length
        next()
      }
    })
  )
  t.deepEqual(await closed, [0, null])
  t.is(bytes, GIB)
  t.true(Number(stderr) < 200 * 1024, `${stderr} KiB`)
})

test('mycat exits silently when its reader is gone, as a cat that SIGPIPE ends', async (t) => {
  const path = temporaryFile('x'.repeat(4 * 1024 * 1024))
  const child = spawn(process.execPath, [program, path])
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const closed = once(child, 'close')
  await once(child.stdout, 'readable')
  child.stdout.destroy()
  t.deepEqual(await closed, [128 + 13, null])
  t.is(stderr, '')
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('mycat reports a full standard output as cat does (needs /dev/full: Linux)', async (t) => {
  const path = temporaryFile('x')
  const full = openSync('/dev/full', 'w')
  const { code, stderr } = await mycat([path], { stdio: ['ignore', full, 'pipe'] })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'mycat: write error: No space left on device\n' })
})

onlyIf(root && isLinux, 'needs root on Linux')(
  'broker lets the user nobody, and no other user, read the logs in a folder (needs root)',
  async (t) => {
    const [outer, logs] = [temporaryFolder(), temporaryFolder()]
    chmodSync(outer, 0o755)
    writeFileSync(join(logs, 'a.log'), 'logged')
    const address = join(outer, 'socket')
    const broker = spawn(process.execPath, [example('broker'), address, logs])
    t.teardown(() => broker.kill('SIGKILL'))
    await once(broker.stdout, 'data')
    const ask = (uid: number) => {
      const args = [fixturePath('services'), 'open', address, 'a.log', `${logs}/a.log`, '../etc/passwd', '.']
      return spawnSync(process.execPath, args, { uid, gid: uid, encoding: 'utf8' }).stdout
    }
    t.is(ask(65_534), 'logged\nlogged\nEACCES\nEACCES\n')
    t.is(ask(0), 'EACCES\nEACCES\nEACCES\nEACCES\n')
    broker.kill('SIGTERM')
    t.deepEqual(await once(broker, 'close'), [0, null])
  }
)

/** Starts an example, until it has printed something; it does not outlive the test. */
async function begin(t: ExecutionContext, name: string, args: readonly (string | number)[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [example(name), ...args.map(String)], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  return child
}

/** Sends a text to a server, and reads its answer up to the end. */
async function say(port: number, text: string, ends = false): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on('data', (data: string) => (answer += data))
  if (ends) socket.end(text)
  else socket.write(text)
  await once(socket, 'end')
  socket.destroy()
  return answer
}

/** Ends an example as a service manager does. */
async function terminate(t: ExecutionContext, child: ChildProcess): Promise<void> {
  const closed = once(child, 'close')
  child.kill('SIGTERM')
  t.deepEqual(await closed, [null, 'SIGTERM'])
}

onlyIf(root && isLinux, 'needs root on Linux')(
  'http-server listens on a privileged port, and answers as the user nobody (needs root)',
  async (t) => {
    const PORT = 81 // 80 may be taken
    const server = await begin(t, 'http-server', [PORT])
    const answers = await Promise.all(
      Array.from({ length: 8 }, async () => (await fetch(`http://127.0.0.1:${PORT}/page`)).text())
    )
    for (const answer of answers) t.regex(answer, /^\/page answered by process \d+, user 65534\n$/)
    t.is(new Set(answers).size, 2)
    await terminate(t, server)
  }
)

onlyIf(isLinux, 'needs Linux')('superserver serves an echo in shell by a configuration file', async (t) => {
  const port = newPort()
  const file = temporaryFile(readFileSync('examples/echo.json', 'utf8').replace('7007', `${port}`))
  const server = await begin(t, 'superserver', [file])
  t.is(await say(port, 'one\ntwo  words\n', true), 'one\ntwo  words\n')
  await terminate(t, server)
})

const processOf = (answer: string) => /process (\d+)/.exec(answer)![1]

onlyIf(isLinux, 'needs Linux')('hand-on hands a connection on to another worker, with what was read', async (t) => {
  const port = newPort()
  const server = await begin(t, 'hand-on', [port, temporaryFolder()])
  const front = await say(port, 'hello')
  t.regex(front, /^the front, process \d+\n$/)
  const room = await say(port, 'room blue')
  t.regex(room, /^room blue is in process \d+\n$/)
  t.not(processOf(front), processOf(room))
  t.is(processOf(room), processOf(await say(port, 'room red')))
  await terminate(t, server)
})

/** The examples in the doc comments of the declarations that users get, by the name of what they document. */
function documentedExamples(): [string, string][] {
  const files = readdirSync('dist/lib', { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.d.ts'))
  return files.flatMap((path) => {
    const text = readFileSync(join('dist/lib', path), 'utf8')
    const found = text.matchAll(/@example\n \* ```js\n((?: \*.*\n)*?) \* ```\n(?: \*.*\n)*? ?\*\/\n[a-z ]*? (\w+)[(<]/g)
    return [...found].map(([, code, name]): [string, string] => [name!, code!.replaceAll(/^ \* ?/gm, '')])
  })
}

test('each example of a doc comment prints what its comments say', async (t) => {
  const examples = documentedExamples()
  t.true(examples.length >= 11)
  const ran = await Promise.all(
    examples.map(async ([name, code]) => {
      const folder = temporaryFolder()
      mkdirSync(join(folder, 'node_modules'))
      symlinkSync(process.cwd(), join(folder, 'node_modules', 'fdpass'))
      writeFileSync(join(folder, 'example.mjs'), code)
      const child = spawn(process.execPath, ['example.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
      const [stdout, stderr] = await Promise.all([buffer(child.stdout), buffer(child.stderr)])
      const expected = [...code.matchAll(/console\.log\(.*\) \/\/ (.*)/g)].map(([, line]) => `${line}\n`).join('')
      return [
        { name, stdout: String(stdout), stderr: String(stderr) },
        { name, stdout: expected, stderr: '' }
      ]
    })
  )
  t.deepEqual(
    ran.map(([actual]) => actual),
    ran.map(([, expected]) => expected)
  )
})
