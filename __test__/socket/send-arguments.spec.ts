import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type SystemError, UnixSocket, bind, connect, listen, socketpair } from 'fdpass'
import {
  type Bad,
  RANGE,
  TYPE,
  VALUE,
  badAddresses,
  badOption,
  badOptions,
  badSignals,
  loose,
  notIntegers,
  notNumbers,
  numbers,
  rejects,
  rejectsBad,
  throws,
  unchanged
} from '../helpers/arguments.ts'
import { isLinux } from '../helpers/conditions.ts'
import { countFds, isOpen, newFolder, openFile } from '../helpers/descriptors.ts'
import {
  abstractOf,
  areConnected,
  putOthers,
  takesConnections,
  takesConnectionsAfter,
  takesDatagrams,
  openFirstSockets
} from '../helpers/sockets.ts'

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('send refuses what is no address, and what no credentials are', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  const to = receiver.localAddress!
  const sender = bind(null)
  const file = openFile()
  const mine = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }
  const badClaims: Bad[] = [
    ...badOption('credentials', [null, false, ...numbers, '', 'true', 3n, Symbol('true'), () => mine], TYPE),
    ...[[], {}, new Date(), new Map(), Object.create(null)].map(
      (credentials) => ['options.credentials.pid', { credentials }, TYPE] as const
    ),
    ...(['pid', 'uid', 'gid'] as const).flatMap((name) => {
      const nothing = name === 'pid' ? notNumbers.filter((value) => value !== null) : notNumbers
      const outside = name === 'pid' ? [0, 2 ** 31, 2 ** 32] : [2 ** 32 - 1, 2 ** 32]
      const bad = (value: unknown, code: string): Bad => [
        `options.credentials.${name}`,
        { credentials: { ...mine, [name]: value } },
        code
      ]
      return [
        ...[undefined, ...nothing].map((value) => bad(value, TYPE)),
        ...[...notIntegers, -1, ...outside].map((value) => bad(value, RANGE))
      ]
    })
  ]
  await unchanged(t, folder, async () => {
    const addresses = badAddresses('options.to')
    await rejectsBad(t, 'send', addresses, (value) => loose(sender, 'send')('x', { to: value }))
    await rejectsBad(t, 'send', addresses, (value) => loose(sender, 'send')('x', { to: value, fds: [file] }))
    await rejectsBad(t, 'send', [...badOptions, ...badSignals], (value) => loose(sender, 'send')('x', value))
    await rejectsBad(t, 'send', [...badClaims, ...badSignals], (value) =>
      loose(sender, 'send')('x', { to, fds: [file], ...(value as object) })
    )
  })
  await takesDatagrams(t, receiver)
  closeSync(file)
  for (const type of ['stream', 'dgram'] as const) {
    const [a, b] = socketpair({ type })
    const open = countFds()
    await rejectsBad(t, 'send', badClaims, (value) => loose(a, 'send')('x', value))
    t.is(countFds(), open)
    await areConnected(t, a, b)
    a.close()
    b.close()
  }
  sender.close()
  receiver.close()
})

test.serial('an address is for a datagram socket', async (t) => {
  const folder = newFolder()
  const receiver = bind(join(folder, 'receiver'))
  const server = await listen(join(folder, 'server'))
  const client = await connect(server.address)
  for (const socket of [...socketpair(), ...(isLinux ? socketpair({ type: 'seqpacket' }) : []), client]) {
    for (const data of ['x', '', new Uint8Array(100_000)]) {
      const call = () => socket.send(data, { to: receiver.localAddress! })
      await rejects(t, socket.type, VALUE, call, /^The "options\.to" property is for datagram sockets/)
    }
    if (socket !== client) socket.close()
  }
  await takesDatagrams(t, receiver)
  await takesConnectionsAfter(t, server, client)
  receiver.close()
})

test.serial('a datagram to an address without a datagram socket', async (t) => {
  const folder = newFolder()
  const others = putOthers(folder)
  const server = await listen(join(folder, 'server'))
  const receiver = bind(join(folder, 'receiver'))
  const sender = bind(null)
  const file = openFile()
  const cases: [string, string][] = [
    [join(folder, 'nobody'), 'ENOENT'],
    [others.dangling!, 'ENOENT'],
    [others.file!, 'ECONNREFUSED'],
    [others.folder!, 'ECONNREFUSED'],
    [others.fifo!, 'ECONNREFUSED'],
    [join(folder, 'left'), 'ECONNREFUSED'],
    [server.address, 'EPROTOTYPE']
  ]
  if (isLinux) cases.push([abstractOf(70), 'ECONNREFUSED'])
  await unchanged(t, folder, async () => {
    for (const [to, code] of cases) {
      for (const rest of [{}, { fds: [file] }, { credentials: true as const }]) {
        const error = await t.throwsAsync<SystemError>(sender.send('x', { to, ...rest }), { code }, to)
        t.is(error!.errno, -(constants.errno as Record<string, number>)[code]!)
        t.is(error!.syscall, 'sendmsg')
        t.is(error!.address, to)
      }
    }
    await t.throwsAsync(sender.send('x'), { code: 'ENOTCONN' })
  })
  await takesConnections(t, server)
  await takesDatagrams(t, receiver)
  closeSync(file)
  for (const socket of [server, receiver, sender]) socket.close()
})

test.serial('a descriptor of a server can be sent, and stays open', async (t) => {
  const server = await listen(join(newFolder(), 'server'))
  const [a, b] = socketpair()
  await a.send('x', { fds: [server] })
  const { fds } = (await b.recv())!
  t.is(fds.length, 1)
  throws(t, 'from', VALUE, () => UnixSocket.from(fds[0]!), /^The "source" argument is a listening socket/)
  t.true(isOpen(fds[0]!.fd))
  fds[0]!.closeSync()
  await takesConnections(t, server)
  for (const socket of [a, b, server]) socket.close()
})

test('bytes in a SharedArrayBuffer are copied by the call: a change during the send does not reach the peer [S134]', async (t) => {
  const [a, b] = socketpair()
  const length = 4 * 1024 * 1024
  const shared = new Uint8Array(new SharedArrayBuffer(length)).fill(1)
  const sent = a.send(shared)
  shared.fill(2) // most of them wait for room
  let received = 0
  while (received < length) {
    const { data } = (await b.recv())!
    t.true(data.every((byte) => byte === 1))
    received += data.length
  }
  await sent
  a.close()
  b.close()
})
