import { type Client, type Heard, call, compare, served } from '../helpers/inetds.ts'
import { newPort, scene, startDaemon, until } from '../helpers/superservers.ts'

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
