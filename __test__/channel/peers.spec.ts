import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, writeFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { Channel, type ChannelOptions, memfd } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, openFile, readAll, sameFile } from '../helpers/descriptors.ts'
import { type Fixture, fixtureSource, startProgram } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'

const withPython = onlyIf(hasPython, 'needs Python 3.9', test.serial)
const withCargo = onlyIf(isLinux && spawnSync('cargo', ['--version']).status === 0, 'needs Linux and Rust')

// Serial: some of these tests count descriptors.

/** A channel whose other end is a program's descriptor 3; closed with the test. */
function start<T>(
  t: ExecutionContext,
  command: string,
  args: readonly string[],
  options?: ChannelOptions<T>
): Fixture & { channel: Channel<T> } {
  const fixture = startProgram(command, args)
  const channel = new Channel<T>(fixture.socket, options)
  t.teardown(() => channel.close())
  return { ...fixture, channel }
}

const startHostile = <T>(t: ExecutionContext, scene: string, options?: ChannelOptions<T>) =>
  start<T>(t, 'python3', [fixtureSource('channel-hostile.py'), scene], options)

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
  const before = process.memoryUsage().rss
  const { channel, done } = startHostile(t, 'huge', { maxBytes: 2 ** 31 - 1 })
  t.truthy(await channel.receive())
  const waiting = channel.receive()
  t.true(await isPending(waiting))
  const ended = t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  t.true(process.memoryUsage().rss - before < 200 * 1024 * 1024)
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

withPython('requests with the id of one that is not answered are answered each', async (t) => {
  const { channel, done } = startHostile(t, 'asking')
  let handled = 0
  channel.onRequest(() => ({ value: ++handled }))
  t.is(await channel.closed, null)
  t.is(await done, '1\n2\n3\n4\n5\n')
})
