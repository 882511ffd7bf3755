import test from 'ava'
import type { ChannelOptions } from 'fdpass'
import { CANCEL, CLOSE, ERROR, MESSAGE, REQUEST, frame, openBare, receiveFrame } from '../helpers/channels.ts'
import { fdLimit, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import { countFds } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'

const withRoom = onlyIf(fdLimit >= 4096, 'needs ulimit -n 4,096', test.serial)

// What a peer can make a channel hold. Serial: some of these tests count descriptors.

test('an error, a close and a cancellation have limits of their own, whatever messages may have [S84] [S146]', async (t) => {
  for (const [kind, most] of [
    [ERROR, 65_536],
    [CLOSE, 65_536],
    [CANCEL, 0]
  ] as const) {
    const [channel, bare] = openBare(t, { maxBytes: 2 ** 31 - 1 })
    await bare.send(frame(kind, '', { length: most + 1 }))
    t.is(((await channel.closed) as NodeJS.ErrnoException).code, 'EPROTO')
  }
})

withRoom('messages held ahead have at most the descriptors of one, and one receive more [S13] [S148]', async (t) => {
  const [channel, bare] = openBare<Uint8Array>(t)
  const before = countFds()
  const { closed } = channel // receives ahead
  const parts = Array.from({ length: 12 }, (_, i) =>
    frame(MESSAGE, `${i % 4}`, { fds: 1000 }).subarray(...range(i % 4))
  )
  const sending = (async () => {
    for (const part of parts) await bare.send(part, { fds: Array<number>(250).fill(0) })
  })()
  await turns(20)
  const held = countFds() - before
  t.true(held >= 1000 && held <= 1024 + 253, `${held}`)
  for (let i = 0; i < 3; i++) {
    const message = (await channel.receive())!
    t.is(message.fds.length, 1000)
    message.close()
  }
  await sending
  t.true(await isPending(closed))
})

test('messages held ahead have at most the bytes of one [S148]', async (t) => {
  let decoded = 0
  const decode = (data: Uint8Array) => {
    decoded++
    return data
  }
  const [channel, bare] = openBare<Uint8Array>(t, { maxBytes: 100, decode })
  const { closed } = channel // receives ahead
  const sizes = [60, 40, 1, 100, 100, 0, 1]
  for (const size of sizes) await bare.send(frame(MESSAGE, new Uint8Array(size)))
  await turns()
  t.is(decoded, 2)
  for (const size of sizes) t.is((await channel.receive())!.value.length, size)
  t.true(await isPending(closed))
})

test.serial('data that cannot be converted to text, or has no room in memory, ends nothing else [S149]', async (t) => {
  const tooLong = new Error('which is longer than a string can be')
  const [channel, bare] = openBare(t)
  const { toString } = Buffer.prototype
  const { allocUnsafeSlow } = Buffer
  try {
    Buffer.prototype.toString = () => {
      throw tooLong
    }
    const receiving = channel.receive()
    await bare.send(frame(MESSAGE, '"x"', { format: 1 }))
    t.is((await t.throwsAsync(receiving, { code: 'EPROTO' })).cause, tooLong)
  } finally {
    Buffer.prototype.toString = toString
  }
  const sending = bare.send(frame(MESSAGE, new Uint8Array(1024 * 1024))).catch((error: unknown) => error)
  try {
    Buffer.allocUnsafeSlow = () => {
      throw tooLong
    }
    t.is(await t.throwsAsync(channel.receive()), tooLong)
  } finally {
    Buffer.allocUnsafeSlow = allocUnsafeSlow
  }
  await sending
})

/** The part of a frame with 1,000 descriptors that carries a quarter of them. */
function range(part: number): [from: number, to?: number] {
  return part < 3 ? [part, part + 1] : [part]
}

for (const [what, kind, messages] of [
  ['messages held ahead', MESSAGE, 1],
  ['requests being handled, and the one behind them,', REQUEST, 2]
] as const) {
  test.serial(`${what} take at most 30 times the bytes of their limits as values from JSON [S163]`, async (t) => {
    const most = 1024 * 1024
    const [channel, bare] = openBare(t, { maxBytes: most, maxRequestBytes: most })
    channel.onRequest(() => new Promise(() => {})) // receives ahead, too
    const before = retainedBytes()
    const weight = () => (retainedBytes() - before) / most
    const data = `[${'{},'.repeat(most / 3 - 1)}0]` // the heaviest JSON for its length that is known
    const sending = (async () => {
      for (let id = 0; id < 6; id++) await bare.send(frame(kind, data, { id, format: 1 }))
    })().catch(() => {})
    while (weight() < 10 * messages) await turns(1)
    await turns(50)
    t.true(weight() < 30 * messages, `${weight()}`)
    bare.close()
    channel.close()
    await sending
  })
}

test('what the peer may send can be less than what this side sends, by bytes and descriptors [S273]', async (t) => {
  const options = { maxBytes: 1000, maxFds: 4, maxReceivedBytes: 10, maxReceivedFds: 1 }
  for (const [lies, fds] of [
    [{ length: 11 }, []],
    [{ fds: 2 }, [0, 0]]
  ] as const) {
    const [channel, bare] = openBare(t, options)
    await channel.send(new Uint8Array(1000), [0, 0, 0, 0])
    const sent = (await receiveFrame(bare))!
    t.deepEqual([sent.data.length, sent.fds.length], [1000, 4])
    for (const fd of sent.fds) fd.close()
    await bare.send(frame(MESSAGE, 'ten bytes.', { fds: 1 }), { fds: [0] })
    const message = (await channel.receive())!
    t.is(message.fds.length, 1)
    message.close()
    await bare.send(frame(MESSAGE, '', lies), { fds })
    t.is(((await channel.closed) as NodeJS.ErrnoException).code, 'EMSGSIZE')
  }
})

test.serial('a side that takes requests only is ended by a message, and keeps nothing of it [S273]', async (t) => {
  const before = countFds()
  const [channel, bare] = openBare(t, { messages: false })
  channel.onRequest((request) => ({ value: request.value }))
  await bare.send(frame(REQUEST, '1', { id: 7, format: 1 }))
  t.is((await receiveFrame(bare))!.id, 7)
  await bare.send(frame(MESSAGE, '', { fds: 2 }), { fds: [0, 0] })
  t.is(((await channel.closed) as NodeJS.ErrnoException).code, 'EPROTO')
  t.is((await receiveFrame(bare))!.kind, CLOSE)
  t.is(await receiveFrame(bare), null)
  bare.close()
  t.is(countFds(), before)
})

const crowds: Record<string, [options: ChannelOptions, bytes: number, fds: number, handled: number]> = {
  number: [{ maxPending: 3 }, 1, 0, 3],
  bytes: [{ maxRequestBytes: 100 }, 40, 0, 2],
  descriptors: [{ maxRequestFds: 5 }, 1, 2, 2],
  'bytes of one': [{ maxRequestBytes: 0 }, 40, 0, 1],
  'descriptors of one': [{ maxRequestFds: 0 }, 40, 1, 1]
}
for (const [what, [options, bytes, fds, handled]] of Object.entries(crowds)) {
  test(`the ${what} of the requests that are handled at a time is bounded, and each is handled in the end [S143]`, async (t) => {
    const [channel, bare] = openBare(t, options)
    const replies: (() => void)[] = []
    channel.onRequest(
      (request) =>
        new Promise((resolve) => {
          replies.push(() => resolve({ value: request.value }))
          request.close()
        })
    )
    for (let id = 1; id <= 9; id++) {
      await bare.send(frame(REQUEST, new Uint8Array(bytes), { id, fds }), { fds: Array<number>(fds).fill(0) })
    }
    await turns()
    for (let id = 1; id <= 9; id++) {
      t.is(replies.length, Math.min(handled, 10 - id))
      replies.shift()!()
      t.is((await receiveFrame(bare))!.id, id)
      await turns()
    }
  })
}
