import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text as readAll } from 'node:stream/consumers'
import test from 'ava'
import { connect } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { finish, fixturePath, runs } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'
import { endProcess, endWorkers, exitWithWorkers } from '../helpers/teardown.ts'

// Serial throughout, as each of them keeps the machine busy. `npm run test:teardown` does the same with 1,000 Workers on each Node.
const seed = Number(process.env.FDPASS_SEED ?? Math.floor(Math.random() * 2 ** 30))
const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)
const hasStrace = runs('strace', '-V') && runs('strace', '-qq', 'true') // tracing may be forbidden

onLinux(
  `60 Workers that end in every way at random moments of I/O leave no descriptor, thread, process or file (seed ${seed})`,
  async (t) => {
    const { workers } = await endWorkers(60, seed)
    t.is(workers, 60)
  }
)

onLinux(
  `process.exit() while Workers have pending I/O prints nothing, and aborts nothing (seed ${seed})`,
  async (t) => {
    for (let i = 0; i < 4; i++) await exitWithWorkers(seed + i)
    t.pass()
  }
)

const hows = {
  exit: 'process.exit()',
  throw: 'an uncaught exception',
  'throw-in-io': 'an exception in a tick after a receive',
  reject: 'an unhandled rejection',
  end: 'nothing left to do'
} as const
for (const [how, title] of Object.entries(hows)) {
  onLinux(
    `a process that ends by ${title} amid I/O prints nothing else, and leaves no socket's file (seed ${seed})`,
    async (t) => {
      for (let i = 0; i < 3; i++) await endProcess(how as keyof typeof hows, seed + i)
      t.pass()
    }
  )
}

/** Runs a program that checks its results itself; a crash shows in its signal or exit code. */
function prove(name: string, args: readonly string[], options: readonly string[] = []): Promise<string> {
  const all = [...process.execArgv, ...options, fixturePath(name), ...args]
  return finish(spawn(process.execPath, all, { stdio: ['ignore', 'pipe', 'inherit'] }))
}

onLinux('objects used by one vm context after the other leave nothing, and the contexts are collected', async (t) => {
  t.is(await prove('package-copies', ['objects', '40'], ['--expose-gc', '--no-warnings']), 'done\n')
})

test.serial(
  'two copies of the package, each with its binary, pass descriptors by number; import and require return one',
  async (t) => {
    t.is(await prove('package-copies', ['copies'], ['--no-warnings']), 'done\n')
  }
)

test.serial('node --watch restarts a program that listens, and the path is served each time', async (t) => {
  const folder = temporaryFolder()
  const path = join(folder, 'socket')
  const program = join(folder, 'program.mjs')
  const write = (version: number) =>
    writeFileSync(
      program,
      `import { listen } from ${JSON.stringify(import.meta.resolve('fdpass'))}
const server = await listen(${JSON.stringify(path)})
console.log('version ${version}')
for await (const socket of server) { await socket.send('version ${version}'); socket.close() }
`
    )
  write(0)
  const child = spawn(process.execPath, ['--no-warnings', '--watch', program], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (errors += chunk))
  const lines = createInterface({ input: child.stdout })
  const seen: string[] = []
  lines.on('line', (line) => seen.push(line))
  for (let version = 0; version < 4; version++) {
    if (version > 0) write(version)
    while (!seen.includes(`version ${version}`)) await once(lines, 'line', { signal: AbortSignal.timeout(30_000) })
    const socket = await connect(path)
    t.is(text(await socket.recv()), `version ${version}`)
    socket.close()
  }
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  await ended
  t.is(errors, '')
  t.true(existsSync(path), 'a signal leaves the file, which the next one replaces')
})

const ends: Record<string, string> = {
  terminate: 'Workers that are terminated in the middle of operations close all that they held, 50 times [E12]',
  exit: 'Workers that call process.exit() in the middle of operations close all that they held [E12]',
  end: 'Workers that end by themselves with sockets open close all that they held [E12]',
  throw: 'Workers that end with an uncaught exception close all that they held [E12]',
  reject: 'Workers that end with an unhandled rejection close all that they held [E12]',
  transfer: 'two Workers at a time pass descriptors, each with a copy of the package [E12]'
}
for (const [scenario, title] of Object.entries(ends)) {
  test(title, async (t) => {
    t.is(await prove('workers', [scenario, scenario === 'terminate' ? '50' : '10']), 'done\n')
  })
}

test('Workers that end in every way leave the main thread its own operations [E12]', async (t) => {
  t.is(await prove('workers', ['mixed', '16', 'with-main']), 'done\n')
})

test('the package loaded in one vm context after the other works, and nothing aborts [E13]', async (t) => {
  const options = ['--experimental-vm-modules', '--expose-gc', '--no-warnings']
  t.is(await prove('package-copies', ['contexts', '50'], options), 'done\n')
})

/** Casts in a Worker that ends before the cast has returned. */
const castsThatEnd = {
  'toSocket, before Node has the descriptor,': `
    net.Socket = class extends net.Socket {
      constructor() {
        process.exit()
      }
    }
    pipe()[0].toSocket()`,
  toSocket: `
    const [read] = pipe()
    net.Socket = class extends net.Socket {
      constructor(options) {
        super(options)
        process.exit()
      }
    }
    read.toSocket()`,
  toServer: `
    const listener = bindListener({ host: '127.0.0.1', port: 0 })
    exitAfter(net.Server.prototype, 'listen')
    listener.toServer()`,
  toDatagramSocket: `
    const socket = dgram.createSocket('udp4').bind(0, '127.0.0.1', async () => {
      const [a, b] = socketpair()
      await a.sendFd(socket)
      const { fd } = await b.recvFd()
      exitAfter(dgram.Socket.prototype, 'bind')
      fd.toDatagramSocket()
    })`
}

for (const [method, cast] of Object.entries(castsThatEnd)) {
  onlyIf(
    hasStrace,
    'needs strace',
    test.serial
  )(`a Worker that ends inside of ${method} closes everything once`, async (t) => {
    const worker = `
      const [dgram, net] = [require('node:dgram'), require('node:net')]
      const { bindListener, pipe, socketpair } = require('fdpass')
      function exitAfter(prototype, name) {
        const original = prototype[name]
        prototype[name] = function (...args) {
          original.apply(this, args)
          process.exit()
        }
      }
      ${cast}`
    const program = `
      const { readdirSync } = require('node:fs')
      const { Worker } = require('node:worker_threads')
      const count = () => readdirSync('/proc/self/fd').length
      const run = (done) => new Worker(${JSON.stringify(worker)}, { eval: true }).once('exit', done)
      // What the first one opens for the process stays open.
      run(() => {
        const before = count()
        run((code) => console.log(code, count() - before))
      })`
    // Only the calls that fail.
    const trace = ['-f', '-qq', '-Z', '-e', 'trace=close', '-e', 'signal=none']
    const child = spawn('strace', [...trace, process.execPath, '--no-warnings', '--eval', program], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    const [printed, failed] = await Promise.all([readAll(child.stdout), readAll(child.stderr)])
    t.deepEqual({ printed, failed }, { printed: '0 0\n', failed: '' })
  })
}
