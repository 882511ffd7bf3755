import { spawn } from 'node:child_process'
import { closeSync, fstatSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type Message, type UnixSocket, bind, memfd, pipe, socketpair } from 'fdpass'
import * as systemd from 'fdpass/systemd'
import { type ServiceState, barrier, keepWatchdog, notify, removeFds, storeFds, watchdogInterval } from 'fdpass/systemd'
import {
  RANGE,
  TYPE,
  VALUE,
  loose,
  notIntegers,
  notNumbers,
  notOptions,
  notSignals,
  rejects,
  throws
} from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, readAll, temporaryFolder } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'
import { endWith, receive, runs } from '../helpers/programs.ts'
import { isPending } from '../helpers/promises.ts'

// The environment of this process tells each test where the manager is: one test at a time.
const folder = temporaryFolder()
const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)
const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')
const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd', test.serial)
const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
let addresses = 0

/** Sets variables until the end of the test. */
function set(t: ExecutionContext, variables: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
    t.teardown(() => delete process.env[name])
  }
}

/** A manager's socket, which this process tells things. */
function manage(t: ExecutionContext, kind: 'path' | 'abstract' = 'path'): UnixSocket {
  const name = `fdpass-notify-${process.pid}-${addresses++}`
  const path = join(folder, name)
  const socket = bind(kind === 'path' ? path : `\0${name}`, { credentials: true })
  t.teardown(() => socket.close())
  set(t, { NOTIFY_SOCKET: kind === 'path' ? path : `@${name}` })
  return socket
}

const states: [state: ServiceState, message: string][] = [
  [{ ready: true }, 'READY=1'],
  [{ stopping: true }, 'STOPPING=1'],
  [{ status: 'of all: 100 % = all' }, 'STATUS=of all: 100 % = all'],
  [{ status: '' }, 'STATUS='],
  [{ status: 'fünf' }, 'STATUS=fünf'],
  [{ errno: 2 }, 'ERRNO=2'],
  [{ errno: -2 }, 'ERRNO=2'],
  [{ busError: 'org.freedesktop.DBus.Error.TimedOut' }, 'BUSERROR=org.freedesktop.DBus.Error.TimedOut'],
  [{ exitStatus: 0 }, 'EXIT_STATUS=0'],
  [{ watchdog: true }, 'WATCHDOG=1'],
  [{ watchdog: 'trigger' }, 'WATCHDOG=trigger'],
  [{ watchdogTimeout: 1500 }, 'WATCHDOG_USEC=1500000'],
  [{ extendTimeout: 30_000 }, 'EXTEND_TIMEOUT_USEC=30000000'],
  [{ extendTimeout: 9_007_199_254_740 }, 'EXTEND_TIMEOUT_USEC=9007199254740000'],
  [{ mainPid: 2_147_483_647 }, 'MAINPID=2147483647'],
  [{ notifyAccess: 'all' }, 'NOTIFYACCESS=all'],
  [{ variables: { X_ONE: '1', x_2: '' } }, 'X_ONE=1\nx_2='],
  [
    { status: 'done', ready: true, mainPid: 7, stopping: false, watchdog: undefined },
    'READY=1\nSTATUS=done\nMAINPID=7'
  ],
  [{ variables: { X_ONE: '1' }, status: 'x'.repeat(4081) }, `STATUS=${'x'.repeat(4081)}\nX_ONE=1`]
]

for (const kind of ['path', 'abstract'] as const) {
  onLinux(`notify tells each part of a state, with the credentials of this process (${kind})`, async (t) => {
    const socket = manage(t, kind)
    for (const [state, expected] of states) {
      t.is(await notify(state), true)
      const message = await receive(socket)
      t.is(text(message), expected)
      t.deepEqual(message.credentials, me)
      t.is(message.fds.length, 0)
    }
    t.true('NOTIFY_SOCKET' in process.env)
  })
}

withLibsystemd('what notify tells is what sd_notify tells', async (t) => {
  const socket = manage(t)
  const state = 'READY=1\nSTATUS=fünf = 5\nX_MORE=a b'
  await endWith(
    t,
    spawn('python3', [fixtureSource('systemd.py'), 'notify', state], { stdio: ['ignore', 'pipe', 'inherit'] })
  )
  await notify({ variables: { X_MORE: 'a b' }, status: 'fünf = 5', ready: true })
  const [theirs, ours] = [await receive(socket), await receive(socket)]
  t.deepEqual(Buffer.from(ours.data), Buffer.from(theirs.data))
})

