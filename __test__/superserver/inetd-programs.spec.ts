import { chmodSync, writeFileSync } from 'node:fs'
import {
  type Client,
  type Heard,
  ask,
  call,
  compare,
  marks,
  newPort,
  post,
  scene,
  served,
  startDaemon,
  temporaryProgram,
  until
} from '../helpers/inetds.ts'

const NOBODY = 65_534
const DAEMON = 1

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

compare({
  title: 'a nowait program has the connection as descriptors 0, 1 and 2, blocking, nothing else, and leads a session',
  async observe(t, server) {
    const port = newPort()
    const { child } = await startDaemon(t, server, [{ port, command: scene('see') }])
    const view = await ask(t, port)
    return { ...constant(view), itsPort: view.port === port, itsChild: view.parent === child.pid }
  },
  seen: { ...common, type: 'SOCK_STREAM', listening: false, itsPort: true, itsChild: true }
})

compare({
  title: 'a wait program has the listener as descriptors 0, 1 and 2, blocking, nothing else, and leads a session',
  async observe(t, server) {
    const port = newPort()
    const { child } = await startDaemon(t, server, [{ port, wait: true, command: scene('see') }])
    const view = await ask(t, port)
    return { ...constant(view), itsPort: view.port === port, itsChild: view.parent === child.pid }
  },
  seen: { ...common, type: 'SOCK_STREAM', listening: true, itsPort: true, itsChild: true }
})

compare({
  title: 'a datagram program has the socket with the datagram in it as descriptors 0, 1 and 2, blocking, nothing else',
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
})

compare({
  title: 'no signal is ignored or blocked in a program',
  async observe(t, server) {
    const port = newPort()
    await startDaemon(t, server, [{ port, command: ['/bin/cat', '/proc/self/status'] }])
    const [status] = await call(t, port).inTheEnd()
    return status.match(/Sig(?:Blk|Ign):\t\w+/g)
  },
  seen: ['SigBlk:\t0000000000000000', 'SigIgn:\t0000000000000000']
})

compare({
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
})

compare({
  title: 'a program has its user, the group that was asked for, and no other group',
  changesUser: true,
  async observe(t, server) {
    const command = ['/bin/cat', '/proc/self/status'] as const
    const services = ['nogroup', 'daemon'].map((group) => ({ port: newPort(), command, user: 'nobody', group }))
    await startDaemon(t, server, services)
    const statuses = await Promise.all(services.map(({ port }) => call(t, port).inTheEnd()))
    return statuses.map(([status]) => [...status.matchAll(/(?:Uid|Gid|Groups):\t(.*)/g)].map(([, ids]) => ids!.trim()))
  },
  seen: [identity(NOBODY, ''), identity(DAEMON, '')],
  but: {
    'openbsd-inetd': [
      'a program has its user, the group that was asked for, and that as the only supplementary one',
      [identity(NOBODY, `${NOBODY}`), identity(DAEMON, `${DAEMON}`)]
    ]
  }
})

compare({
  title: 'what a program prints as errors is for its client too',
  async observe(t, server) {
    const port = newPort()
    await startDaemon(t, server, [{ port, command: scene('both') }])
    return call(t, port).inTheEnd()
  },
  seen: ['output, errors', 'end']
})

compare({
  title: "a program's end is its connection's, with any status and by a signal; with a reset if something was not read",
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
})

compare({
  title: 'a connection stays open as long as a child of the program has it',
  async observe(t, server) {
    const port = newPort()
    await startDaemon(t, server, [{ port, command: scene('leave') }])
    return call(t, port).inTheEnd()
  },
  seen: ['parent, child', 'end']
})

compare({
  title: 'a client that has ended its half gets all of the answer',
  async observe(t, server) {
    const port = newPort()
    await startDaemon(t, server, [{ port, command: ['/bin/cat'] }])
    const text = 'all of it '.repeat(300_000)
    const [said, end] = await call(t, port, text, true).inTheEnd()
    return [said === text, end]
  },
  seen: [true, 'end']
})

compare({
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
})

const times = (count: number, heard: Heard) => Array.from({ length: count }, () => heard)
const atOnce = (heard: readonly Heard[]) => ({ soon: heard, later: heard })

compare({
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
})

compare({
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
})
