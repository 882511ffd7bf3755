import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect as connectNode } from 'node:net'
import { bindListener, recvFd, socketpair } from 'fdpass'
import { VALUE } from '../helpers/arguments.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { finish, fixturePath, startFixture, startProgram } from '../helpers/processes.ts'

const isNode = !('bun' in process.versions || 'deno' in process.versions)

const onNode = onlyIf(isNode, "needs Node's own handles")

const onLinux = onlyIf(isNode && isLinux, "needs Node's own handles, and Linux")

const strict = { execArgv: ['--throw-deprecation', '--pending-deprecation'] }

onNode('a UDP socket that is a descriptor 0, as passed by inetd, is taken over', async (t) => {
  const [a, b] = socketpair()
  const udp = createSocket('udp4').bind(0, '127.0.0.1')
  await once(udp, 'listening')
  const { port } = udp.address()
  await a.sendFd(udp)
  udp.close()
  using received = (await recvFd(b))!
  const child = spawn(process.execPath, [...strict.execArgv, fixturePath('casts'), 'datagram'], {
    stdio: [received.fd!.fd, 'pipe', 'inherit']
  })
  const done = finish(child)
  received.fd!.closeSync()
  const client = createSocket('udp4')
  client.connect(port, '127.0.0.1')
  await once(client, 'connect')
  const answered = once(client, 'message') as Promise<[Buffer]>
  client.send('a datagram')
  t.is((await answered)[0].toString(), 'echo a datagram')
  t.is(await done, '')
  const refused = once(client, 'error') as Promise<[NodeJS.ErrnoException]>
  client.send('another one')
  t.is((await refused)[0].code, 'ECONNREFUSED')
  client.close()
  a.close()
  b.close()
})

for (const fd of [0, 1, 2]) {
  onNode(`standard descriptor ${fd} can be a server`, async (t) => {
    const program = `
      import { Descriptor } from ${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)}
      const descriptor = Descriptor.from(${fd})
      if (descriptor.kind === 'tcp-listener') {
        const server = await descriptor.toServer()
        server.once('connection', (connection) => connection.end('from a server'))
        server.once('connection', () => server.close())
      }
    `
    const standard = (number: number) =>
      ['ignore', 'ignore', 'ignore'].map((other, i) => (i === fd ? number : (other as 'ignore'))) as [
        number,
        number,
        number
      ]
    using listener = bindListener({ port: 0, host: '127.0.0.1' })
    const { port } = listener.address as { port: number }
    const child = startProgram(process.execPath, ['--input-type=module', '-e', program], {
      standard: standard(listener.fd)
    })
    listener.closeSync()
    t.is(await readToEnd(connectNode(port, '127.0.0.1')), 'from a server')
    await child.done
    child.socket.close()
  })
}

for (const policy of ['rr', 'none']) {
  onLinux(`casts and sources in a worker of a cluster, with the scheduling policy ${policy}`, async (t) => {
    const { socket, done } = startFixture('casts', ['cluster', policy], strict)
    const { shared, sharedPath, udp, ...works } = JSON.parse(await done) as Record<string, string>
    t.deepEqual(works, {
      'cast TCP': 'accepted, then  ECONNREFUSED',
      'cast Unix': 'accepted, then  ECONNREFUSED',
      'cast UDP': 'to a worker',
      exclusive: 'tcp-listener',
      exclusivePath: 'unix-listener',
      exclusiveUdp: 'udp',
      connection: 'tcp'
    })
    for (const refused of [shared, sharedPath, udp]) {
      t.is(refused, `${VALUE}: The "fd" argument is shared by the cluster's workers: listen with \`exclusive: true\``)
    }
    socket.close()
  })
}