onLinux('a reload is told with its time', async (t) => {
  const socket = manage(t)
  const before = process.hrtime.bigint() / 1000n
  await notify({ reloading: true })
  const after = process.hrtime.bigint() / 1000n
  const [, time] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(text(await receive(socket))!)!
  t.true(BigInt(time!) >= before && BigInt(time!) <= after)
})

onLinux('messages that are told at once arrive in order, and wait for room in the manager', async (t) => {
  const socket = manage(t)
  const told = Array.from({ length: 300 }, (_, i) => notify({ status: `${i}` }))
  t.true(await isPending(told.at(-1)!)) // a queue takes 10 datagrams, or as many as the system lets it
  for (let i = 0; i < told.length; i++) t.is(text(await receive(socket)), `STATUS=${i}`)
  t.deepEqual(
    await Promise.all(told),
    told.map(() => true)
  )
})

test.serial('without a manager nothing is told', async (t) => {
  for (const NOTIFY_SOCKET of [undefined, '']) {
    set(t, { NOTIFY_SOCKET })
    const fd = openFile('kept')
    t.is(await notify({ ready: true }), false)
    t.is(await storeFds('name', [fd]), false)
    t.is(await removeFds('name'), false)
    t.is(await barrier({ timeout: 1 }), false)
    t.is(readAll(fd), 'kept')
    closeSync(fd)
  }
})

onLinux("an address that is none, that nobody has, or another machine's is an error", async (t) => {
  const cases = [
    ['vsock:2:9999', 'EAFNOSUPPORT'],
    ['vsock-stream:2:9999', 'EAFNOSUPPORT'],
    ['relative', 'EINVAL'],
    ['@', 'EINVAL'],
    [join(folder, 'nobody'), 'ENOENT'],
    [`@fdpass-nobody-${process.pid}`, 'ECONNREFUSED'],
    [`/${'x'.repeat(108)}`, 'ENAMETOOLONG']
  ] as const
  for (const [NOTIFY_SOCKET, code] of cases) {
    set(t, { NOTIFY_SOCKET })
    const error = await t.throwsAsync(notify({ ready: true }), { code }, NOTIFY_SOCKET)
    t.true((error as unknown as { errno: number }).errno < 0, NOTIFY_SOCKET)
    await t.throwsAsync(barrier(), { code }, NOTIFY_SOCKET)
  }
})

