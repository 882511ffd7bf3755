import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import test from 'ava'
import { type Descriptor, type SystemError, bindListener, connectTcp } from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  notIntegers,
  notNumbers,
  notOptions,
  notSignals,
  rejects
} from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, countFds, statusFlags } from '../helpers/descriptors.ts'
import { startProgram, startPython } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { hasIPv6 } from '../helpers/sockets.ts'

const onLinuxAlone = onlyIf(isLinux, 'needs Linux', test.serial)

/** The address of a listener, for `connectTcp`. */
function at(listener: Descriptor): { host: string; port: number } {
  const { address: host, port } = listener.address as AddressInfo
  return { host, port }
}

for (const [host, localAddress] of [
  ['127.0.0.1', undefined],
  ['127.0.0.1', '127.0.0.1'],
  ['::1', undefined],
  ['::1', '::1']
] as const) {
  onlyIf(isLinux && hasPython && (host !== '::1' || hasIPv6), 'needs Linux, IPv6 and Python 3.9')(
    `a connection of connectTcp to ${host}, ${localAddress === undefined ? 'without' : 'with'} a local address, is used by another process`,
    async (t) => {
      using listener = bindListener({ port: 0, host })
      const server = startPython('accept_one')
      await server.socket.sendFd(listener)
      const connection = await connectTcp({ ...at(listener), localAddress })
      t.is(connection.kind, 'tcp')
      t.deepEqual(connection.address, { ...(connection.address as AddressInfo), address: host })
      t.is(statusFlags(connection.fd) & (0o4000 | CLOEXEC), CLOEXEC)
      const client = startProgram('python3', [
        '-c',
        'import os, socket; print(os.read(socket.recv_fds(socket.socket(fileno=3), 1, 1)[1][0], 100).decode(), end="")'
      ])
      await client.socket.sendFd(connection)
      connection.closeSync()
      t.is(await client.done, 'from Python')
      await server.done
      for (const { socket } of [server, client]) socket.close()
    }
  )
}

test('a connection of connectTcp is read and written at once', async (t) => {
  using listener = bindListener({ port: 0, host: '127.0.0.1' })
  using connection = await connectTcp(at(listener))
  const server = await listener.duplicate().toServer()
  const [accepted] = (await once(server, 'connection')) as [Socket]
  await connection.write('request')
  t.is(String(((await once(accepted, 'data')) as [Buffer])[0]), 'request')
  accepted.end('answer')
  t.is(await connection.text(), 'answer')
  connection.closeSync()
  server.close()
})

test('connectTcp rejects with the error of the connection', async (t) => {
  const listener = bindListener({ port: 0, host: '127.0.0.1' })
  const { host, port } = at(listener)
  listener.closeSync()
  const error = await t.throwsAsync<SystemError>(connectTcp({ host, port }))
  t.deepEqual(
    [error!.code, error!.errno, error!.syscall, error!.address],
    ['ECONNREFUSED', -constants.errno.ECONNREFUSED, 'connect', `${host}:${port}`]
  )
  await t.throwsAsync(connectTcp({ host, port, localAddress: '192.0.2.1' }), {
    code: 'EADDRNOTAVAIL',
    message: /^EADDRNOTAVAIL: .*, bind '192\.0\.2\.1'$/
  })
  if (hasIPv6) await t.throwsAsync(connectTcp({ host: '::1', port }), { message: /^ECONNREFUSED: .*'\[::1\]:\d+'$/ })
})

onLinuxAlone('an abort ends a connection midway, and no failure leaves a descriptor', async (t) => {
  using listener = bindListener({ port: 0, host: '127.0.0.1', backlog: 0 })
  const waiting: Descriptor[] = []
  let pending: Promise<Descriptor> | undefined
  const controller = new AbortController()
  while (pending === undefined) {
    const connecting = connectTcp({ ...at(listener), signal: controller.signal })
    if (await isPending(connecting))
      pending = connecting // the backlog is full: the kernel drops what it receives
    else waiting.push(await connecting)
  }
  t.true(waiting.length < 10)
  const before = countFds()
  controller.abort('enough')
  const error = await t.throwsAsync(pending, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error!.cause, 'enough')
  t.is(countFds(), before - 1)
  await rejects(t, 'aborted before', 'ABORT_ERR', () => connectTcp({ ...at(listener), signal: AbortSignal.abort() }))
  const refused = bindListener({ port: 0, host: '127.0.0.1' })
  const nowhere = at(refused)
  refused.closeSync()
  for (let i = 0; i < 10; i++) {
    await t.throwsAsync(connectTcp(nowhere), { code: 'ECONNREFUSED' })
    await t.throwsAsync(connectTcp({ ...nowhere, localAddress: '192.0.2.1' }), { code: 'EADDRNOTAVAIL' })
  }
  t.is(countFds(), before - 1)
  for (const each of waiting) each.closeSync()
})

test('connectTcp refuses what it cannot take', async (t) => {
  const looseConnect = connectTcp as unknown as Loose
  const host = '127.0.0.1'
  const refuses = (what: string, code: string, options: unknown, message?: RegExp) =>
    rejects(t, what, code, () => looseConnect(options), message)
  for (const options of [undefined, ...notOptions, {}, { port: 1 }]) await refuses(inspect(options), TYPE, options)
  for (const port of [undefined, ...notNumbers]) await refuses(`port ${inspect(port)}`, TYPE, { host, port })
  for (const port of [...notIntegers, -1, 0, 65_536]) await refuses(`port ${port}`, RANGE, { host, port })
  for (const signal of notSignals) await refuses(`signal ${inspect(signal)}`, TYPE, { host, port: 1, signal })
  for (const bad of [null, 5, true, {}, []]) {
    await refuses(inspect(bad), TYPE, { host: bad, port: 1 }, /"options\.host"/)
    await refuses(inspect(bad), TYPE, { host, port: 1, localAddress: bad }, /"options\.localAddress"/)
  }
  for (const bad of ['', 'localhost', '1.2.3', '[::1]', '127.0.0.1\0', '127.0.0.1:80', 'fe80::1%lo']) {
    await refuses(inspect(bad), VALUE, { host: bad, port: 1 }, /must be an IP address/)
    await refuses(inspect(bad), VALUE, { host, port: 1, localAddress: bad }, /must be an IP address/)
  }
  await refuses('families', VALUE, { host, port: 1, localAddress: '::1' }, /must be of the same family as 'host'/)
})
