import { lstatSync, readdirSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type SystemError, bind, connect, listen } from 'fdpass'
import {
  type Bad,
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  badAddresses,
  badOption,
  badOptions,
  badReceiving,
  badSignals,
  looseListen,
  naming,
  notBooleans,
  notIntegers,
  notNumbers,
  notTypes,
  numbers,
  rejects,
  rejectsBad,
  throws,
  throwsBad,
  unchanged
} from '../helpers/arguments.ts'
import { isLinux } from '../helpers/conditions.ts'
import { countFds, newFolder } from '../helpers/descriptors.ts'
import { abstractOf, leaveSocket, takesConnections, takesDatagrams, openFirstSockets } from '../helpers/sockets.ts'

const looseConnect = connect as Loose

const looseBind = bind as Loose

/** The most bytes of a path; an abstract address has one more. */
const MOST = isLinux ? 107 : 103

const notFunctions = [...numbers, null, true, 'allow', 1n, Symbol('allow'), [() => true], {}, new Date(), new Map()]

/** What an option refuses that is an integer between two bounds. */
function integers(name: string, outside: readonly number[]): Bad[] {
  return [
    ...badOption(name, notNumbers, TYPE),
    ...badOption(name, [...notIntegers, -1, 2 ** 31, 2 ** 32, ...outside], RANGE)
  ]
}

/** A path of so many bytes. */
function pathOf(folder: string, length: number): string {
  return join(folder, 'x'.repeat(length - folder.length - 1))
}

test.before('what the first socket opens stays open', openFirstSockets)