onLinux('arguments of the wrong kind are refused, and nothing is told', async (t) => {
  const socket = manage(t)
  const told = loose(systemd, 'notify')
  for (const state of [undefined, null, 5, 'READY=1', true]) await rejects(t, String(state), TYPE, () => told(state))
  for (const state of [{}, { ready: false }, { ready: undefined }])
    await rejects(t, 'nothing', VALUE, () => told(state))
  for (const name of ['ready', 'reloading', 'stopping', 'watchdog']) {
    for (const value of [null, 1, '1', {}]) await rejects(t, name, TYPE, () => told({ [name]: value }))
  }
  for (const name of ['status', 'busError']) {
    for (const value of [null, 1, true, {}]) await rejects(t, name, TYPE, () => told({ [name]: value }))
    for (const value of ['a\nREADY=1', '\n', 'a\0']) {
      await rejects(t, name, VALUE, () => told({ [name]: value }), new RegExp(`state\\.${name}.*line break`))
    }
  }
  for (const name of ['errno', 'exitStatus', 'watchdogTimeout', 'extendTimeout', 'mainPid']) {
    for (const value of notNumbers) await rejects(t, name, TYPE, () => told({ [name]: value }))
    for (const value of [...notIntegers, 1e16]) await rejects(t, name, RANGE, () => told({ [name]: value }))
  }
  for (const [name, value] of [
    ['exitStatus', 256],
    ['exitStatus', -1],
    ['watchdogTimeout', 0],
    ['extendTimeout', 0],
    ['mainPid', 0]
  ] as const) {
    await rejects(t, name, RANGE, () => told({ [name]: value }))
  }
  await rejects(t, 'notifyAccess', VALUE, () => told({ notifyAccess: 'everybody' }))
  for (const variables of [null, 5, 'X=1']) await rejects(t, 'variables', TYPE, () => told({ variables }))
  for (const variable of ['', '1X', 'X Y', 'X=1', 'X\nY', 'Ä']) {
    await rejects(t, variable, VALUE, () => told({ variables: { [variable]: '1' } }))
  }
  await rejects(t, 'variable', VALUE, () => told({ variables: { X: 'a\nb' } }), /state\.variables\.X/)
  await rejects(t, 'variable', TYPE, () => told({ variables: { X: 1 } }))
  await rejects(t, 'too long', VALUE, () => told({ status: 'x'.repeat(4090) }), /4097 bytes.*4096/)
  for (const name of ['notify', 'storeFds', 'removeFds', 'barrier']) {
    const call = loose(systemd, name)
    const before = { notify: [{ ready: true }], storeFds: ['name', [0]], removeFds: ['name'] }[name] ?? []
    for (const options of notOptions) await rejects(t, name, TYPE, () => call(...before, options))
    for (const signal of notSignals) await rejects(t, name, TYPE, () => call(...before, { signal }))
    await rejects(t, name, 'ABORT_ERR', () => call(...before, { signal: AbortSignal.abort() }))
  }
  const store = loose(systemd, 'storeFds')
  for (const call of [store, loose(systemd, 'removeFds')]) {
    for (const name of [undefined, null, 5, {}]) await rejects(t, 'name', TYPE, () => call(name, [0]))
    for (const name of ['a:b', 'a\\b', 'ä', 'a\nb', '\x7f', '\0', 'x'.repeat(256)]) {
      await rejects(t, name, VALUE, () => call(name, [0]), /"name"/)
    }
  }
  await rejects(t, 'fds', TYPE, () => store('name', 0), /"fds"/)
  await rejects(t, 'fds', VALUE, () => store('name', []), /"fds"/)
  await rejects(t, 'fds', VALUE, () => store('name', undefined), /"fds"/)
  await rejects(t, 'fds', TYPE, () => store('name', [0, 'x']), /"fds\[1\]"/)
  await rejects(
    t,
    'fds',
    RANGE,
    () =>
      store(
        'name',
        Array.from({ length: 254 }, () => 0)
      ),
    /253/
  )
  await rejects(t, 'fds', 'EBADF', () => store('name', [0, 999_999]))
  for (const poll of [null, 0, 'no']) await rejects(t, 'poll', TYPE, () => store('name', [0], { poll }))
  for (const timeout of [null, '1', true])
    await rejects(t, 'timeout', TYPE, () => loose(systemd, 'barrier')({ timeout }))
  for (const timeout of [-1, 0.5, 2 ** 31]) await rejects(t, 'timeout', RANGE, () => barrier({ timeout }))
  const keep = loose(systemd, 'keepWatchdog')
  for (const options of notOptions) throws(t, 'options', TYPE, () => keep(options))
  for (const interval of [null, '1', true]) throws(t, 'interval', TYPE, () => keep({ interval }))
  for (const interval of [0, 0.5, 2 ** 31]) throws(t, 'interval', RANGE, () => keep({ interval }))
  throws(t, 'signal', 'ABORT_ERR', () => keep({ signal: AbortSignal.abort() }))

  await notify({ ready: true })
  t.is(text(await receive(socket)), 'READY=1') // the first that came
})

onLinux('an abort ends what waits for room in the manager', async (t) => {
  manage(t)
  const waits: Promise<boolean>[] = []
  for (;;) {
    const last = notify({ status: 'fills the queue' })
    waits.push(last)
    if (await isPending(last)) break
  }
  const cause = new Error('enough')
  const ending = new AbortController()
  const calls = [
    notify({ ready: true }, { signal: ending.signal }),
    storeFds('name', [0], { signal: ending.signal }),
    removeFds('name', { signal: ending.signal }),
    barrier({ signal: ending.signal })
  ]
  for (const call of calls) t.true(await isPending(call))
  ending.abort(cause)
  for (const call of calls) {
    const error = await t.throwsAsync(call, { name: 'AbortError', code: 'ABORT_ERR' })
    t.is(error.cause, cause)
  }
  await t.throwsAsync(barrier({ timeout: 20 }), { code: 'ETIMEDOUT' }) // the time counts from the call on
  process.env.NOTIFY_SOCKET = '' // what still waits is of no interest
  for (const wait of waits) wait.catch(() => {})
})

