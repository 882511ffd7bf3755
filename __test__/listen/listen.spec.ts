import { spawn } from 'node:child_process'
import { type RemoteInfo, createSocket } from 'node:dgram'
import { on, once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { relative } from 'node:path'
import { text } from 'node:stream/consumers'
import test, { type ExecutionContext } from 'ava'
import { bindListener, recvFd, sendFd, socketpair } from 'fdpass'
import type { ExitEvent, ServiceOptions } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { newPath } from '../helpers/descriptors.ts'
import { folderInPackage, startServe } from '../helpers/cli.ts'
import { newPort } from '../helpers/inetds.ts'
import { endWith, fixturePath } from '../helpers/processes.ts'
import { hasIPv6 } from '../helpers/sockets.ts'
import { begin, fetchFrom, handoffs, pidsOf, readSlowly, where } from '../helpers/superserver.ts'

/** A service whose workers are a server that knows nothing of fdpass. */
function plain(scene: string, options: Partial<ServiceOptions> = {}): ServiceOptions {
  const { args = [], ...others } = options
  const module = fixturePath('plain-server')
  return { listen: 'tcp:127.0.0.1:0', module, args: [scene, ...args], preload: true, workers: 1, ...others }
}

const failsWith = (t: ExecutionContext, options: ServiceOptions, message: RegExp) =>
  t.throwsAsync(begin(t, { ...options, readyTimeout: 10_000 }), { code: 'ERR_WORKER_FAILED', message })

for (const handoff of handoffs) {
  test(`${handoff}: a server that listens on the port of the superserver serves its connections`, async (t) => {
    const server = await begin(t, plain('listen', { handoff, workers: 2 }))
    const answers = await Promise.all(Array.from({ length: 20 }, () => fetchFrom(where(server))))
    t.true(answers.every((answer) => pidsOf(server).includes(Number(answer.replace('listen ', '')))))
    const { port } = where(server) as { port: number }
    const address: unknown = JSON.parse(await fetchFrom(where(server), '/address'))
    t.deepEqual(address, { address: '127.0.0.1', family: 'IPv4', port })
    const names = (await fetchFrom(where(server), '/environment')).split(' ')
    t.deepEqual(
      names.filter((name) => /^FDPASS_(WORKER|LISTEN|DRAIN_TIMEOUT)$/.test(name)),
      []
    )
  })

  test(`${handoff}: a reload replaces such servers, fails no request, and loses none`, async (t) => {
    const server = await begin(t, plain('listen', { handoff, workers: 2 }))
    const exits: ExitEvent[] = []
    server.on('exit', (event) => exits.push(event))
    const done = new AbortController()
    const asking = Promise.all(
      Array.from({ length: 8 }, async () => {
        while (!done.signal.aborted) await fetchFrom(where(server))
      })
    )
    const slow = fetchFrom(where(server), '/slow')
    await server.reload()
    await server.reload()
    done.abort()
    await asking
    t.is(await slow, 'slow')
    await server.close()
    t.is(exits.length, 6)
    t.true(exits.every(({ code, lost }) => code === 0 && lost === 0))
  })

  test(`${handoff}: a server on a path, and one on another port with listenAs, get their connections`, async (t) => {
    const path = newPath()
    const [onPath, aliased, first] = await Promise.all([
      begin(t, plain('path', { listen: `unix:${path}`, args: [path], handoff })),
      begin(t, plain('on', { listenAs: 3000, args: ['3000', '::1'], handoff })),
      begin(t, plain('path', { listenAs: '*', args: [newPath()], handoff }))
    ])
    t.regex(await fetchFrom(where(onPath)), /^path /)
    t.is(await fetchFrom(where(onPath), '/address'), JSON.stringify(path))
    t.regex(await fetchFrom(where(aliased)), /^on /)
    t.regex(await fetchFrom(where(first)), /^path /)
  })

  test(`${handoff}: a program that tries whether the port is free, and closes it, is ready later`, async (t) => {
    const server = await begin(t, plain('probe', { handoff }))
    t.regex(await fetchFrom(where(server)), /^probe /)
  })

  test(`${handoff}: a program that serves connections some time after it listens is ready then`, async (t) => {
    const server = await begin(t, plain('late', { handoff }))
    t.regex(await fetchFrom(where(server)), /^late /)
  })

  test(`${handoff}: servers on two addresses of a source get the connections of each`, async (t) => {
    const server = await begin(t, plain('twice', { listen: 'tcp:0.0.0.0:0', handoff }))
    const { port } = where(server) as { port: number }
    t.regex(await fetchFrom({ host: '127.0.0.1', port }), /^twice /)
    t.is(await fetchFrom({ host: '127.0.0.2', port }), 'other')
  })

  test(`${handoff}: the handler of SIGTERM runs when the connections have ended, and its exit code is reported`, async (t) => {
    const server = await begin(t, plain('terminated', { handoff }))
    const slow = fetchFrom(where(server), '/slow')
    await fetchFrom(where(server))
    const exit = once(server, 'exit')
    const reload = server.reload()
    t.is(await slow, 'slow')
    await reload
    t.like((await exit)[0], { code: 7, lost: 0 })
  })

  test(`${handoff}: a slow client of a large response gets all of it, whatever closes the server`, async (t) => {
    const servers = await Promise.all(['listen', 'terminated'].map((scene) => begin(t, plain(scene, { handoff }))))
    const exits = Promise.all(servers.map((server) => once(server, 'exit')))
    await Promise.all(servers.map((server) => readSlowly(t, server)))
    for (const [index, [exit]] of (await exits).entries()) t.like(exit, { code: [0, 7][index], signal: null, lost: 0 })
  })

  test(`${handoff}: SIGTERM to a worker ends it only when the superserver drains it`, async (t) => {
    const server = await begin(t, plain('listen', { handoff }))
    const [pid] = pidsOf(server)
    process.kill(pid!, 'SIGTERM')
    t.is(await fetchFrom(where(server)), `listen ${pid}`)
  })

  test(`${handoff}: threads and child processes of a program take nothing`, async (t) => {
    const server = await begin(t, plain('others', { handoff }))
    t.is(await fetchFrom(where(server)), `others ${pidsOf(server)[0]}`)
  })
}

test('a server that refuses connections reports them as Node does', async (t) => {
  const server = await begin(t, plain('dropping'))
  const first = connect(where(server))
  t.teardown(() => first.destroy())
  await once(first, 'data')
  t.is(await readToEnd(connect(where(server))), '')
  const { accepted, lost } = server.stats()
  t.deepEqual({ accepted, lost }, { accepted: 2, lost: 0 })
})

test('connections of a program that has closed its server go to another worker', async (t) => {
  const server = await begin(t, plain('listen', { workers: 2 }))
  t.is(await fetchFrom(where(server), '/close'), 'closing')
  const answers = await Promise.all(Array.from({ length: 10 }, () => fetchFrom(where(server))))
  t.is(new Set(answers).size, 1)
  t.is(server.stats().lost, 0)
})

test('an error names what a program listens on, and what it was to listen on', async (t) => {
  await Promise.all([
    failsWith(t, plain('nothing'), /within 10000 ms: .*The program has not listened on tcp:127\.0\.0\.1:0/),
    failsWith(t, plain('on', { args: ['0'] }), /The program has not listened on tcp:127\.0\.0\.1:0/),
    failsWith(
      t,
      plain('on', { args: ['0', '127.0.0.1'], listenAs: 4000 }),
      /The program has not listened on tcp:127\.0\.0\.1:0=4000/
    ),
    failsWith(
      t,
      plain('path', { args: [newPath()] }),
      /listens on unix:\S+, which was not passed to it\. It does not listen on tcp:127\.0\.0\.1:0\. .*--listen tcp:127\.0\.0\.1:0=\*/
    )
  ])
})

test('the error of an occupied port names the remedy once, however often a program tries', async (t) => {
  using occupied = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = occupied.address as AddressInfo
  const program = ['--workers', '1', '--', fixturePath('plain-server'), 'again', String(port)]
  const serving = startServe(t, folderInPackage(), ['--listen', 'tcp:127.0.0.1:0', ...program])
  await serving.printed(/Worker \d+ is ready\n/)
  serving.child.kill('SIGTERM')
  const { stderr } = await serving.ended
  const error = `listen EADDRINUSE: address already in use 127.0.0.1:${port}; pass it: --listen tcp:127.0.0.1:${port}`
  t.deepEqual(
    stderr.split('\n').filter((line) => line.includes('EADDRINUSE')),
    [error, error, error]
  )
})

/** A socket that talks to a UDP port; it does not outlive the test. */
async function udpClient(t: ExecutionContext) {
  const socket = createSocket('udp4')
  t.teardown(() => void socket.close())
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return socket
}

test('a program that binds a UDP socket gets the datagrams of the superserver, and sends from its port', async (t) => {
  const client = await udpClient(t)
  const listen = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']
  const early = once(client, 'message')
  const args = ['5353', `${client.address().port}`]
  const server = await begin(t, plain('datagrams', { listen, listenAs: [5353, null], args, handoff: 'listener' }))
  const { port } = where(server) as { port: number }
  const [pid] = pidsOf(server)
  t.like((await early)[1], { port })
  client.send('hello', port, '127.0.0.1')
  const [answer, from] = (await once(client, 'message')) as [Buffer, RemoteInfo]
  t.is(String(answer), `${pid} hello`)
  t.is(from.port, port)
  t.is(await fetchFrom(where(server, 1)), `datagrams ${pid}`)
  const exit = once(server, 'exit')
  await server.reload()
  t.like((await exit)[0], { pid, code: 0 })
  client.send('again', port, '127.0.0.1')
  for await (const [data] of on(client, 'message') as AsyncIterable<[Buffer]>) {
    if (String(data).endsWith('early')) continue // of the new worker
    t.is(String(data), `${pidsOf(server)[0]} again`)
    break
  }
  await failsWith(
    t,
    plain('listen', { listen, handoff: 'listener', listenAs: [5353, null] }),
    /has not listened on udp:127\.0\.0\.1:0=5353/
  )
})

onlyIf(isLinux, 'needs Linux')('with socket activation a program binds to a passed UDP socket', async (t) => {
  const client = await udpClient(t)
  const passed = createSocket('udp4')
  passed.bind(0, '127.0.0.1')
  await once(passed, 'listening')
  const { port } = passed.address()
  const [near, far] = socketpair()
  await sendFd(near, passed)
  using fd = (await recvFd(far, { required: true })).fd
  for (const socket of [near, far, passed]) socket.close()
  const { child } = activate(t, fd.fd, 'datagrams', 'dns', { FDPASS_LISTEN_AS: 'dns=5353', PORT: '' }, '5353')
  const bindsAgain = text(child.stderr!)
  client.send('hello', port, '127.0.0.1')
  const [answer, from] = (await once(client, 'message')) as [Buffer, RemoteInfo]
  t.is(String(answer), `${child.pid} hello`)
  t.is(from.port, port)
  child.kill()
  t.regex(await bindsAgain, /^ERR_SOCKET_ALREADY_BOUND$/m)
})

test("with ready 'message' a worker is ready when its program says so, and an error tells if it does not", async (t) => {
  const server = await begin(t, plain('message', { ready: 'message' }))
  t.is(await fetchFrom(where(server)), `message ${pidsOf(server)[0]}`)
  await failsWith(t, plain('listen', { ready: 'message' }), /The program has not called process\.send\('ready'\)/)
  const invalid = { code: 'ERR_INVALID_ARG_VALUE', message: /options\.ready/ }
  await t.throwsAsync(begin(t, plain('listen', { ready: 'message', preload: false })), invalid)
  await t.throwsAsync(begin(t, plain('listen', { ready: 'soon' as never })), invalid)
})

/** Starts the plain server as a service manager with socket activation does. */
function activate(t: ExecutionContext, fd: number, scene: string, names: string, env = {}, ...more: string[]) {
  const run = `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=${names} exec "$@"`
  const args = [process.execPath, '--import', 'fdpass/listen', fixturePath('plain-server'), scene, ...more]
  const child = spawn('sh', ['-c', run, 'sh', ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'pipe', fd]
  })
  const ended = endWith(t, child).catch(() => {})
  return { child, ended }
}

