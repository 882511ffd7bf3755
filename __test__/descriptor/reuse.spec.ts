import { closeSync, openSync } from 'node:fs'
import test from 'ava'
import { Descriptor, socketpair } from 'fdpass'
import { openFile, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { text } from '../helpers/messages.ts'
import { receiveBytes } from '../helpers/streams.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

/** Opens files until one has this number, which is free. */
function reuse(number: number, path: string): number[] {
  const opened: number[] = []
  do opened.push(openSync(path, 'r'))
  while (opened.at(-1) !== number)
  return opened
}

for (const type of types) {
  for (const full of [false, true]) {
    const state = full ? ' full' : 'n idle'
    test.serial(
      `what a number meant at the call is what a${state} ${type} socket sends, though it is used again at once [A5]`,
      async (t) => {
        const [a, b] = socketpair({ type })
        const before: Promise<void>[] = []
        // A full stream holds half of a long message, a full packet socket some of many.
        if (full)
          for (let i = 0; i < 200; i++) before.push(a.send(Buffer.alloc(type === 'stream' ? 100_000 : 4096, 'f')))
        const right = openFile('the right file')
        const wrong = temporaryFile('the wrong file')
        const sending = a.send('!', { fds: [right] })
        closeSync(right)
        const opened = reuse(right, wrong)
        t.is(opened.at(-1), right)
        let message = (await b.recv())!
        while (message.fds.length === 0) message = (await b.recv())!
        t.is(text(message)!.at(-1), '!')
        t.deepEqual(
          message.fds.map(({ fd }) => readAll(fd)),
          ['the right file']
        )
        await Promise.all([...before, sending])
        message.close()
        opened.forEach((fd) => closeSync(fd))
        a.close()
        b.close()
      }
    )
  }
}

test.serial('a Descriptor that is closed right after its send arrives from a full socket [A5]', async (t) => {
  const [a, b] = socketpair()
  const filler = a.send(Buffer.alloc(4 * 1024 * 1024))
  const source = Descriptor.from(openFile('sent'))
  const sending = a.send('!', { fds: [source, source] })
  source.closeSync()
  const { fds } = await receiveBytes(b, 4 * 1024 * 1024 + 1)
  t.is(fds.length, 2)
  t.is(readAll(fds[0]!.fd), 'sent')
  fds.forEach((fd) => fd.closeSync())
  await Promise.all([filler, sending])
  a.close()
  b.close()
})