const contentsOf = ({ fds }: Message) => fds.map(({ fd }) => readAll(fd))

onLinux('storeFds and removeFds name descriptors, which stay open here', async (t) => {
  const socket = manage(t)
  const files = ['first', 'second'].map((content) => openFile(content))
  t.is(await storeFds('a name of % = 5', files), true)
  const stored = await receive(socket)
  t.is(text(stored), 'FDSTORE=1\nFDNAME=a name of % = 5')
  t.deepEqual(contentsOf(stored), ['first', 'second'])
  t.deepEqual(stored.credentials, me)
  stored.close()

  const [one, other] = socketpair()
  using memory = memfd({ data: 'memory' })
  await storeFds('mixed', [one, memory], { poll: false })
  const mixed = await receive(socket)
  t.is(text(mixed), 'FDSTORE=1\nFDNAME=mixed\nFDPOLL=0')
  t.deepEqual(
    mixed.fds.map(({ kind }) => kind),
    ['unix-stream', 'memfd']
  )
  mixed.close()
  await one.send('open')
  t.is(text(await other.recv()), 'open')

  await storeFds(
    'many',
    Array.from({ length: 253 }, () => files[0]!)
  )
  const many = await receive(socket)
  t.is(text(many), 'FDSTORE=1\nFDNAME=many')
  t.is(many.fds.length, 253)
  many.close()

  t.is(await removeFds('x'.repeat(255)), true)
  t.is(text(await receive(socket)), `FDSTOREREMOVE=1\nFDNAME=${'x'.repeat(255)}`)
  for (const fd of files) closeSync(fd)
  for (const end of [one, other]) end.close()
})

onLinux('barrier waits until the manager has closed what it was sent', async (t) => {
  const socket = manage(t)
  await notify({ ready: true })
  const waiting = barrier()
  t.is(text(await receive(socket)), 'READY=1')
  const message = await receive(socket)
  t.is(text(message), 'BARRIER=1')
  t.is(message.fds.length, 1)
  t.true(fstatSync(message.fds[0]!.fd).isFIFO())
  t.true(await isPending(waiting))
  message.close()
  t.is(await waiting, true)

  // A manager that goes closes it too.
  const last = barrier({ timeout: 10_000 })
  socket.close()
  t.is(await last, true)
})

onLinux('barrier waits no longer than it may, and no longer than its signal lets it', async (t) => {
  const socket = manage(t)
  const error = await t.throwsAsync(barrier({ timeout: 20 }), { code: 'ETIMEDOUT' })
  t.is(error.message, 'ETIMEDOUT: no answer within 20 ms, poll')
  ;(await receive(socket)).close()
  const waiting = barrier({ signal: AbortSignal.timeout(20) })
  await t.throwsAsync(waiting, { name: 'AbortError' })
  ;(await receive(socket)).close()
  const late = barrier({ timeout: 10_000 })
  ;(await receive(socket)).close()
  t.is(await late, true)
})

onLinux(
  'the end of a barrier that was given up is not taken for that of the next one, which has its number',
  async (t) => {
    const socket = manage(t)
    for (let i = 0; i < 50; i++) {
      const ending = new AbortController()
      const given = barrier({ signal: ending.signal })
      ;(await receive(socket)).close() // an event is on its way
      ending.abort()
      await t.throwsAsync(given, { name: 'AbortError' })
      const next = barrier({ timeout: 5 })
      const kept = await receive(socket)
      await t.throwsAsync(next, { code: 'ETIMEDOUT' })
      kept.close()
    }
  }
)

/** What libsystemd is asked too. PID is the reader's own. */
const watchdogs: Readonly<Record<string, string>>[] = [
  {},
  ...[
    '3000000',
    '1',
    '1500',
    '0',
    '-1',
    'x',
    '',
    '18446744073709551615',
    '18446744073709551614',
    '18446744073709551616'
  ].map((WATCHDOG_USEC) => ({ WATCHDOG_USEC })),
  ...['PID', '1', 'x', '0', ''].map((WATCHDOG_PID) => ({ WATCHDOG_USEC: '3000000', WATCHDOG_PID })),
  { WATCHDOG_PID: 'PID' }
]