onlyIf(isLinux, 'needs Linux')('with socket activation a restart fails no request', async (t) => {
  using listener = await bindListener({ port: 0, host: '127.0.0.1' })
  const probe = await listener.duplicate().toServer()
  const { port } = probe.address() as AddressInfo
  probe.close()
  const to = { host: '127.0.0.1', port }
  const first = activate(t, listener.fd, 'listen', 'web', { PORT: port })
  t.is(await fetchFrom(to), `listen ${first.child.pid}`)
  const slow = fetchFrom(to, '/slow')
  await fetchFrom(to)
  const exit = once(first.child, 'exit')
  first.child.kill('SIGTERM')
  t.is(await slow, 'slow')
  t.deepEqual(await exit, [null, 'SIGTERM'])
  const waiting = fetchFrom(to)
  const second = activate(t, listener.fd, 'listen', 'web', { PORT: 3000, FDPASS_LISTEN_AS: 'web=3000' })
  t.is(await waiting, `listen ${second.child.pid}`)
  const wrong = activate(t, listener.fd, 'listen', 'web', { FDPASS_LISTEN_AS: 'web=port' })
  t.regex(
    await text(wrong.child.stderr!),
    /EINVAL: the variable FDPASS_LISTEN_AS must be names with a port or '\*', such as web=3000,admin=\*\. Received 'web=port'/
  )
})

