import { readFileSync, writeFileSync, rmSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { once } from 'node:events'
import { newPath } from '../helpers/descriptors.ts'
import {
  ask,
  call,
  compare,
  newPort,
  post,
  scene,
  startDaemon,
  succession,
  temporaryProgram,
  until,
  socketAt
} from '../helpers/inetds.ts'
import { isThere } from '../helpers/superserver.ts'

compare({
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
})

compare({
  title: 'connections that a wait program leaves in the backlog are served by its successors, one after the other',
  async observe(t, server) {
    const port = newPort()
    await startDaemon(t, server, [{ port, wait: true, command: scene('once', 0.1) }])
    return succession(await Promise.all([1, 2, 3].map(() => ask(t, port))), 0.1)
  },
  seen: { answers: 3, programs: 3, overlapping: false }
})

compare({
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
})

compare({
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
})

compare({
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
})

compare({
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
})

compare({
  title: 'wait programs that accept nothing are started so often, then not for a while; who waits has a connection',
  async observe(t, server) {
    const port = newPort()
    const path = newPath('starts')
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
})

compare({
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
})

compare({
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
})

compare({
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
})

compare({
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
})

compare({
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
})
