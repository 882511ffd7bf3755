import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, writeFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { Channel, type ChannelOptions, type ChannelReply, type UnixSocket, memfd } from 'fdpass'
import { CANCEL, CLOSE, ERROR, MESSAGE, REQUEST, RESPONSE, frame, openBare, receiveFrame } from '../helpers/channels.ts'
import { hasPython, isLinux, onlyIf, retainedBytes } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll, sameFile } from '../helpers/descriptors.ts'
import { type Fixture, fixtureSource, startProgram } from '../helpers/processes.ts'
import { codesOf, isPending, turns } from '../helpers/promises.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9', test.serial)
const onRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs Linux, and to begin as root', test.serial)
const withCargo = onlyIf(isLinux && spawnSync('cargo', ['--version']).status === 0, 'needs Linux and Rust')

// Serial: some of these tests count descriptors.

/** A channel whose other end is a program's descriptor 3; closed with the test. */
function start<T>(
  t: ExecutionContext,
  command: string,
  args: readonly string[],
  options?: ChannelOptions<T>
): Fixture & { channel: Channel<T> } {
  const fixture = startProgram(command, args, { standard: ['pipe', 'pipe', 'inherit'] })
  const channel = new Channel<T>(fixture.socket, options)
  t.teardown(() => channel.close())
  return { ...fixture, channel }
}

const startHostile = <T>(t: ExecutionContext, scene: string, options?: ChannelOptions<T>) =>
  start<T>(t, 'python3', [fixtureSource('hostile.py'), scene], options)

const ANSWER = Buffer.from('x')

withPython('a peer in Python sends back what it gets: values, bytes, and hundreds of descriptors', async (t) => {
  const { channel, done } = start(t, 'python3', [fixtureSource('channel.py'), '3'], { maxFds: 4048 })
  const files = [openFile('first'), openFile('second'), openFile('third')]
  for (const value of [{ a: ['ä', null] }, 'text', new Uint8Array([1, 2, 3]), new Uint8Array(300_000).fill(5)]) {
    for (const count of [0, 1, 253, 254, 700]) {
      const fds = Array.from({ length: count }, (_, i) => files[i % 3]!)
      const [, message] = await Promise.all([channel.send(value, fds), channel.receive()])
      t.deepEqual(message!.value, value)
      t.is(message!.fds.length, count)
      t.true(message!.fds.every(({ fd }, i) => sameFile(fd, files[i % 3]!)))
      message!.close()
    }
  }
  files.forEach((file) => closeSync(file))
  channel.close()
  await done
})

withPython('a peer in Python answers requests', async (t) => {
  const { channel, done } = start(t, 'python3', [fixtureSource('channel.py'), '3'])
  const file = openFile('asked')
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => channel.request({ i }, [file])))
  for (const [i, answer] of answers.entries()) {
    t.deepEqual(answer.value, { i })
    t.true(sameFile(answer.fds[0]!.fd, file))
    answer.close()
  }
  await t.throwsAsync(channel.request('fail'), { message: 'it fails', code: 'MINE' })
  closeSync(file)
  channel.close()
  await done
})

withCargo('a peer in Rust receives messages with files, and answers requests', async (t) => {
  execFileSync('cargo', ['build', '--quiet', '--package', 'fdpass-core', '--example', 'channel'])
  const { target_directory: target } = JSON.parse(
    execFileSync('cargo', ['metadata', '--no-deps', '--format-version', '1'], { encoding: 'utf8' })
  ) as { target_directory: string }
  const { channel, done } = start<string | Uint8Array>(t, `${target}/debug/examples/channel`, ['3'])
  const file = memfd()
  writeFileSync(file.fd, 'in memory')
  await channel.send(Buffer.from('one'), [file, file])
  await channel.send(Buffer.from('none'))
  const answer = await channel.request('what is in it?', [file])
  t.is(String(Buffer.from(answer.value as Uint8Array)), 'in memory')
  t.is(readAll(answer.fds[0]!.fd), '') // the offset is at its end: it is the same file
  t.true(sameFile(answer.fds[0]!.fd, file.fd))
  answer.close()
  file.closeSync()
  channel.close()
  t.is(await done, 'one 2 in memoryin memory\nnone 0 \n')
})

const refused: Record<string, string> = {
  garbage: 'bytes that are no frame',
  fewer: 'fewer descriptors than announced',
  more: 'more descriptors than announced',
  unannounced: 'descriptors that were not announced'
}
for (const [scene, title] of Object.entries(refused)) {
  withPython(`${title} end the channel, which reports the reason to the peer [S22]`, async (t) => {
    const before = countFds()
    const { channel, done } = startHostile(t, scene)
    await t.throwsAsync(channel.receive(), { code: 'EPROTO' })
    t.is(await done, 'EPROTO\n')
    t.true(countFds() <= before)
  })
}

withPython('a peer that ends in the middle of a frame ends the channel with EPROTO', async (t) => {
  const { channel, done } = startHostile(t, 'truncated')
  await t.throwsAsync(channel.receive(), { code: 'EPROTO' })
  await done
})

withPython('a frame byte by byte arrives with its descriptors', async (t) => {
  const { channel, done } = startHostile<Uint8Array>(t, 'byte_by_byte')
  const message = (await channel.receive())!
  t.is(String(Buffer.from(message.value)), 'slow but right')
  t.is(message.fds.length, 3)
  message.close()
  await done
  t.is(await channel.receive(), null)
})

withPython('a header of 2 GiB that nothing follows takes no memory', async (t) => {
  const before = retainedBytes()
  const { channel, done } = startHostile(t, 'huge', { maxBytes: 2 ** 31 - 1 })
  t.truthy(await channel.receive())
  const waiting = channel.receive()
  t.true(await isPending(waiting))
  const ended = t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.true(retainedBytes() - before < 200 * 1024 * 1024)
  channel.close()
  await ended
  await done
})

