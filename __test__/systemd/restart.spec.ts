import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { bindListener } from 'fdpass'
import type { ServiceState } from 'fdpass/systemd'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { newPort, until } from '../helpers/inetds.ts'
import { fixturePath, fixtureSource } from '../helpers/processes.ts'
import { ServiceManager } from '../helpers/service-manager.ts'
import { call } from '../helpers/superserver.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')
const inNamespaces = ['--mount', '--propagation', 'private']

/** Whether systemd can be run here as a user's, in namespaces of its own. */
function canRunSystemd(): boolean {
  if (!isLinux || process.getuid!() !== 0) return false
  const folder = units({})
  const { stdout } = spawnSync('unshare', [...inNamespaces, 'sh', fixtureSource('systemd.sh'), folder], {
    input: 'is-active default.target\n',
    encoding: 'utf8',
    timeout: 20_000
  })
  return stdout.includes('= 0\nactive\n')
}

const folder = temporaryFolder()

/** A folder with units. */
function units(contents: Readonly<Record<string, string>>): string {
  const config = mkdtempSync(join(folder, 'systemd-'))
  const user = join(config, 'systemd', 'user')
  mkdirSync(user, { recursive: true })
  writeFileSync(join(user, 'default.target'), '[Unit]\nDescription=the first target\n')
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(user, name), content)
  return config
}

