import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import test from 'ava'
import { bindListener, memfd, socketpair } from 'fdpass'
import { type Cast, casts } from '../helpers/casts.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, temporaryFile } from '../helpers/descriptors.ts'
import { everyKind, openPty } from '../helpers/kinds.ts'

// Serial throughout: each test counts the descriptors of the process before and after.
const serial = onlyIf(
  isLinux && hasPython && !('bun' in process.versions || 'deno' in process.versions),
  "needs Node's own handles, Linux and Python 3.9",
  test.serial
)

/** Both sides of one cast, in this process. */
async function castHere({ send, cast }: Cast): Promise<void> {
  const [a, b] = socketpair()
  await Promise.all([send(a), cast(b)])
  a.close()
  b.close()
}

for (const [title, thing] of Object.entries(casts)) {
  if (title.startsWith('a pseudoterminal')) continue
  serial(`200 times ${title}, cast by ${thing.method}, leave nothing open`, async (t) => {
    await castHere(thing)
    const before = countFds()
    for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 20 }, () => castHere(thing)))
    t.is(countFds(), before)
  })
}

const closed = async (socket: Duplex) => {
  socket.destroy()
  await once(socket, 'close')
}

serial('200 casts of terminals leave nothing open', async (t) => {
  const ends = await openPty()
  for (const end of ends) await closed(end.duplicate().toTerminal())
  const before = countFds()
  for (const end of ends) {
    for (let i = 0; i < 200; i++) {
      await closed(end.duplicate().toTerminal())
      t.throws(() => end.toSocket(), { code: 'ERR_INVALID_FD_TYPE' })
    }
  }
  t.is(countFds(), before)
  for (const end of ends) end.closeSync()
})

serial('casts that are refused leave nothing open', async (t) => {
  const { samples, end } = await everyKind(true)
  const before = countFds()
  for (const { descriptor, kind } of samples) {
    for (let i = 0; i < 10; i++) {
      if (kind !== 'unix-listener' && kind !== 'tcp-listener') await t.throwsAsync(descriptor.toServer())
      if (kind !== 'udp') t.throws(() => descriptor.toDatagramSocket())
      t.throws(() => descriptor.toSocket({ signal: AbortSignal.abort() }))
      t.throws(() => descriptor.toReadStream({ start: -1 }))
      t.throws(() => descriptor.toWriteStream({ start: -1 }))
    }
  }
  t.is(countFds(), before)
  await end()
})

serial('what cannot be made leaves nothing open', async (t) => {
  using taken = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = taken.address as AddressInfo
  const path = temporaryFile('no socket')
  const before = countFds()
  for (let i = 0; i < 100; i++) {
    t.throws(() => memfd({ data: 'data', seals: ['seal', 'bad' as 'seal'] }), { code: 'ERR_INVALID_ARG_VALUE' })
    t.throws(() => bindListener({ port, host: '127.0.0.1' }), { code: 'EADDRINUSE' })
    t.throws(() => bindListener({ port }), { code: 'EADDRINUSE' })
    t.throws(() => bindListener({ path }), { code: 'EADDRINUSE' })
  }
  t.is(countFds(), before)
})