onlyIf(isLinux, 'needs Linux')('with socket activation a program gets a Unix domain socket by its path', async (t) => {
  for (const named of [(path: string) => path, (path: string) => relative(process.cwd(), path)]) {
    const path = newPath()
    using listener = bindListener({ path })
    const { child } = activate(t, listener.fd, 'path', 'web', { PORT: '' }, named(path))
    t.is(await fetchFrom({ path }), `path ${child.pid}`)
    child.kill()
  }
})

onlyIf(hasIPv6, 'needs IPv6')('an error names an IPv6 address as --listen does', async (t) => {
  const port = newPort()
  await failsWith(
    t,
    plain('on', { args: [`${port}`, '::1'] }),
    new RegExp(
      `listens on tcp:\\[::1\\]:${port}, which was not passed to it\\. .*--listen tcp:127\\.0\\.0\\.1:0=${port}`
    )
  )
})

onlyIf(isLinux, 'needs Linux')('a program that listens on what was not passed to it is warned', async (t) => {
  using listener = await bindListener({ port: 0, host: '127.0.0.1' })
  const path = newPath()
  const { child } = activate(t, listener.fd, 'path', 'web', { PORT: '' }, path)
  const [warning] = (await once(child.stderr!, 'data')) as [Buffer]
  child.kill()
  t.regex(
    String(warning),
    /\[FDPASS_LISTEN_UNMATCHED\] Warning: The program listens on unix:\S+, which was not passed to it/
  )
})

