import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { isThere } from '../helpers/superserver-clients.ts'
import {
  type Superserver,
  marks,
  newPort,
  scene,
  socketAt,
  startDaemon,
  superservers,
  until
} from '../helpers/superservers.ts'

const isRoot = process.getuid?.() === 0
const NOBODY = 65_534
const DAEMON = 1
const folder = temporaryFolder()
chmodSync(folder, 0o755)
let files = 0

/** What is observed of a superserver, and what all three show; where one differs on purpose, what that shows. */
interface Scenario {
  readonly title: string
  observe(t: ExecutionContext, server: Superserver): Promise<unknown>
  readonly seen: unknown
  readonly but?: Partial<Record<Superserver['name'], readonly [title: string, seen: unknown]>>
  /** The one that has no such thing. */
  readonly lacking?: Superserver['name']
  /** Whether ours has to begin as root too. */
  readonly changesUser?: boolean
}

/** What a client was told, and how that ended, or that it did not. */
type Heard = readonly [text: string, end: string]

/** A client of a service. */
interface Client {
  /** What it has heard until now. */
  readonly heard: () => Heard
  /** Says something. */
  readonly say: (text: string) => void
  /** What it has heard at the end, or when so many milliseconds have gone by. */
  readonly inTheEnd: (milliseconds?: number) => Promise<Heard>
}

/** Connects as a client that says something, and then perhaps that this was all. */
function call(t: ExecutionContext, port: number, text = '', ended = false): Client {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
  let said = ''
  let end = 'open'
  const over = new Promise<void>((resolve) => {
    const finish = (how: string) => {
      end = how
      socket.destroy()
      resolve()
    }
    socket.setEncoding('utf8')
    socket.on('data', (part: string) => (said += part))
    socket.on('end', () => finish('end'))
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code!))
  })
  if (text !== '') socket.write(text)
  if (ended) socket.end()
  t.teardown(() => void socket.destroy())
  const heard = (): Heard => [said, end]
  return {
    heard,
    say: (more) => void socket.write(more),
    async inTheEnd(milliseconds = 10_000) {
      await Promise.race([over, delay(milliseconds, undefined, { ref: false })])
      return heard()
    }
  }
}

/** Calls a service, and what it says by its end is JSON. */
async function ask(t: ExecutionContext, port: number): Promise<Record<string, unknown>> {
  const [said, end] = await call(t, port).inTheEnd()
  if (end !== 'end') throw new Error(`The connection ended with ${end}: ${said}`)
  return JSON.parse(said) as Record<string, unknown>
}

/** The sender of datagrams to a service. */
interface Sender {
  readonly send: (...texts: string[]) => void
  /** Resolves when the service has received all that was sent. */
  readonly taken: () => Promise<void>
  /** The answers, when there are so many, or so many milliseconds have gone by. */
  readonly answers: (count: number, milliseconds?: number) => Promise<Record<string, unknown>[]>
}

/** Becomes a sender whom only the service's own address can answer. */
async function post(t: ExecutionContext, port: number): Promise<Sender> {
  const socket = createSocket('udp4')
  t.teardown(() => void socket.close())
  socket.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  const received: Record<string, unknown>[] = []
  socket.on('message', (data) => received.push(JSON.parse(data.toString()) as Record<string, unknown>))
  const sent: Promise<void>[] = []
  // A line of /proc/net/udp: slot, local address, remote address, state, lengths of both queues; proc_net(5).
  const queue = new RegExp(`: \\w+:${port.toString(16).toUpperCase().padStart(4, '0')} \\S+ \\S+ \\w+:(\\w+)`)
  return {
    send: (...texts) => {
      for (const text of texts) sent.push(new Promise((resolve) => socket.send(text, () => resolve())))
    },
    async taken() {
      await Promise.all(sent)
      await until(() => Number(queue.exec(readFileSync('/proc/net/udp', 'utf8'))?.[1] ?? 1) === 0)
    },
    async answers(count, milliseconds = 5000) {
      const deadline = performance.now() + milliseconds
      while (received.length < count && performance.now() < deadline) await delay(10)
      return received
    }
  }
}