withLibsystemd('watchdogInterval and sd_watchdog_enabled agree, garbage included', async (t) => {
  const input = `${watchdogs.map((environment) => JSON.stringify(environment)).join('\n')}\n`
  const run = async (command: string, args: string[]) => {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    child.stdin!.end(input)
    const output = await endWith(t, child)
    return output
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as [error: string | null, interval?: number])
  }
  const ours = await run(process.execPath, [...process.execArgv, fixturePath('passed'), 'watchdog'])
  const theirs = await run('python3', [fixtureSource('systemd.py'), 'watchdog'])
  t.is(ours.length, watchdogs.length)
  for (const [index, environment] of watchdogs.entries()) {
    const title = JSON.stringify(environment)
    const [error, interval] = ours[index]!
    const [theirError, microseconds] = theirs[index]!
    t.is(error, theirError === null ? null : error === null ? 'an error' : error, title)
    t.is(error !== null, theirError !== null, title)
    if (error === null) t.is(interval, microseconds === null ? (null as never) : microseconds! / 1000, title)
  }
})

onLinux('keepWatchdog tells twice in each interval, until it is disposed of or aborted', async (t) => {
  const socket = manage(t)
  set(t, { WATCHDOG_USEC: '60000', WATCHDOG_PID: `${process.pid}` })
  t.is(watchdogInterval(), 60)
  for (const end of ['dispose', 'abort']) {
    const ending = new AbortController()
    const started = performance.now()
    const watchdog = keepWatchdog({ signal: ending.signal })
    for (let i = 0; i < 5; i++) t.is(text(await receive(socket)), 'WATCHDOG=1')
    t.true(performance.now() - started > 100) // the first came at once, and the others each 30 ms
    if (end === 'dispose') watchdog[Symbol.dispose]()
    else ending.abort()
    const rest = socket.recv({ signal: AbortSignal.timeout(150) })
    await t.throwsAsync(rest, { name: 'AbortError' }, end)
    watchdog[Symbol.dispose]()
  }
  set(t, { WATCHDOG_PID: '1' })
  {
    using _none = keepWatchdog()
    await t.throwsAsync(socket.recv({ signal: AbortSignal.timeout(100) }), { name: 'AbortError' })
  }
  using _own = keepWatchdog({ interval: 20 })
  for (let i = 0; i < 3; i++) t.is(text(await receive(socket)), 'WATCHDOG=1')
})

onLinux('a watchdog that cannot be fed is a warning, and is fed again', async (t) => {
  const warnings: Error[] = []
  const listen = (warning: Error) => warnings.push(warning)
  process.on('warning', listen)
  t.teardown(() => process.off('warning', listen))
  const path = join(folder, `late-${addresses++}`)
  set(t, { NOTIFY_SOCKET: path })
  using _watchdog = keepWatchdog({ interval: 20 })
  await sleep(50)
  t.regex(warnings[0]!.message, /^The watchdog cannot be fed: ENOENT/)
  t.is(warnings.length, 1)
  t.is((warnings[0] as NodeJS.ErrnoException).code, 'FDPASS_WATCHDOG')
  using socket = bind(path)
  t.is(text(await receive(socket)), 'WATCHDOG=1')
})

onLinux('neither a watchdog nor a message that has gone keeps the process alive', async (t) => {
  manage(t)
  const program = `import { keepWatchdog, notify } from 'fdpass/systemd'
    keepWatchdog({ interval: 10 })
    await notify({ ready: true })
    console.log('ends')`
  const args = ['--input-type=module', '--eval', program]
  t.is(await endWith(t, spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })), 'ends\n')
})

onLinux('what is told closes what it has opened, and nothing else', async (t) => {
  const socket = manage(t)
  const [read, write] = pipe()
  await storeFds('pipe', [write])
  write.closeSync()
  ;(await receive(socket)).close()

  t.is(readSync(read.fd, Buffer.alloc(1)), 0) // no writing end is left
  read.closeSync()
})
