import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { parseTriple } from '@napi-rs/cli'
import test from 'ava'
import { onlyIf } from '../helpers/conditions.ts'

/** Runs a program with the package imported as `fdpass`, after `before`, and returns its output. */
function run(before: string, program: string, env: NodeJS.ProcessEnv = {}): unknown {
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', `${before}; const fdpass = await import('fdpass'); ${program}`],
    { encoding: 'utf8', env: { ...process.env, ...env } }
  )
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout)
}

const everyCall = `
  const calls = [
    () => fdpass.socketpair(),
    () => fdpass.UnixSocket.from(0),
    () => fdpass.Descriptor.from(0),
    () => fdpass.sendFd(undefined, 0),
    () => fdpass.recvFd(undefined)
  ]
  const errors = []
  for (const call of calls) try { await call() } catch (error) { errors.push(error) }
  console.log(JSON.stringify({
    isSupported: fdpass.isSupported,
    codes: errors.map(({ code }) => code),
    message: errors[0].message,
    cause: errors[0].cause?.message
  }))`

test('importing on Windows never throws, and every call reports why it cannot work', (t) => {
  const windows = "Object.defineProperty(process, 'platform', { value: 'win32' })"
  const { isSupported, codes, message } = run(windows, everyCall) as Record<string, unknown>
  t.false(isSupported)
  t.deepEqual(codes, Array(5).fill('ERR_UNSUPPORTED_PLATFORM'))
  t.regex(String(message), /Windows' Unix domain sockets carry no descriptors/)
})

/** The loader finds none of the packages, nor the binary that `npm run setup` leaves here. */
const nothingInstalled = `
  const { Module } = await import('node:module')
  const resolve = Module._resolveFilename
  Module._resolveFilename = (request, ...rest) => {
    if (/^fdpass-|\\.node$/.test(request)) {
      throw Object.assign(new Error("Cannot find module '" + request + "'"), { code: 'MODULE_NOT_FOUND' })
    }
    return resolve(request, ...rest)
  }`

test('without a binary importing never throws, and every call names the package and what to do', (t) => {
  const { isSupported, codes, message, cause } = run(nothingInstalled, everyCall) as Record<string, unknown>
  t.false(isSupported)
  t.deepEqual(codes, Array(5).fill('ERR_UNSUPPORTED_PLATFORM'))
  const libc = process.platform === 'linux' ? '-(gnu|musl)' : ''
  t.regex(
    String(message),
    new RegExp(`the package fdpass-${process.platform}-${process.arch}${libc}, .* is not installed.*--omit=optional`)
  )
  t.regex(String(message), /lock file.*registry.*npm run build:native.*NAPI_RS_NATIVE_LIBRARY_PATH/)
  t.truthy(cause)
})

onlyIf(process.platform === 'linux', 'a system with two C libraries')(
  'without a binary the error names the C library of the system',
  (t) => {
    const musl = `
      const getReport = process.report.getReport.bind(process.report)
      process.report.getReport = () => {
        const { header: { glibcVersionRuntime, ...header }, ...report } = getReport()
        return { header, ...report }
      }`
    const { message } = run(`${nothingInstalled}; ${musl}`, everyCall) as Record<string, unknown>
    t.regex(String(message), new RegExp(`the package fdpass-linux-${process.arch}-musl,`))
  }
)

test('a binary that cannot be loaded is reported with the reason', (t) => {
  const broken =
    "(await import('node:module')).Module._extensions['.node'] = () => { throw new Error('no glibc like this') }"
  const { isSupported, codes, message } = run(broken, everyCall) as Record<string, unknown>
  t.false(isSupported)
  t.deepEqual(codes, Array(5).fill('ERR_UNSUPPORTED_PLATFORM'))
  t.regex(String(message), /the binary for .* could not be loaded: no glibc like this$/)
})

test('on a platform without a package the error names those that have one', (t) => {
  const riscv = "Object.defineProperty(process, 'arch', { value: 'riscv64' })"
  const { isSupported, message } = run(`${nothingInstalled}; ${riscv}`, everyCall) as Record<string, unknown>
  t.false(isSupported)
  const [, none, listed] = /there is no binary for (\S+), only for (.*?);.*npm run build:native/.exec(String(message))!
  t.regex(none!, new RegExp(`^${process.platform}-riscv64`))
  const { napi } = JSON.parse(readFileSync('package.json', 'utf8')) as { napi: { targets: string[] } }
  t.deepEqual(
    listed!.split(', '),
    napi.targets.map((triple) => parseTriple(triple).platformArchABI)
  )
})

test('a CommonJS program can require the package', (t) => {
  const { stdout, stderr } = spawnSync(process.execPath, ['--eval', "console.log(typeof require('fdpass').sendFd)"], {
    encoding: 'utf8'
  })
  t.is(stdout, 'function\n', stderr)
})

test('a panic names its thread, file and line on standard error, and ends the process [S133]', (t) => {
  const { stderr, signal } = spawnSync(process.execPath, ['--eval', "require('#binding').panicForTest()"], {
    encoding: 'utf8'
  })
  t.regex(stderr, /^fdpass \S+: panic in thread '.+' at \S*panics\.rs:\d+:\d+: requested by a test\. /m)
  t.is(signal, 'SIGABRT')
})

test('native calls refuse lengths beyond an array and memory that threads share, and getters of an argument may call [S134]', (t) => {
  const program = `
    const { openEnvironment } = require('#binding')
    const bytes = new Uint8Array(1000)
    const [fds, outcome, batch, turn] = [5000, 100, 100, 100].map((length) => new Int32Array(length))
    const arrays = { bytes, fds, outcome, batch, name: new Uint8Array(200), turn }
    const { environment, hotCalls } = openEnvironment('thread', () => {}, arrays)
    const [a] = environment.socketpair('stream')
    const program = {
      get path() {
        return environment.pipe().length === 2 ? '/bin/true' : ''
      },
      arguments: ['true'], environment: [], limits: [], noNewPrivileges: false
    }
    console.log(JSON.stringify([
      hotCalls.send(a, -1, 0), hotCalls.send(a, 1001, 0), hotCalls.send(a, 1, 5001), hotCalls.receive(a, -1, 0),
      hotCalls.closeAll(-1),
      hotCalls.sendFrom(new Uint8Array(new SharedArrayBuffer(100)), a, 0, 0),
      hotCalls.sendFrom(new Uint8Array(new SharedArrayBuffer(100, { maxByteLength: 200 })), a, 0, 0),
      hotCalls.sendFrom(new Uint8Array(new ArrayBuffer(100, { maxByteLength: 200 })), a, 0, 0),
      typeof environment.spawn(program, [0]).pid
    ]))
    process.exit()`
  const { stdout, stderr } = spawnSync(process.execPath, ['--eval', program], { encoding: 'utf8' })
  const EFAULT = -14
  t.is(stdout, `${JSON.stringify([...Array<number>(7).fill(EFAULT), 100, 'number'])}\n`, stderr)
})

onlyIf(process.platform === 'linux', 'needs /proc')(
  'the threads of the package handle no signal of the program: all are blocked in them [S136]',
  (t) => {
    const program = `
      const { mkdtempSync, readFileSync, readdirSync } = require('node:fs')
      const { superserve } = require('fdpass/superserver')
      const { socketpair } = require('fdpass')
      socketpair()
      superserve({ listen: 'tcp:127.0.0.1:0', command: ['/bin/cat'], mode: 'nowait', signals: false, notify: false }).then(function look() {
        const threads = readdirSync('/proc/self/task').map((id) => {
          const name = readFileSync('/proc/self/task/' + id + '/comm', 'utf8').trim()
          return [name, /^SigBlk:\\t(.*)$/m.exec(readFileSync('/proc/self/task/' + id + '/status', 'utf8'))[1]]
        })
        const ours = threads.filter(([name]) => name.startsWith('fdpass'))
        if (ours.length < 2) return void setImmediate(look) // a thread sets its name itself
        console.log(JSON.stringify(Object.fromEntries(ours)))
        process.exit()
      })`
    const { stdout, stderr } = spawnSync(process.execPath, ['--eval', program], {
      encoding: 'utf8',
      env: { ...process.env, FDPASS_BACKEND: 'thread' }
    })
    const masks = Object.entries(JSON.parse(stdout || '{}') as Record<string, string>)
    t.deepEqual(masks.map(([name]) => name).toSorted(), ['fdpass', 'fdpass-services'], stderr)
    // SIGKILL and SIGSTOP cannot be blocked, and the C library keeps 32 to 34 for itself.
    const blockable = Array.from({ length: 64 }, (_, index) => index + 1).filter(
      (n) => ![9, 19, 32, 33, 34].includes(n)
    )
    for (const [name, mask] of masks) {
      const blocked = blockable.filter((signal) => (BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n)
      t.deepEqual(blocked, blockable, name)
    }
  }
)