test("the primary process of node:cluster serves its workers' connections, and is warned that they are not drained", async (t) => {
  const program = ['--workers', '1', '--', fixturePath('plain-server'), 'cluster']
  const serving = startServe(t, folderInPackage(), ['--listen', 'tcp:127.0.0.1:0', ...program])
  const [, port] = await serving.printed(/Listening on tcp:127\.0\.0\.1:(\d+)\n/)
  t.regex(await fetchFrom({ host: '127.0.0.1', port: Number(port) }), /^cluster /)
  const [warning] = await serving.printed(/\[FDPASS_LISTEN_CLUSTER\] Warning: .*/)
  t.regex(warning!, /FDPASS_LISTEN_CLUSTER.* whose connections are not drained/)
})

test('fdpass serve has an ordinary server serve, prints its workers, and what to do if none is ready', async (t) => {
  const cwd = folderInPackage()
  const program = ['--workers', '1', '--', fixturePath('plain-server'), 'on', '3000', '127.0.0.3']
  const serving = startServe(t, cwd, ['--listen', 'tcp:127.0.0.1:0=3000', ...program])
  const [, port] = await serving.printed(/^fdpass: serve: Listening on tcp:127\.0\.0\.1:(\d+)\n/m)
  const [, pid] = await serving.printed(/^fdpass: serve: Worker (\d+) is ready\n/m)
  t.is(await fetchFrom({ host: '127.0.0.1', port: Number(port) }), `on ${pid}`)
  const { stderr } = await startServe(t, cwd, ['--listen', 'tcp:127.0.0.1:0', '--ready-timeout', '10', ...program])
    .ended
  t.regex(stderr, /^fdpass: serve: A worker was not ready within 10000 ms: .*--listen tcp:127\.0\.0\.1:0=3000$/m)
})