/** A program that can be taken away: a script, for the interpreter. */
function temporaryProgram(command: readonly string[]): { path: string; remove: () => void; restore: () => void } {
  const path = join(folder, `program-${files++}`)
  const restore = () => writeFileSync(path, `#!/bin/sh\nexec ${command.join(' ')}\n`, { mode: 0o755 })
  restore()
  return { path, restore, remove: () => rmSync(path) }
}

/** How the programs that answered followed one another, if each stayed so many seconds. */
function succession(answers: readonly Record<string, unknown>[], stays: number): unknown {
  const starts = new Map(answers.map(({ pid, started }) => [pid, started as number]))
  const inOrder = [...starts.values()].toSorted((a, b) => a - b)
  return {
    answers: answers.length,
    programs: starts.size,
    overlapping: inOrder.some((start, i) => i > 0 && start - inOrder[i - 1]! < stays)
  }
}

const common = {
  descriptors: [0, 1, 2],
  same: true,
  blocking: true,
  leads: { session: true, group: true }
}

/** What of a program's view is the same in every run. */
function constant({ descriptors, same, blocking, type, listening, leads }: Record<string, unknown>): object {
  return { descriptors, same, blocking, type, listening, leads }
}

/** The real, effective, saved and file system ids of nobody with this group, and its supplementary groups. */
function identity(group: number, groups: string): string[] {
  return [NOBODY, group].map((id) => Array.from({ length: 4 }, () => id).join('\t')).concat(groups)
}

const served: Heard = ['hello', 'end']
const times = (count: number, heard: Heard) => Array.from({ length: count }, () => heard)
const atOnce = (heard: readonly Heard[]) => ({ soon: heard, later: heard })