withPython('descriptors without end are refused at what was announced, and closed', async (t) => {
  const before = countFds()
  const { channel, done } = startHostile(t, 'endless', { maxFds: 4048 })
  await t.throwsAsync(channel.receive(), { code: 'EPROTO' })
  t.is(await done, 'refused\n')
  t.true(countFds() <= before)
})

withPython(
  'endless descriptors are refused at the limit before the frame has announced their number [S13]',
  async (t) => {
    const { channel, done } = startHostile(t, 'endless', { maxFds: 300 })
    await t.throwsAsync(channel.receive(), { code: 'EMSGSIZE' })
    t.is(await done, 'refused\n')
  }
)

withPython(
  'a peer that receives nothing and sends without end leaves the event loop to others [S73] [S140]',
  async (t) => {
    const { channel, child, done } = startHostile(t, 'flood')
    await new Promise<void>((resolve) => {
      channel.onRequest(() => {
        resolve()
        return { value: 'which cannot be sent' }
      })
    })
    await turns(500)
    child.stdin!.end()
    t.is(await done, 'told to end\n')
  }
)

test('answers that no request waits for are not decoded, and their descriptors are closed [S140]', async (t) => {
  let decoded = 0
  const decode = (data: Uint8Array) => {
    decoded++
    return data
  }
  const [channel, bare] = openBare<Uint8Array>(t, { decode })
  const answer = channel.request(ANSWER)
  const { id } = (await receiveFrame(bare))!
  const { read, write } = openPipe()
  for (const kind of [RESPONSE, ERROR, CANCEL]) {
    const fds = kind === RESPONSE ? [write] : []
    await bare.send(frame(kind, '', { id: id + 1, fds: fds.length }), { fds })
  }
  closeSync(write)
  await bare.send(frame(RESPONSE, ANSWER, { id }))
  t.deepEqual((await answer).value, new Uint8Array(ANSWER))
  t.is(decoded, 1)
  t.false(hasWriter(read))
  closeSync(read)
})

test('a request with the id of one that is being handled ends the channel with EPROTO [S141]', async (t) => {
  const { read, write } = openPipe()
  const [channel, bare] = openBare(t)
  const signals: AbortSignal[] = []
  channel.onRequest(({ signal }) => {
    if (signals.push(signal) > 1) channel.close()
    return new Promise(() => {})
  })
  await bare.send(frame(REQUEST, '', { id: 1 }))
  await bare.send(frame(REQUEST, '', { id: 1, fds: 1 }), { fds: [write] })
  closeSync(write)
  t.is(((await channel.closed) as NodeJS.ErrnoException | null)?.code, 'EPROTO')
  t.deepEqual(
    signals.map(({ aborted }) => aborted),
    [true]
  )
  t.false(hasWriter(read))
  closeSync(read)
  const { kind, data } = (await receiveFrame(bare))!
  t.is(kind, CLOSE)
  t.is((JSON.parse(String(data)) as { code: string }).code, 'EPROTO')
})

test('the id of a request can be used again once it was answered, or cancelled [S141]', async (t) => {
  const [channel, bare] = openBare(t)
  const replies: ((reply: ChannelReply) => void)[] = []
  channel.onRequest(() => new Promise((resolve) => replies.push(resolve)))
  const { closed } = channel
  for (let i = 0; i < 300; i++) {
    await bare.send(frame(REQUEST, '', { id: 1 }))
    while (replies.length === 0 && (await isPending(closed))) await turns(1)
    t.is(replies.length, 1)
    replies.shift()!({ value: i })
    t.is(String((await receiveFrame(bare))!.data), `${i}`)
  }
  await bare.send(Buffer.concat([frame(REQUEST, '', { id: 1 }), frame(CANCEL, '', { id: 1 })]))
  await bare.send(frame(REQUEST, '', { id: 1 }))
  while (replies.length < 2 && (await isPending(closed))) await turns(1)
  t.is(replies.length, 2)
  replies[0]!({ value: 'to the cancelled one' })
  replies[1]!({ value: 'to the other' })
  t.is(String((await receiveFrame(bare))!.data), '"to the other"')
  t.true(await isPending(closed))
})

for (const [what, kind] of [
  ['message', MESSAGE],
  ['request', REQUEST],
  ['response', RESPONSE]
] as const) {
  test(`a \`decode\` that closes the channel is the last to see its ${what} [S142]`, async (t) => {
    const { read, write } = openPipe()
    const decode = (): void => channel.close()
    const [channel, bare]: [Channel, UnixSocket] = openBare(t, { decode })
    channel.onRequest(() => t.fail())
    const pending = codesOf([channel.receive(), channel.request(ANSWER)])
    const { id } = (await receiveFrame(bare))!
    await bare.send(frame(kind, '', { fds: 1, id }), { fds: [write] })
    closeSync(write)
    t.deepEqual(await pending, ['ERR_SOCKET_CLOSED', 'ERR_SOCKET_CLOSED'])
    t.is(await channel.closed, null)
    await t.throwsAsync(channel.receive(), { code: 'ERR_SOCKET_CLOSED' })
    t.false(hasWriter(read))
    closeSync(read)
  })
}

onRoot('a message that has arrived whole is received in parts, between which the event loop runs [S147]', async (t) => {
  const { channel, done } = startHostile<Uint8Array>(t, 'large')
  t.is(await done, 'sent\n')
  let hasArrived = false
  const receiving = channel.receive().then((message) => {
    hasArrived = true
    return message
  })
  for (let i = 0; i < 100; i++) await Promise.resolve()
  t.false(hasArrived)
  t.is((await receiving)!.value.length, 8 * 1024 * 1024)
})
