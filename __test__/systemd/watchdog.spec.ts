import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { bind } from 'fdpass'
import { keepWatchdog, watchdogInterval } from 'fdpass/systemd'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { endWith, fixturePath, fixtureSource, runs } from '../helpers/processes.ts'
import { openNotifySocket, setVariables } from '../helpers/service-manager.ts'
import { receiveSoon, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux', test.serial)

const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')

const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd', test.serial)

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

onLinux('keepWatchdog notifies twice in each interval, until it is disposed of or aborted', async (t) => {
  const socket = openNotifySocket(t)
  setVariables(t, { WATCHDOG_USEC: '60000', WATCHDOG_PID: `${process.pid}` })
  t.is(watchdogInterval(), 60)
  for (const end of ['dispose', 'abort']) {
    const ending = new AbortController()
    const started = performance.now()
    const watchdog = keepWatchdog({ signal: ending.signal })
    for (let i = 0; i < 5; i++) t.is(text(await receiveSoon(socket)), 'WATCHDOG=1')
    t.true(performance.now() - started > 100) // the first came at once, and the others each 30 ms
    if (end === 'dispose') watchdog[Symbol.dispose]()
    else ending.abort()
    const rest = socket.recv({ signal: AbortSignal.timeout(150) })
    await t.throwsAsync(rest, { name: 'AbortError' }, end)
    watchdog[Symbol.dispose]()
  }
  setVariables(t, { WATCHDOG_PID: '1' })
  {
    using _none = keepWatchdog()
    await t.throwsAsync(socket.recv({ signal: AbortSignal.timeout(100) }), { name: 'AbortError' })
  }
  using _own = keepWatchdog({ interval: 20 })
  for (let i = 0; i < 3; i++) t.is(text(await receiveSoon(socket)), 'WATCHDOG=1')
})

onLinux('a watchdog that cannot be fed is a warning, and is fed again', async (t) => {
  const warnings: Error[] = []
  const listen = (warning: Error) => warnings.push(warning)
  process.on('warning', listen)
  t.teardown(() => process.off('warning', listen))
  const warned = once(process, 'warning')
  const path = newPath('late')
  setVariables(t, { NOTIFY_SOCKET: path })
  using _watchdog = keepWatchdog({ interval: 20 })
  await warned
  await sleep(50) // two intervals more, without another warning
  t.regex(warnings[0]!.message, /^The watchdog cannot be fed: ENOENT/)
  t.is(warnings.length, 1)
  t.is((warnings[0] as NodeJS.ErrnoException).code, 'FDPASS_WATCHDOG')
  using socket = bind(path)
  t.is(text(await receiveSoon(socket)), 'WATCHDOG=1')
})