test.serial('listen refuses what is no address and no option of its own [F2.1]', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  await unchanged(t, folder, async () => {
    await rejectsBad(t, 'listen', [...badAddresses('address'), ['address', undefined, TYPE]], looseListen)
    await rejects(t, 'listen without arguments', TYPE, () => looseListen(), naming('address', TYPE))
    await rejectsBad(
      t,
      'listen',
      [
        ...badOptions,
        ...badOption('type', [...notTypes, 'dgram'], VALUE),
        ...integers('mode', [0o1000, 0o1777]),
        ...integers('backlog', []),
        ...badOption('descriptors', notBooleans, TYPE),
        ...badOption('allow', notFunctions, TYPE),
        ...badReceiving
      ],
      (value) => looseListen(path, value)
    )
  })
  const server = await listen(path)
  await takesConnections(t, server)
  server.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('bind refuses what is no address and no option of its own', async (t) => {
  const folder = newFolder()
  const path = join(folder, 'socket')
  await unchanged(t, folder, () => {
    const addresses = badAddresses('address').filter(([, value]) => value !== null)
    throwsBad(t, 'bind', [...addresses, ['address', undefined, TYPE]], looseBind)
    throws(t, 'bind without arguments', TYPE, () => looseBind(), naming('address', TYPE))
    throwsBad(t, 'bind', [...badOptions, ...integers('mode', [0o1000, 0o1777]), ...badReceiving], (value) =>
      looseBind(path, value)
    )
    throwsBad(t, 'bind to null', [...badOptions, ...badReceiving], (value) => looseBind(null, value))
  })
  const receiver = bind(path)
  await takesDatagrams(t, receiver)
  receiver.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('connect refuses what is no address and no option of its own, and does not connect', async (t) => {
  const folder = newFolder()
  const server = await listen(join(folder, 'socket'))
  await unchanged(t, folder, async () => {
    await rejectsBad(t, 'connect', [...badAddresses('address'), ['address', undefined, TYPE]], looseConnect)
    await rejects(t, 'connect without arguments', TYPE, () => looseConnect(), naming('address', TYPE))
    const localAddresses = badAddresses('options.localAddress')
    await rejectsBad(
      t,
      'connect',
      [
        ...badOptions,
        ...badOption('type', notTypes, VALUE),
        ...localAddresses.map(([name, value, code]) => [name, { localAddress: value }, code] as const),
        ...badReceiving,
        ...badSignals
      ],
      (value) => looseConnect(server.address, value)
    )
    // Nor is the local address bound where another option is refused.
    const localAddress = join(folder, 'local')
    await rejectsBad(t, 'connect', [...badReceiving, ...badSignals], (value) =>
      looseConnect(server.address, { localAddress, ...(value as object) })
    )
  })
  await takesConnections(t, server)
  server.close()
})

test.serial('an address that is too long is refused with the limit and its length', async (t) => {
  const folder = newFolder()
  const stream = await listen(join(folder, 'server'))
  const sender = bind(null)
  const wide = `${folder}/${'é'.repeat(MOST)}`
  const long = [pathOf(folder, MOST + 1), wide, ...(isLinux ? [abstractOf(MOST + 2)] : [])]
  await unchanged(t, folder, async () => {
    for (const address of long) {
      const length = Buffer.byteLength(address)
      const limit = address.startsWith('\0') ? MOST + 1 : MOST
      const calls: [string, string, () => unknown][] = [
        ['"address" argument', 'connect', () => connect(address)],
        ['"options.localAddress" property', 'bind', () => connect(stream.address, { localAddress: address })],
        ['"address" argument', 'bind', () => listen(address)],
        ['"address" argument', 'bind', () => listen(address, { type: 'seqpacket' })],
        ['"address" argument', 'bind', async () => bind(address)],
        ['"options.to" property', 'sendmsg', () => sender.send('x', { to: address })]
      ]
      for (const [name, syscall, call] of calls) {
        const error = await t.throwsAsync<SystemError>(call() as Promise<unknown>, { code: 'ENAMETOOLONG' })
        t.is(error!.errno, -constants.errno.ENAMETOOLONG)
        t.is(error!.syscall, syscall)
        t.is(error!.address, address)
        t.is(
          error!.message,
          `ENAMETOOLONG: the ${name} has ${length} bytes, the platform's limit for a socket's address is ${limit}, ${syscall}`
        )
      }
    }
    throws(t, 'bind', 'ENAMETOOLONG', () => bind(long[0]!))
  })
  await takesConnections(t, stream)
  stream.close()
  sender.close()
})

test.serial('an address of the greatest length works', async (t) => {
  const folder = newFolder()
  for (const address of [pathOf(folder, MOST), ...(isLinux ? [abstractOf(MOST + 1)] : [])]) {
    const server = await listen(address)
    t.is(server.address, address)
    const client = await connect(address)
    t.is(client.remoteAddress, address)
    client.close()
    server.close()
    const receiver = bind(address)
    t.is(receiver.localAddress, address)
    await takesDatagrams(t, receiver)
    receiver.close()
    t.deepEqual(readdirSync(folder), [])
  }
  // Where a file was left behind, the name of the lock is longer than that of any socket.
  const path = pathOf(folder, MOST)
  leaveSocket(path)
  const server = await listen(path)
  t.is(server.address, path)
  server.close()
  t.deepEqual(readdirSync(folder), [])
})

test.serial('a mode is for a path', async (t) => {
  const folder = newFolder()
  const open = countFds()
  for (const mode of [0, 0o600, 0o777]) {
    throws(t, 'bind to null', VALUE, () => bind(null, { mode }), naming('options.mode', VALUE))
    if (!isLinux) continue
    const address = abstractOf(40)
    throws(t, 'bind', VALUE, () => bind(address, { mode }), naming('options.mode', VALUE))
    await rejects(t, 'listen', VALUE, () => listen(address, { mode }), naming('options.mode', VALUE))
  }
  t.is(countFds(), open)
  for (const mode of [0, 0o600, 0o777]) {
    const path = join(folder, `mode-${mode}`)
    const socket = bind(path, { mode })
    t.is(lstatSync(path).mode & 0o7777, mode)
    socket.close()
  }
})