/** systemd's version. */
const version = Number(
  /^systemd (\d+)/.exec(spawnSync('systemctl', ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1]
)
const withSystemd = onlyIf(canRunSystemd(), 'needs systemd, and to begin as root')

/** systemd, to which systemctl speaks. */
class Systemd {
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>
  readonly #log: string

  constructor(t: ExecutionContext, contents: Readonly<Record<string, string>>) {
    const config = units(contents)
    this.#log = join(config, 'log')
    const args = [...inNamespaces, 'sh', fixtureSource('systemd.sh'), config]
    this.#child = spawn('unshare', args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface(this.#child.stdout!)[Symbol.asyncIterator]()
    const ended = once(this.#child, 'close')
    t.teardown(async () => {
      this.#child.stdin!.end()
      await ended
      if (!t.passed) t.log(readFileSync(this.#log, 'utf8'))
    })
  }

  /** What a command has printed; throws where it has failed. */
  async #answer(): Promise<string> {
    const output: string[] = []
    for (;;) {
      const { done, value } = await this.#lines.next()
      if (done === true) throw new Error('systemd has ended')
      if (value === '= 0') return output.join('\n')
      if (value.startsWith('= ')) throw new Error(output.join('\n'))
      output.push(value)
    }
  }

  async start(): Promise<void> {
    await this.#answer()
  }

  async ctl(command: string): Promise<string> {
    this.#child.stdin!.write(`${command}\n`)
    return this.#answer()
  }

  /** Waits until a service was started again so often. */
  async restarts(unit: string, count: number): Promise<void> {
    while (Number(await this.property(unit, 'NRestarts')) < count) await sleep(50)
  }

  async property(unit: string, name: string): Promise<string> {
    return this.ctl(`show --value --property=${name} ${unit}`)
  }
}

onLinux('a connection survives the restart of a service: the manager keeps it (played by the test)', async (t) => {
  const manager = new ServiceManager(t)
  const web = bindListener({ port: 0, host: '127.0.0.1' })
  t.teardown(() => web.closeSync())
  const { port } = web.address as { port: number }
  const first = manager.start(t, 'service', [['web', web]])
  t.deepEqual(await manager.hears('READY=1'), ['READY=1', 'STATUS=0 connections'])

  const client = await call(t, { host: '127.0.0.1', port })
  t.is(await client.ask('pid'), `${first.pid}`)
  t.is(await client.ask('store kept in memory'), 'true')
  t.deepEqual(
    manager.store.map(({ name, poll }) => [name, poll]),
    [
      [`connection-${first.pid}-0`, true],
      ['memory', false]
    ]
  )
  const ended = once(first, 'exit')
  client.say('exit')
  t.deepEqual(await ended, [1, null])

  client.say('pid') // nobody is there to read it
  const second = manager.start(t, 'service', [['web', web]])
  t.deepEqual(await manager.hears('READY=1'), ['READY=1', 'STATUS=1 connections'])
  t.is(await client.next(), `${second.pid}`)
  t.not(second.pid, first.pid)
  t.is(await client.ask('names'), `web,connection-${first.pid}-0,memory`)
  t.is(await client.ask('memory'), 'kept in memory')
  t.is(await client.ask('forget'), 'true')
  t.false(manager.store.some(({ name }) => name === 'memory'))
  const another = await call(t, { host: '127.0.0.1', port })
  t.is(await another.ask('pid'), `${second.pid}`)
  client.close()
  await until(() => manager.store.every(({ name }) => name === `connection-${second.pid}-0`))
})

onLinux('a superserver serves on sockets from its manager, and notifies it of its state', async (t) => {
  const manager = new ServiceManager(t, 'abstract')
  const [one, two] = [bindListener({ port: 0, host: '127.0.0.1' }), bindListener({ port: 0, host: '127.0.0.1' })]
  const child = manager.start(
    t,
    'superserver',
    [
      ['web', one],
      ['web', two]
    ],
    'passed'
  )
  t.deepEqual(await manager.hears('READY=1'), ['READY=1'])
  const workers = []
  for (const listener of [one, two]) {
    const client = await call(t, { host: '127.0.0.1', port: (listener.address as { port: number }).port })
    workers.push(await client.ask('pid'))
    t.is(await client.ask('env LISTEN_FDS'), 'null')
    listener.closeSync()
    client.close()
  }
  t.is(workers[0], workers[1])
  child.kill('SIGTERM')
  t.deepEqual(await manager.hears('STOPPING=1'), ['STOPPING=1'])
  t.deepEqual(await once(child, 'exit'), [null, 'SIGTERM'])
})

const node = [process.execPath, ...process.execArgv, fixturePath('service')].join(' ')

const service = (more = '') => `[Service]
Type=notify
NotifyAccess=main
ExecStart=${node}
WorkingDirectory=${process.cwd()}
Environment=FDPASS_BACKEND=${process.env.FDPASS_BACKEND ?? 'uv'}
FileDescriptorStoreMax=100
Restart=on-failure
RestartSec=100ms
${more}
`

const socket = (port: number) => `[Socket]
ListenStream=127.0.0.1:${port}
FileDescriptorName=web
`

withSystemd('a connection survives the restart of a service of systemd', async (t) => {
  const port = newPort()
  const systemd = new Systemd(t, { 'web.socket': socket(port), 'web.service': service() })
  await systemd.start()
  await systemd.ctl('start web.socket')
  const client = await call(t, { host: '127.0.0.1', port })
  const first = await client.ask('pid') // its connection has started the service
  t.is(await systemd.property('web.service', 'MainPID'), first)
  t.is(await systemd.property('web.service', 'StatusText'), '0 connections')
  t.is(await client.ask('store kept in memory'), 'true')
  t.is(await systemd.property('web.service', 'NFileDescriptorStore'), '2')

  client.say('exit')
  await systemd.restarts('web.service', 1) // what it has read by then would end with it
  const second = await client.ask('pid')
  t.not(second, first)
  t.is(await systemd.property('web.service', 'MainPID'), second)
  t.is(await systemd.property('web.service', 'StatusText'), '1 connections')
  t.is(await client.ask('memory'), 'kept in memory')
  const names = (await client.ask('names')).split(',')
  t.is(names[0], 'web')
  t.true(names.includes(`connection-${first}-0`) && names.includes('memory') && names.length === 3)

  await systemd.ctl('restart web.service')
  const third = await client.ask('pid')
  t.false([first, second].includes(third))
  t.is(await client.ask('forget'), 'true')
  t.is(await systemd.property('web.service', 'NFileDescriptorStore'), '1')
  t.is(await client.ask('memory'), 'kept in memory') // what was passed is this process's own
  await systemd.ctl('stop web.socket')
  await systemd.ctl('stop web.service')
  t.is(await client.ended, 'end')
})

withSystemd('systemd kills a service whose event loop hangs, and the connection lives on', async (t) => {
  const port = newPort()
  const systemd = new Systemd(t, { 'web.socket': socket(port), 'web.service': service('WatchdogSec=3s') })
  await systemd.start()
  await systemd.ctl('start web.socket')
  const client = await call(t, { host: '127.0.0.1', port })
  t.is(await client.ask('watchdog'), '3000')
  const first = await client.ask('pid')
  await sleep(3500)
  t.is(await client.ask('pid'), first) // it is fed
  client.say('hang')
  await systemd.restarts('web.service', 1)
  t.not(await client.ask('pid'), first)
})

withSystemd('systemd shows the state that was sent', async (t) => {
  const port = newPort()
  const systemd = new Systemd(t, { 'web.socket': socket(port), 'web.service': service('WatchdogSec=1min') })
  await systemd.start()
  await systemd.ctl('start web.socket')
  const client = await call(t, { host: '127.0.0.1', port })
  const tell = (state: ServiceState) => client.ask(`tell ${JSON.stringify(state)}`)
  const cases: [state: ServiceState, property: string, value: string][] = [
    [{ reloading: true, ready: true }, 'ActiveState', 'reloading'],
    [{ ready: true }, 'ActiveState', 'active'],
    [{ status: 'busy with % and ü' }, 'StatusText', 'busy with % and ü'],
    [{ errno: -2 }, 'StatusErrno', '2'],
    [{ watchdogTimeout: 90_000 }, 'WatchdogUSec', '1min 30s'],
    [{ notifyAccess: 'all' }, 'NotifyAccess', 'all'],
    [{ variables: { X_MORE: '1', STATUS: 'by a variable' } }, 'StatusText', 'by a variable'],
    [{ mainPid: Number(await client.ask('pid')) }, 'MainPID', await client.ask('pid')],
    [{ stopping: true }, 'ActiveState', 'deactivating']
  ]
  for (const [state, property, value] of cases) {
    t.is(await tell(state), 'true')
    // NotifyAccess= can be sent since systemd 254.
    if (property !== 'NotifyAccess' || version >= 254) t.is(await systemd.property('web.service', property), value)
  }
  client.say('exit') // it is expected to
  await systemd.ctl('stop web.socket web.service')
  t.is(await client.ended, 'end')
})

const addressOf = (port: number) => ({ address: '127.0.0.1', family: 'IPv4', port })

withSystemd(
  'systemd passes what has no name of its own under that of its unit, and connections as `connection`',
  async (t) => {
    const [one, two, each] = [newPort(), newPort(), newPort()]
    const output = join(mkdtempSync(join(folder, 'output-')), 'told')
    const passed = [process.execPath, ...process.execArgv, fixturePath('passed'), 'once'].join(' ')
    const print = `[Service]\nType=oneshot\nExecStart=${passed}\nWorkingDirectory=${process.cwd()}\nStandardOutput=append:${output}\n`
    const systemd = new Systemd(t, {
      'two.socket': `[Socket]\nListenStream=127.0.0.1:${one}\nListenDatagram=127.0.0.1:${two}\n`,
      'two.service': print,
      'each.socket': `[Socket]\nListenStream=127.0.0.1:${each}\nAccept=yes\n`,
      'each@.service': print
    })
    await systemd.start()
    await systemd.ctl('start two.socket each.socket')
    await systemd.ctl('start two.service')
    const client = await call(t, { host: '127.0.0.1', port: each })
    t.is(await client.ended, 'end')
    await until(() => readFileSync(output, 'utf8').split('\n').length > 2)
    const told = readFileSync(output, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown)
    t.deepEqual(told, [
      [
        [
          [
            'two.socket',
            [
              ['tcp-listener', addressOf(one)],
              ['udp', addressOf(two)]
            ]
          ]
        ],
        0,
        []
      ],
      [[['connection', [['tcp', addressOf(each)]]]], 0, []]
    ])
  }
)
