import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { ask, call, compare, newPort, scene, socketAt, startDaemon, succession, until } from '../helpers/inetds.ts'

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
