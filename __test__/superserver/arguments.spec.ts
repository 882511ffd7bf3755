import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, bindListener, socketpair } from 'fdpass'
import * as superserver from 'fdpass/superserver'
import {
  type Loose,
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
import { isLinux } from '../helpers/conditions.ts'
import { countFds, openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { newPort } from '../helpers/inetds.ts'
import { begin, call, children, sceneOf, where } from '../helpers/superserver.ts'

const superserve = superserver.superserve as Loose
const folder = temporaryFolder()
const listen = 'tcp:127.0.0.1:0'
const command = ['/bin/cat']

type Case = readonly [option: string, value: unknown, code: string]

const notTexts = [null, 5, true, 5n, {}, [], Symbol('text'), () => 'text']
const notArrays = [null, 5, true, 'text', {}, new Set(['text']), () => []]
const notObjects = [null, 5, true, 'text', 5n, () => ({})]

/** Values for an option that is an integer between these. */
function integers(option: string, least: number, most: number): Case[] {
  return [
    ...notNumbers.map((value) => [option, value, TYPE] as const),
    ...notIntegers.map((value) => [option, value, RANGE] as const),
    [option, least - 1, RANGE],
    [option, most + 1, RANGE]
  ]
}

const each = (option: string, values: readonly unknown[], code: string): Case[] =>
  values.map((value) => [option, value, code] as const)

const MOST = 2 ** 31 - 1

/** What is wrong in any service. */
const common: readonly Case[] = [
  ...each('listen', [undefined, null, 80, true, {}, socketpair], TYPE),
  ...each('listen', [[], '', '80', 'tcp', 'tcp:', 'tcp:host', 'tcp:a:b', 'tcp:::1:80', 'tcp:[1]:80'], VALUE),
  ...each('listen', ['tcp:host:65536', 'tcp:host:-1', 'tcp:host:1.5', 'sctp:host:80', 'TCP:host:80', ' tcp:80'], VALUE),
  ...each('listen', ['unix:', 'unix:relative', 'unix:/with\0nul', 'fd:', 'fd:-1', 'fd:1.5', `fd:${MOST + 1}`], VALUE),
  ['listen', `unix:/${'x'.repeat(200)}`, 'ENAMETOOLONG'],
  ...integers('umask', 0, 0o777),
  ...integers('socketMode', 0, 0o777),
  ...['socketOwner', 'socketGroup'].flatMap((name) => [
    ...each(name, [null, true, {}, []], TYPE),
    ...each(name, ['', 'no such name', 'with\0nul'], VALUE),
    ...each(name, [-1, 1.5, 2 ** 32 - 1], RANGE)
  ]),
  ...integers('backlog', 0, MOST),
  ...integers('drainTimeout', 0, MOST),
  ...each('user', [null, true, {}, []], TYPE),
  ...each('user', ['', 'no such user', 'with\0nul'], VALUE),
  ...each('user', [-1, 1.5, 2 ** 32 - 1], RANGE),
  ...each('group', [null, true, {}, []], TYPE),
  ...each('group', ['', 'no such group', 'with\0nul'], VALUE),
  ...each('group', [-1, 1.5, 2 ** 32 - 1], RANGE),
  ...each('groups', notArrays, TYPE),
  ...each('groups', [[], [0]], VALUE), // without a user or a group
  ...each('cwd', notTexts, TYPE),
  ...each('cwd', ['with\0nul'], VALUE),
  ...each('env', [...notObjects, []], TYPE),
  ...each('rlimits', notObjects, TYPE),
  ...each('noNewPrivileges', [null, 0, 1, 'true', {}], TYPE),
  ...each('mode', [null, '', 'worker', 'Wait', 5, {}], VALUE)
]

/** What is wrong for workers. */
const ofWorkers: readonly Case[] = [
  ...each('module', notTexts, TYPE),
  ...each('module', ['with\0nul', new URL('data:text/javascript,'), new URL('http://host/module.js')], VALUE),
  ...each('args', notArrays, TYPE),
  ...each('execArgv', notArrays, TYPE),
  ...each('handoff', [null, '', 'listeners', 5, {}], VALUE),
  ...integers('workers', 1, 4096),
  ...integers('maxConnections', 1, MOST),
  ...integers('maxPerWorker', 1, MOST),
  ...integers('maxPerClient', 1, MOST),
  ...integers('readyTimeout', 1, MOST),
  ...integers('acknowledgeTimeout', 1, MOST),
  ...each('maxSpawns', [1], VALUE), // is for programs
  ...each('pause', [1], VALUE)
]

/** What is wrong for programs. */
const ofPrograms: readonly Case[] = [
  ...each('command', notArrays, TYPE),
  ...each('args', [['text']], VALUE), // is for modules
  ...each('execArgv', [['text']], VALUE),
  ...each('handoff', ['connection', 'listener'], VALUE), // is for workers
  ...each('workers', [1], VALUE),
  ...each('maxPerWorker', [1], VALUE),
  ...each('readyTimeout', [1], VALUE),
  ...each('acknowledgeTimeout', [1], VALUE),
  ...integers('maxSpawns', 1, MOST),
  ...integers('pause', 0, MOST)
]

const show = (value: unknown) =>
  typeof value === 'symbol' || value === null ? String(value) : `${typeof value} ${value}`
const quoted = (name: string) => new RegExp(`"${name.replaceAll(/[.[\]]/g, String.raw`\$&`)}"`)

/** Gives an option these values, in a service that stands alone and in one of several, where the message names it in full. */
async function refuses(t: ExecutionContext, base: object, cases: readonly Case[]): Promise<void> {
  await rejects(t, 'nothing', TYPE, () => superserve({}), quoted('options.listen')) // the first call opens what stays open
  const before = countFds()
  for (const [option, value, code] of cases) {
    const service = { ...base, [option]: value }
    const what = `${option}: ${show(value)}`
    await rejects(t, what, code, () => superserve(service), quoted(`options.${option}`))
    const services = { good: { listen, command }, bad: service }
    await rejects(t, what, code, () => superserve({ services }), quoted(`options.services.bad.${option}`))
  }
  t.is(countFds(), before)
}

test.serial('each option of a service has a type and a range, and an error that names it in full', async (t) => {
  await refuses(t, { listen, command }, common)
  await refuses(t, { listen, ...sceneOf('lines') }, ofWorkers)
  await refuses(t, { listen, command }, ofPrograms)
})

test.serial('what is in a list or an object of options is named by its place in it', async (t) => {
  const cases: readonly (readonly [name: string, more: object, code: string])[] = [
    ['listen[1]', { listen: [listen, 80] }, TYPE],
    ['listen[0]', { listen: ['tcp:host', listen] }, VALUE],
    ['listen[2]', { listen: [listen, 'tcp:127.0.0.2:0', listen] }, VALUE], // twice
    ['listen[1]', { listen: [listen, 'udp:127.0.0.1:0'] }, VALUE], // has no connections
    ['listen[0]', { listen: 'udp:127.0.0.1:0', mode: 'nowait' }, VALUE],
    ['command[0]', { command: [] }, VALUE],
    ['command[0]', { command: ['cat'] }, VALUE], // is not searched for
    ['command[1]', { command: ['/bin/cat', 5] }, TYPE],
    ['command[1]', { command: ['/bin/cat', 'with\0nul'] }, VALUE],
    ['args[1]', { ...sceneOf('lines'), command: undefined, args: ['lines', null] }, TYPE],
    ['execArgv[0]', { ...sceneOf('lines'), command: undefined, execArgv: ['with\0nul'] }, VALUE],
    ['groups[1]', { group: 0, groups: [0, {}] }, TYPE],
    ['groups[0]', { group: 0, groups: ['no such group'] }, VALUE],
    ['groups[0]', { group: 0, groups: [-1] }, RANGE],
    ['env.NAME', { env: { NAME: 5 } }, TYPE],
    ['env.NAME', { env: { NAME: 'with\0nul' } }, VALUE],
    ['rlimits.files', { rlimits: { files: 5 } }, VALUE], // the system has no such limit
    ['rlimits.NOFILE', { rlimits: { NOFILE: 5 } }, VALUE],
    ['rlimits.nofile', { rlimits: { nofile: '5' } }, TYPE],
    ['rlimits.nofile', { rlimits: { nofile: -1 } }, RANGE],
    ['rlimits.nofile', { rlimits: { nofile: [5] } }, VALUE],
    ['rlimits.nofile', { rlimits: { nofile: [5, 6, 7] } }, VALUE],
    ['rlimits.nofile', { rlimits: { nofile: [6, 5] } }, RANGE],
    ['module', { ...sceneOf('lines') }, VALUE], // and a command
    ['module', { command: undefined }, VALUE], // neither
    ['maxConection', { maxConection: 5 }, VALUE],
    ['toString', { toString: 5 }, VALUE],
    ['User', { User: 'nobody' }, VALUE],
    ['maxConnections', { mode: 'wait', maxConnections: 5 }, VALUE], // would not hold
    ['maxPerClient', { mode: 'wait', maxPerClient: 5 }, VALUE]
  ]
  for (const [name, more, code] of cases) {
    const what = `${name} of ${Object.keys(more).join()}`
    await rejects(t, what, code, () => superserve({ listen, command, ...more }), quoted(`options.${name}`))
  }
})

test.serial('only descriptors that listen, or of datagrams, are listened on, and they have to be open', async (t) => {
  const [a, b] = socketpair()
  using end = Descriptor.from(a.release())
  using file = Descriptor.from(openFile())
  b.close()
  for (const descriptor of [end, file]) {
    await rejects(t, descriptor.kind, VALUE, () => superserve({ listen: descriptor, command }), /"options\.listen"/)
  }
  const closed = bindListener({ host: '127.0.0.1', port: 0 })
  closed.closeSync()
  await rejects(t, 'closed', 'ERR_DESCRIPTOR_CLOSED', () => superserve({ listen: closed, command }))
  for (const number of [end, file]) {
    await rejects(
      t,
      `fd:${number.fd}`,
      VALUE,
      () => superserve({ listen: `fd:${number.fd}`, command }),
      /"options\.listen"/
    )
  }
  await rejects(t, 'not open', 'EBADF', () => superserve({ listen: `fd:${MOST}`, command }))
})

test('services stand alone, are named, and are objects', async (t) => {
  const good = { listen, command }
  for (const services of notObjects) {
    await rejects(t, show(services), TYPE, () => superserve({ services }), /"options\.services"/)
  }
  await rejects(t, 'none', VALUE, () => superserve({ services: {} }), /"options\.services"/)
  for (const service of [...notObjects, []]) {
    await rejects(t, show(service), TYPE, () => superserve({ services: { it: service } }), /"options\.services\.it"/)
  }
  await rejects(t, 'beside', VALUE, () => superserve({ services: { good }, user: 'nobody' }), /"options\.user"/)
  await rejects(t, 'misspelt', VALUE, () => superserve({ services: { good }, signal_: 1 }), /"options\.signal_"/)
})

test('what is beside the services has its types', async (t) => {
  for (const options of [undefined, ...notOptions.filter((value) => typeof value !== 'string'), []]) {
    await rejects(t, show(options), TYPE, () => superserve(options))
  }
  for (const name of ['signals', 'notify']) {
    for (const value of [null, 0, 1, 'true', {}]) {
      const message = new RegExp(`"options\\.${name}"`)
      await rejects(t, `${name}: ${show(value)}`, TYPE, () => superserve({ listen, command, [name]: value }), message)
    }
  }
  for (const beforeAccept of [null, 0, true, 'now', {}]) {
    const all = { listen, command, beforeAccept }
    await rejects(t, `beforeAccept: ${show(beforeAccept)}`, TYPE, () => superserve(all), /"options\.beforeAccept"/)
  }
  for (const signal of notSignals) {
    const all = { listen, command, signal }
    await rejects(t, `signal: ${show(signal)}`, TYPE, () => superserve(all), /"options\.signal"/)
  }
})

test('a file has to be there, to be JSON, and to hold an object of options', async (t) => {
  const file = join(folder, 'services.json')
  await rejects(t, 'missing', 'ENOENT', () => superserve(file))
  const cases: readonly (readonly [content: string, code: string | undefined, message: RegExp])[] = [
    ['5', TYPE, /services\.json/],
    ['null', TYPE, /services\.json/],
    ['[]', TYPE, /"options/],
    ['{}', TYPE, /"options\.listen"/],
    ['{"services":{"it":{"listen":"tcp:0"}}}', VALUE, /"options\.services\.it\.module"/],
    [JSON.stringify({ listen, command, signals: 'yes' }), TYPE, /"options\.signals"/],
    [JSON.stringify({ listen, command, maxConection: 5 }), VALUE, /"options\.maxConection"/]
  ]
  for (const [content, code, message] of cases) {
    writeFileSync(file, content)
    await rejects(t, content, code, () => superserve(file), message)
  }
  writeFileSync(file, '{ "listen": ')
  await t.throwsAsync(superserve(file) as Promise<unknown>, { instanceOf: SyntaxError })
  writeFileSync(file, JSON.stringify({ listen, command }))
  for (const more of notOptions) await rejects(t, show(more), TYPE, () => superserve(file, more), /"options"/)
  await rejects(t, 'signal', TYPE, () => superserve(file, { signal: 5 }), /"options\.signal"/)
})

test('close() has its options checked, and nothing happens then', async (t) => {
  const server = await begin(t, { listen, command: ['/bin/cat'] })
  const close = loose(server, 'close')
  for (const options of notOptions) await rejects(t, show(options), TYPE, () => close(options), /"options"/)
  for (const timeout of notNumbers)
    await rejects(t, show(timeout), TYPE, () => close({ timeout }), /"options\.timeout"/)
  for (const timeout of [...notIntegers, -1, 2 ** 31]) {
    await rejects(t, show(timeout), RANGE, () => close({ timeout }), /"options\.timeout"/)
  }
  t.false(server.closed)
  t.is(await (await call(t, where(server))).ask('hello'), 'hello')
  throws(t, 'new', VALUE, () => new (superserver.Superserver as unknown as new () => object)())
})

test('settings that contradict each other, or the system, are refused in words', async (t) => {
  const noGroup = 'with it: no passwd entry has its group. Received 3999999999'
  for (const [options, message] of [
    [
      { listen, module: 'x.mjs', preload: true, listenAs: ['*', 3000] },
      `The "options.listenAs" property has more elements than 'listen'`
    ],
    [
      { listen, module: '-' },
      'The "options.module" property must be a file: standard input can be read once, and workers have none'
    ],
    [{ listen, command, user: 3_999_999_999 }, `The "options.user" property needs options.group ${noGroup}`],
    [
      { services: { web: { listen, command, user: 3_999_999_999 } } },
      `The "options.services.web.user" property needs options.services.web.group ${noGroup}`
    ]
  ] as const) {
    await t.throwsAsync(superserve(options) as Promise<unknown>, { code: VALUE, message })
  }
})

test('a process that is no worker has no connections and no listeners', async (t) => {
  t.false(superserver.isWorker)
  const { connections, listeners, serve } = superserver
  throws(t, 'connections', 'ERR_INVALID_STATE', () => connections())
  throws(t, 'listeners', 'ERR_INVALID_STATE', () => listeners())
  t.throws(() => superserver.worker.retire(), {
    code: 'ERR_INVALID_STATE',
    message: 'This process is no worker, or has not called connections(), serve() or listeners()'
  })
  await rejects(t, 'serve', 'ERR_INVALID_STATE', () => serve(createServer()))
  for (const options of notOptions) throws(t, show(options), TYPE, () => (connections as Loose)(options))
  for (const allowHalfOpen of [null, 0, 1, 'true', {}]) {
    throws(t, show(allowHalfOpen), TYPE, () => (connections as Loose)({ allowHalfOpen }), /"options\.allowHalfOpen"/)
  }
  for (const server of [undefined, null, 5, {}, () => {}]) {
    await rejects(t, show(server), TYPE, () => (serve as Loose)(server), /"server"/)
  }
})

/** Starts that fail, with something in the way of the last service; and the error. */
const failures: readonly (readonly [
  title: string,
  options: (taken: string) => object,
  error: { code: string; syscall?: string }
])[] = [
  ['an address that is taken', (taken) => ({ listen: taken, ...sceneOf('lines') }), { code: 'EADDRINUSE' }],
  ['a module that ends at once', () => ({ listen, ...sceneOf('unless', '/') }), { code: 'ERR_WORKER_FAILED' }],
  [
    'a program that is missing',
    () => ({ listen, command: ['/missing'], mode: 'workers' }),
    { code: 'ENOENT', syscall: 'execve' }
  ],
  [
    'a program that cannot be executed',
    () => ({ listen, command: ['/etc/passwd'], mode: 'workers', handoff: 'listener' }),
    { code: 'EACCES', syscall: 'execve' }
  ],
  [
    'a folder that is missing',
    () => ({ listen, ...sceneOf('lines'), cwd: '/missing' }),
    { code: 'ENOENT', syscall: 'chdir' }
  ],
  [
    'a worker that is never ready',
    () => ({ listen, ...sceneOf('never'), readyTimeout: 50, workers: 2 }),
    { code: 'ERR_WORKER_FAILED' }
  ],
  [
    'a program that is no worker',
    () => ({ listen, command: ['/bin/sh', '-c', 'exit 3'], mode: 'workers' }),
    { code: 'ERR_WORKER_FAILED' }
  ]
]

for (const [title, options, error] of failures) {
  test.serial(`a start that fails by ${title} leaves nothing open, and none of the services before it`, async (t) => {
    const blocker = createServer().listen(0, '127.0.0.1')
    await once(blocker, 'listening')
    t.teardown(() => blocker.close())
    const taken = `tcp:127.0.0.1:${(blocker.address() as AddressInfo).port}`
    const port = newPort()
    const good = { listen: `tcp:127.0.0.1:${port}`, ...sceneOf('lines') }
    const path = join(folder, 'good')
    const services = { good, other: { ...good, listen: `unix:${path}`, handoff: 'listener' }, bad: options(taken) }
    await begin(t, { listen: 'tcp:127.0.0.1:0', command: ['/bin/cat'] }) // opens what stays open
    const before = countFds()
    const childrenBefore = isLinux ? children() : []
    const promise = superserve({ services, signals: false }) as Promise<unknown>
    t.like(await t.throwsAsync(promise), error)
    t.is(countFds(), before)
    if (isLinux) t.deepEqual(children(), childrenBefore)
    const { good: first, other: second } = services
    const server = await begin(t, { services: { good: first, other: second as superserver.ServiceOptions } })
    t.is(await (await call(t, { port, host: '127.0.0.1' })).ask('hello'), 'hello')
    t.is(await (await call(t, where(server, 1))).ask('hello'), 'hello')
  })
}
