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
