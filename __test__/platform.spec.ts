import { spawnSync } from 'node:child_process'
import test from 'ava'

/** Runs a program with the package imported as `fdpass`, after `before`, and gives what it printed. */
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

test('importing on Windows never throws, and every call says why it cannot work', (t) => {
  const windows = "Object.defineProperty(process, 'platform', { value: 'win32' })"
  const { isSupported, codes, message } = run(windows, everyCall) as Record<string, unknown>
  t.false(isSupported)
  t.deepEqual(codes, Array(5).fill('ERR_UNSUPPORTED_PLATFORM'))
  t.regex(String(message), /Windows' Unix domain sockets carry no descriptors/)
})

test('without a binary importing never throws, and every call names the platform and the cause', (t) => {
  const noBinary =
    "(await import('node:module')).Module._extensions['.node'] = () => { throw new Error('no binary here') }"
  const { isSupported, codes, message, cause } = run(noBinary, everyCall) as Record<string, unknown>
  t.false(isSupported)
  t.deepEqual(codes, Array(5).fill('ERR_UNSUPPORTED_PLATFORM'))
  t.true(String(message).includes(`${process.platform}-${process.arch}`))
  t.truthy(cause)
})

test('a CommonJS program can require the package', (t) => {
  const { stdout, stderr } = spawnSync(process.execPath, ['--eval', "console.log(typeof require('fdpass').sendFd)"], {
    encoding: 'utf8'
  })
  t.is(stdout, 'function\n', stderr)
})
