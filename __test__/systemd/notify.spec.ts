import { spawn } from 'node:child_process'
import { closeSync, readSync } from 'node:fs'
import test from 'ava'
import { pipe } from 'fdpass'
import * as systemd from 'fdpass/systemd'
import { type ServiceState, barrier, notify, removeFds, storeFds } from 'fdpass/systemd'
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
import { newPath, openFile, readAll } from '../helpers/descriptors.ts'
import { endWith, fixtureSource, runs, startFixture } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { me, openNotifySocket, setVariables } from '../helpers/service-manager.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)

const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')

const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd', test.serial)

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
  onLinux(`notify sends each part of a state, with the credentials of this process (${kind})`, async (t) => {
    const socket = openNotifySocket(t, kind)
    for (const [state, expected] of states) {
      t.is(await notify(state), true)
      const message = await receiveSoon(socket)
      t.is(text(message), expected)
      t.deepEqual(message.credentials, me)
      t.is(message.fds.length, 0)
    }
    t.true('NOTIFY_SOCKET' in process.env)
  })
}

withLibsystemd('notify sends what sd_notify sends', async (t) => {
  const socket = openNotifySocket(t)
  const state = 'READY=1\nSTATUS=fünf = 5\nX_MORE=a b'
  await endWith(
    t,
    spawn('python3', [fixtureSource('systemd.py'), 'notify', state], { stdio: ['ignore', 'pipe', 'inherit'] })
  )
  await notify({ variables: { X_MORE: 'a b' }, status: 'fünf = 5', ready: true })
  const [theirs, ours] = [await receiveSoon(socket), await receiveSoon(socket)]
  t.deepEqual(Buffer.from(ours.data), Buffer.from(theirs.data))
})

onLinux('a reload is sent with its time', async (t) => {
  const socket = openNotifySocket(t)
  const before = process.hrtime.bigint() / 1000n
  await notify({ reloading: true })
  const after = process.hrtime.bigint() / 1000n
  const [, time] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(text(await receiveSoon(socket))!)!
  t.true(BigInt(time!) >= before && BigInt(time!) <= after)
})

onLinux('messages that are sent at once arrive in order, and wait for room in the manager', async (t) => {
  const socket = openNotifySocket(t)
  const told = Array.from({ length: 300 }, (_, i) => notify({ status: `${i}` }))
  t.true(await isPending(told.at(-1)!)) // a queue takes 10 datagrams, or as many as the system lets it
  for (let i = 0; i < told.length; i++) t.is(text(await receiveSoon(socket)), `STATUS=${i}`)
  t.deepEqual(
    await Promise.all(told),
    told.map(() => true)
  )
})

test.serial('without a manager nothing is sent', async (t) => {
  for (const NOTIFY_SOCKET of [undefined, '']) {
    setVariables(t, { NOTIFY_SOCKET })
    const fd = openFile('kept')
    t.is(await notify({ ready: true }), false)
    t.is(await storeFds('name', [fd]), false)
    t.is(await removeFds('name'), false)
    t.is(await barrier({ timeout: 1 }), false)
    t.is(readAll(fd), 'kept')
    closeSync(fd)
  }
})

onLinux("an invalid address, one without a receiver, and another machine's are errors", async (t) => {
  const cases = [
    ['vsock:2:9999', 'EAFNOSUPPORT'],
    ['vsock-stream:2:9999', 'EAFNOSUPPORT'],
    ['relative', 'EINVAL'],
    ['@', 'EINVAL'],
    [newPath('nobody'), 'ENOENT'],
    [`@fdpass-nobody-${process.pid}`, 'ECONNREFUSED'],
    [`/${'x'.repeat(108)}`, 'ENAMETOOLONG']
  ] as const
  for (const [NOTIFY_SOCKET, code] of cases) {
    setVariables(t, { NOTIFY_SOCKET })
    const error = await t.throwsAsync(notify({ ready: true }), { code }, NOTIFY_SOCKET)
    t.true((error as unknown as { errno: number }).errno < 0, NOTIFY_SOCKET)
    await t.throwsAsync(barrier(), { code }, NOTIFY_SOCKET)
  }
})

onLinux('arguments of the wrong kind are refused, and nothing is sent', async (t) => {
  const socket = openNotifySocket(t)
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
  for (const timeout of [-1, 0.5, 2 ** 31]) {
    await rejects(t, 'timeout', RANGE, () => barrier({ timeout }))
    await rejects(t, 'timeout', RANGE, () => notify({ ready: true }, { timeout }))
  }
  const keep = loose(systemd, 'keepWatchdog')
  for (const options of notOptions) throws(t, 'options', TYPE, () => keep(options))
  for (const interval of [null, '1', true]) throws(t, 'interval', TYPE, () => keep({ interval }))
  for (const interval of [0, 0.5, 2 ** 31]) throws(t, 'interval', RANGE, () => keep({ interval }))
  throws(t, 'signal', 'ABORT_ERR', () => keep({ signal: AbortSignal.abort() }))

  await notify({ ready: true })
  t.is(text(await receiveSoon(socket)), 'READY=1') // the first that came
})

/** Fills the queue of the manager. */
async function fillQueue(): Promise<void> {
  const ending = new AbortController()
  for (;;) {
    const last = notify({ status: 'fills the queue' }, { signal: ending.signal })
    if (!(await isPending(last))) continue
    ending.abort()
    await last.catch(() => {})
    return
  }
}

onLinux('a manager that receives nothing is ETIMEDOUT, and keeps no finished process alive [S248]', async (t) => {
  openNotifySocket(t)
  await fillQueue()
  for (const call of [
    notify({ ready: true }, { timeout: 20 }),
    storeFds('name', [0], { timeout: 20 }),
    removeFds('name', { timeout: 20 })
  ]) {
    const error = await t.throwsAsync(call, { code: 'ETIMEDOUT' })
    t.like(error, { syscall: 'sendmsg' })
  }
  const notifying = startFixture('passed', ['notify'])
  const watching = startFixture('passed', ['keep-watchdog'])
  for (const { child } of [notifying, watching]) t.teardown(() => child.kill())
  t.is(await watching.done, '')
  t.is((await notifying.done).trim(), '["ETIMEDOUT"]') // after the default time
})

onLinux('an abort ends a notification that waits for room in the manager', async (t) => {
  openNotifySocket(t)
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

onLinux('neither a watchdog nor a message that has gone keeps the process alive', async (t) => {
  openNotifySocket(t)
  const program = `import { keepWatchdog, notify } from 'fdpass/systemd'
    keepWatchdog({ interval: 10 })
    await notify({ ready: true })
    console.log('ends')`
  const args = ['--input-type=module', '--eval', program]
  t.is(await endWith(t, spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })), 'ends\n')
})

onLinux('a notification closes what it has opened, and nothing else', async (t) => {
  const socket = openNotifySocket(t)
  const [read, write] = pipe()
  await storeFds('pipe', [write])
  write.closeSync()
  ;(await receiveSoon(socket)).close()

  t.is(readSync(read.fd, Buffer.alloc(1)), 0) // no writing end is left
  read.closeSync()
})