const scenarios: readonly Scenario[] = [
  {
    title: 'a nowait program has the connection as descriptors 0, 1 and 2, blocking, nothing else, and leads a session',
    async observe(t, server) {
      const port = newPort()
      const { child } = await startDaemon(t, server, [{ port, command: scene('see') }])
      const view = await ask(t, port)
      return { ...constant(view), itsPort: view.port === port, itsChild: view.parent === child.pid }
    },
    seen: { ...common, type: 'SOCK_STREAM', listening: false, itsPort: true, itsChild: true }
  },
  {
    title: 'a wait program has the listener as descriptors 0, 1 and 2, blocking, nothing else, and leads a session',
    async observe(t, server) {
      const port = newPort()
      const { child } = await startDaemon(t, server, [{ port, wait: true, command: scene('see') }])
      const view = await ask(t, port)
      return { ...constant(view), itsPort: view.port === port, itsChild: view.parent === child.pid }
    },
    seen: { ...common, type: 'SOCK_STREAM', listening: true, itsPort: true, itsChild: true }
  },
  {
    title:
      'a datagram program has the socket with the datagram in it as descriptors 0, 1 and 2, blocking, nothing else',
    async observe(t, server) {
      const port = newPort()
      const { child } = await startDaemon(t, server, [{ port, type: 'dgram', wait: true, command: scene('see') }])
      const sender = await post(t, port)
      sender.send('hello')
      const [view = {}] = await sender.answers(1)
      const { received } = view
      return { ...constant(view), received, itsPort: view.port === port, itsChild: view.parent === child.pid }
    },
    seen: { ...common, received: 'hello', type: 'SOCK_DGRAM', listening: false, itsPort: true, itsChild: true }
  },
  {
    title: 'no signal is ignored or blocked in a program',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, command: ['/bin/cat', '/proc/self/status'] }])
      const [status] = await call(t, port).inTheEnd()
      return status.match(/Sig(?:Blk|Ign):\t\w+/g)
    },
    seen: ['SigBlk:\t0000000000000000', 'SigIgn:\t0000000000000000']
  },
  {
    title: 'a program has the environment of its superserver',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, command: ['/usr/bin/env'] }])
      const [text] = await call(t, port).inTheEnd()
      const given = new Set(text.split('\n').map((line) => line.split('=')[0]!))
      const of = Object.keys({ ...process.env, ...marks })
      const named = ['REMOTE_HOST', 'inetd_dummy', 'LISTEN_FDS', 'LISTEN_PID', 'FDPASS_WORKER', 'NODE_CHANNEL_FD']
      return {
        kept: Object.keys(marks).filter((name) => given.has(name)),
        added: named.filter((name) => given.has(name) && !of.includes(name))
      }
    },
    seen: { kept: ['FDPASS_MARK', 'PATH', 'TERM'], added: [] },
    but: {
      'openbsd-inetd': [
        'a program has its environment without what it calls harmful, PATH for instance, and with its own padding',
        { kept: ['FDPASS_MARK'], added: ['inetd_dummy'] }
      ],
      xinetd: [
        "a program has its environment and the client's address",
        { kept: ['FDPASS_MARK', 'PATH', 'TERM'], added: ['REMOTE_HOST'] }
      ]
    }
  },
  {
    title: 'a program has its user, the group that was asked for, and no other group',
    changesUser: true,
    async observe(t, server) {
      const command = ['/bin/cat', '/proc/self/status'] as const
      const services = ['nogroup', 'daemon'].map((group) => ({ port: newPort(), command, user: 'nobody', group }))
      await startDaemon(t, server, services)
      const statuses = await Promise.all(services.map(({ port }) => call(t, port).inTheEnd()))
      return statuses.map(([status]) =>
        [...status.matchAll(/(?:Uid|Gid|Groups):\t(.*)/g)].map(([, ids]) => ids!.trim())
      )
    },
    seen: [identity(NOBODY, ''), identity(DAEMON, '')],
    but: {
      'openbsd-inetd': [
        'a program has its user, the group that was asked for, and that as the only supplementary one',
        [identity(NOBODY, `${NOBODY}`), identity(DAEMON, `${DAEMON}`)]
      ]
    }
  },
  {
    title: 'what a program prints as errors is for its client too',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, command: scene('both') }])
      return call(t, port).inTheEnd()
    },
    seen: ['output, errors', 'end']
  },
  {
    title:
      "a program's end is its connection's, with any status and by a signal; with a reset if something was not read",
    async observe(t, server) {
      const endings = [0, 1, -9].flatMap((status) => [scene('end', status, 'bye'), scene('end', status)])
      const services = endings.map((command) => ({ port: newPort(), command }))
      await startDaemon(t, server, services)
      return Promise.all(services.map(({ port }, i) => call(t, port, i % 2 === 0 ? '' : 'not read').inTheEnd()))
    },
    seen: [0, 1, -9].flatMap(() => [
      ['bye', 'end'],
      ['', 'ECONNRESET']
    ])
  },
  {
    title: 'a connection stays open as long as a child of the program has it',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, command: scene('leave') }])
      return call(t, port).inTheEnd()
    },
    seen: ['parent, child', 'end']
  },
  {
    title: 'a client that has ended its half gets all of the answer',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, command: ['/bin/cat'] }])
      const text = 'all of it '.repeat(300_000)
      const [said, end] = await call(t, port, text, true).inTheEnd()
      return [said === text, end]
    },
    seen: [true, 'end']
  },
  {
    title: 'where a program cannot be executed its client meets the end, and the next one is served if it can again',
    async observe(t, server) {
      const programs = [0, 1, 2].map(() => temporaryProgram(['/bin/cat']))
      const services = programs.map(({ path }) => ({ port: newPort(), command: [path] as const }))
      await startDaemon(t, server, services)
      const [missing, forbidden, meaningless] = programs
      missing!.remove()
      chmodSync(forbidden!.path, 0o644)
      writeFileSync(meaningless!.path, 'no program at all\n')
      const failures = await Promise.all(services.map(({ port }) => call(t, port, '', true).inTheEnd()))
      missing!.restore()
      return [...failures, await call(t, services[0]!.port, 'hello', true).inTheEnd()]
    },
    seen: [
      ['', 'end'],
      ['', 'end'],
      ['', 'end'],
      ['hello', 'end']
    ]
  },
  {
    title: 'one wait program serves all that come while it runs, and the next to come starts another',
    async observe(t, server) {
      const [port, datagrams] = [newPort(), newPort()]
      await startDaemon(t, server, [
        { port, wait: true, command: scene('serve', 0.15) },
        { port: datagrams, type: 'dgram', wait: true, command: scene('serve', 0.15) }
      ])
      const streams = async () => (await Promise.all([1, 2, 3].map(() => ask(t, port)))).map(({ pid }) => pid)
      const packets = async () => {
        const sender = await post(t, datagrams)
        sender.send('a', 'b', 'c')
        return (await sender.answers(3)).map(({ pid }) => pid)
      }
      const both = async () => Promise.all([streams(), packets()])
      const first = await both()
      await until(() => !first.flat().some((pid) => isThere(pid as number)))
      const second = await both()
      return [0, 1].map((i) => ({
        answers: first[i]!.length,
        programs: [new Set(first[i]).size, new Set(second[i]).size],
        another: first[i]![0] !== second[i]![0]
      }))
    },
    seen: [0, 1].map(() => ({ answers: 3, programs: [1, 1], another: true }))
  },
  {
    title: 'connections that a wait program leaves in the backlog are served by its successors, one after the other',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, wait: true, command: scene('once', 0.1) }])
      return succession(await Promise.all([1, 2, 3].map(() => ask(t, port))), 0.1)
    },
    seen: { answers: 3, programs: 3, overlapping: false }
  },
  {
    title: 'a listener that a wait program has switched to non-blocking mode is in that mode for its successor',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, wait: true, command: scene('switch') }])
      return [(await ask(t, port)).blocking, (await ask(t, port)).blocking]
    },
    seen: [true, false],
    but: {
      superserve: [
        'a listener that a wait program has switched to non-blocking mode is in blocking mode again for its successor',
        [true, true]
      ]
    }
  },
  {
    title: 'datagrams that a program leaves are received by its successors, one after the other',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, type: 'dgram', wait: true, command: scene('once', 0.1) }])
      const sender = await post(t, port)
      sender.send('a', 'b', 'c')
      return succession(await sender.answers(3, 4000), 0.1)
    },
    seen: { answers: 3, programs: 3, overlapping: false },
    but: {
      xinetd: [
        'datagrams that a program leaves are thrown away at its end',
        { answers: 1, programs: 1, overlapping: false }
      ]
    }
  },
  {
    title: 'a datagram whose program cannot be executed is dropped, and the next one is received if it can again',
    async observe(t, server) {
      const port = newPort()
      const program = temporaryProgram(scene('once', 0))
      await startDaemon(t, server, [{ port, type: 'dgram', wait: true, command: [program.path] }])
      const sender = await post(t, port)
      program.remove()
      sender.send('dropped')
      await sender.taken()
      program.restore()
      sender.send('received')
      await sender.answers(1)
      return (await sender.answers(2, 200)).map(({ received }) => received)
    },
    seen: ['received']
  },
  {
    title: 'a client whose wait program cannot be executed waits in the backlog, and is served if it can again',
    async observe(t, server) {
      const port = newPort()
      const program = temporaryProgram(scene('once', 0))
      await startDaemon(t, server, [{ port, wait: true, limit: 5, command: [program.path] }])
      program.remove()
      const client = call(t, port)
      const [, soon] = await client.inTheEnd(400)
      program.restore()
      const [answer, later] = await client.inTheEnd(4000)
      return { soon, later, answered: answer !== '' }
    },
    seen: { soon: 'open', later: 'end', answered: true },
    but: {
      'openbsd-inetd': [
        'a client whose wait program cannot be executed waits in the backlog until the minute is over',
        { soon: 'open', later: 'open', answered: false }
      ],
      xinetd: [
        'a client whose wait program cannot be executed is reset',
        { soon: 'ECONNRESET', later: 'ECONNRESET', answered: false }
      ]
    }
  },
  {
    title: 'wait programs that accept nothing are started so often, then not for a while; who waits has a connection',
    async observe(t, server) {
      const port = newPort()
      const path = join(folder, `starts-${files++}`)
      writeFileSync(path, '')
      await startDaemon(t, server, [{ port, wait: true, limit: 5, command: scene('ignore', path) }])
      const client = call(t, port)
      const starts = () => readFileSync(path, 'utf8').split('\n').length - 1
      await until(() => starts() >= (server.name === 'openbsd-inetd' ? 4 : 5))
      await delay(400)
      return { starts: starts(), client: client.heard() }
    },
    seen: { starts: 5, client: ['', 'open'] },
    but: {
      'openbsd-inetd': [
        'wait programs that accept nothing are started one time less than so often; who waits has a connection',
        { starts: 4, client: ['', 'open'] }
      ],
      xinetd: [
        'wait programs that accept nothing are started so often, then the listener is closed, and who waits is reset',
        { starts: 5, client: ['', 'ECONNRESET'] }
      ]
    }
  },
  {
    title: 'connections that are more than may be started wait in the backlog, and are served after the pause',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, limit: 5, command: scene('end', 0, 'hello') }])
      const clients: Client[] = []
      const soon: Heard[] = []
      for (let i = 0; i < 7; i++) {
        clients.push(call(t, port))
        soon.push(await clients[i]!.inTheEnd(i < 5 ? 10_000 : 200)) // a program may take its time to start
      }
      const later = await Promise.all(clients.map((client) => client.inTheEnd(4000)))
      return { soon, later }
    },
    seen: { soon: [...times(5, served), ...times(2, ['', 'open'])], later: times(7, served) },
    but: {
      'openbsd-inetd': [
        'connections that are more than one less than its number are closed at once until the minute is over',
        atOnce([...times(4, served), ...times(3, ['', 'end'])])
      ],
      xinetd: [
        'the first connection that is more than may be started is closed, and those after it are refused',
        atOnce([...times(5, served), ['', 'end'], ['', 'ECONNREFUSED']])
      ]
    }
  },
  {
    title: 'a connection of a client that has as many as it may is closed at once, until one of them has ended',
    async observe(t, server) {
      const port = newPort()
      await startDaemon(t, server, [{ port, perClient: 2, command: scene('hold', 'hello') }])
      const clients = [call(t, port), call(t, port)]
      await until(() => clients.every((client) => client.heard()[0] === 'hello'))
      const beyond = await call(t, port).inTheEnd()
      clients[0]!.say('go on')
      const ended = await clients[0]!.inTheEnd()
      let next: Heard
      do next = await call(t, port, 'go on').inTheEnd()
      while (next[0] === '') // it has not seen the end yet
      return [beyond, ended, next]
    },
    seen: [
      ['', 'end'],
      ['hello, bye', 'end'],
      ['hello, bye', 'end']
    ],
    lacking: 'openbsd-inetd'
  },
  {
    title: 'SIGHUP changes a program and keeps its listener, adds and removes services; what runs goes on to its end',
    async observe(t, server) {
      const [changed, removed, added] = [newPort(), newPort(), newPort()]
      const before = [changed, removed].map((port) => ({ port, command: scene('hold', 'old') }))
      const daemon = await startDaemon(t, server, before)
      const running = [call(t, changed), call(t, removed)]
      await until(() => running.every((client) => client.heard()[0] === 'old'))
      const listener = socketAt(changed)
      await daemon.reload(
        [changed, added].map((port) => ({ port, command: scene('hold', 'new') })),
        [removed]
      )
      const later = [changed, removed, added].map((port) => call(t, port, 'go on').inTheEnd())
      for (const client of running) client.say('go on')
      return {
        sameListener: socketAt(changed) === listener,
        running: await Promise.all(running.map((client) => client.inTheEnd())),
        later: await Promise.all(later)
      }
    },
    seen: {
      sameListener: true,
      running: [
        ['old, bye', 'end'],
        ['old, bye', 'end']
      ],
      later: [
        ['new, bye', 'end'],
        ['', 'ECONNREFUSED'],
        ['new, bye', 'end']
      ]
    },
    but: {
      xinetd: [
        'SIGHUP changes a program and keeps its listener, adds and removes services, and kills what runs of the latter',
        {
          sameListener: true,
          running: [
            ['old, bye', 'end'],
            ['old', 'end']
          ],
          later: [
            ['new, bye', 'end'],
            ['', 'ECONNREFUSED'],
            ['new, bye', 'end']
          ]
        }
      ]
    }
  },
  {
    title: 'SIGHUP starts no second program beside a wait program that runs; its successor is the new one',
    async observe(t, server) {
      const [port, added] = [newPort(), newPort()]
      const daemon = await startDaemon(t, server, [{ port, wait: true, command: scene('once', 0.5, 'old') }])
      const first = await ask(t, port)
      const waiting = ask(t, port)
      await daemon.reload([
        { port, wait: true, command: scene('once', 0, 'new') },
        { port: added, command: ['/bin/cat'] }
      ])
      const second = await waiting
      return [first.words, second.words, succession([first, second], 0.5)]
    },
    seen: [['old'], ['new'], { answers: 2, programs: 2, overlapping: false }]
  },
  {
    title: 'where the configuration file has gone SIGHUP changes nothing',
    async observe(t, server) {
      const port = newPort()
      const { child, configuration } = await startDaemon(t, server, [{ port, command: ['/bin/cat'] }])
      rmSync(configuration)
      child.kill('SIGHUP')
      await delay(1000)
      return { code: child.exitCode, client: await call(t, port, 'hello', true).inTheEnd() }
    },
    seen: { code: null, client: ['hello', 'end'] },
    but: {
      'openbsd-inetd': [
        'where the configuration file has gone SIGHUP ends the superserver',
        { code: 1, client: ['', 'ECONNREFUSED'] }
      ]
    }
  },
  {
    title: 'where the configuration file makes no sense SIGHUP changes nothing',
    async observe(t, server) {
      const port = newPort()
      const { child, configuration } = await startDaemon(t, server, [{ port, command: ['/bin/cat'] }])
      writeFileSync(configuration, 'this makes no sense {\n')
      child.kill('SIGHUP')
      await delay(1000)
      return { code: child.exitCode, client: await call(t, port, 'hello', true).inTheEnd() }
    },
    seen: { code: null, client: ['hello', 'end'] },
    but: {
      'openbsd-inetd': [
        'where the configuration file makes no sense SIGHUP removes the services',
        { code: null, client: ['', 'ECONNREFUSED'] }
      ],
      xinetd: [
        'where the configuration file makes no sense SIGHUP removes the services',
        { code: null, client: ['', 'ECONNREFUSED'] }
      ]
    }
  },
  {
    title: 'SIGTERM ends a superserver with code 0 and its listeners at once, and what runs goes on to its end',
    async observe(t, server) {
      const port = newPort()
      const { child } = await startDaemon(t, server, [{ port, command: scene('hold', 'hello') }])
      const client = call(t, port)
      await until(() => client.heard()[0] === 'hello')
      const ended = once(child, 'exit') as Promise<[number | null, string | null]>
      child.kill('SIGTERM')
      await until(() => socketAt(port) === undefined)
      const refused = await call(t, port).inTheEnd()
      client.say('go on')
      return { refused, running: await client.inTheEnd(), ended: await ended }
    },
    seen: { refused: ['', 'ECONNREFUSED'], running: ['hello, bye', 'end'], ended: [0, null] },
    but: {
      superserve: [
        'SIGTERM ends the listeners at once, and a superserver by that signal when what runs has gone on to its end',
        { refused: ['', 'ECONNREFUSED'], running: ['hello, bye', 'end'], ended: [null, 'SIGTERM'] }
      ]
    }
  }
]

for (const { title, observe, seen, but, lacking, changesUser = false } of scenarios) {
  for (const server of superservers) {
    const { name, path } = server
    if (name === lacking) continue
    const [its, expected] = but?.[name] ?? [title, seen]
    const asRoot = name !== 'superserve' || changesUser
    const reason = `needs ${name}, Python 3.9 and Linux${asRoot ? ', and to begin as root' : ''}`
    const only = onlyIf(isLinux && hasPython && path !== undefined && (isRoot || !asRoot), reason, test.serial)
    only(`${name}: ${its}`, async (t) => {
      t.deepEqual(await observe(t, server), expected)
    })
  }
}
