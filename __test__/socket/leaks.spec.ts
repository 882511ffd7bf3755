import { closeSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { Descriptor, UnixSocket, socketpair } from 'fdpass'
import { countFds, openFile } from '../helpers/descriptors.ts'
import { turns } from '../helpers/promises.ts'

// Serial throughout: each test counts the descriptors of the process before and after.
const large = Buffer.alloc(4 * 1024 * 1024)
const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

let file: number
test.before(async () => {
  // What the first uses of the event loop and of the thread pool open stays open.
  file = openFile('content')
  const [a, b] = socketpair()
  const waiting = b.recv()
  await a.send('x')
  await waiting
  await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()])
})
test.after(() => closeSync(file))

/** Runs a scenario some times; as many descriptors are open after it as before. */
const leavesNothing = test.macro(async (t: ExecutionContext, scenario: () => unknown, rounds: number = 20) => {
  const before = countFds()
  for (let i = 0; i < rounds; i++) await scenario()
  t.is(countFds(), before)
})

/** A pair for a block, closed after it. */
async function withPair(
  block: (a: UnixSocket, b: UnixSocket) => unknown,
  type: (typeof types)[number] = 'stream'
): Promise<void> {
  const [a, b] = socketpair({ type })
  await block(a, b)
  a.close()
  b.close()
}

const code = (expected: string) => (error: NodeJS.ErrnoException) => {
  if (error.code !== expected) throw error
}
const rejects = async (operation: Promise<unknown>, expected: string) => {
  let resolved = true
  await operation.catch((error: NodeJS.ErrnoException) => {
    resolved = false
    code(expected)(error)
  })
  if (resolved) throw new Error(`Resolved in place of ${expected}`)
}

for (const type of types) {
  test.serial(`a transfer over a ${type} pair leaves nothing open [D2]`, leavesNothing, () =>
    withPair(async (a, b) => {
      await a.send('x', { fds: [file, file, file] })
      ;(await b.recv())!.close()
      await a.sendFd(file)
      await (await b.recvFd())!.fd!.close()
    }, type)
  )

  test.serial(`descriptors not received from a ${type} pair leave nothing open [D3]`, leavesNothing, () =>
    withPair(async (a) => {
      for (let i = 0; i < 3; i++) await a.send('x', { fds: [file, file, file] })
    }, type)
  )

  test.serial(`receives of a ${type} pair that wait when it is closed leave nothing open [E7]`, leavesNothing, () =>
    withPair(async (a, b) => {
      const waiting = [b.recv(), b.recvFd(), a.recv()]
      a.close()
      b.close()
      await Promise.allSettled(waiting)
    }, type)
  )

  test.serial(`an iteration of a ${type} pair that was left leaves nothing open [D3]`, leavesNothing, () =>
    withPair(async (a, b) => {
      for (let i = 0; i < 8; i++) await a.sendFd(file)
      for await (const message of b) {
        message.close()
        break
      }
    }, type)
  )
}

test.serial(
  'a recvExactly that ends early, fails, is aborted or closed leaves nothing open [D2] [E7]',
  leavesNothing,
  async () => {
    for (const finish of ['end', 'abort', 'close', 'limit'] as const) {
      await withPair(async (a, b) => {
        const controller = new AbortController()
        const receiving = b.recvExactly(5, { signal: controller.signal, maxFds: finish === 'limit' ? 3 : 4 })
        for (const data of ['x', 'y']) await a.send(data, { fds: [file, file] })
        await turns(1)
        if (finish === 'abort') controller.abort()
        else if (finish === 'close') b.close()
        else if (finish === 'end') a.close()
        else await a.send('zzz')
        await receiving.then(
          () => Promise.reject(new Error('It was received')),
          () => {}
        )
      })
    }
  }
)

test.serial('pairs that were opened and closed leave nothing open [D12]', leavesNothing, () => withPair(() => {}), 500)

test.serial('a message that is refused leaves nothing open [D2]', leavesNothing, () =>
  withPair(async (a, b) => {
    for (let i = 0; i < 4; i++) await a.send('x', { fds: [file, file, file] })
    await rejects(b.recv({ maxFds: 2 }), 'ERR_TOO_MANY_DESCRIPTORS')
    await rejects(b.recvFd(), 'ERR_TOO_MANY_DESCRIPTORS')
    await rejects(b.recv({ maxFds: 0 }), 'ERR_TOO_MANY_DESCRIPTORS')
    await rejects(b.messages({ maxFds: 1 }).next(), 'ERR_TOO_MANY_DESCRIPTORS')
  })
)

test.serial('a message that is refused to a receive that waits leaves nothing open [D2]', leavesNothing, () =>
  withPair(async (a, b) => {
    const waiting = rejects(b.recvFd(), 'ERR_TOO_MANY_DESCRIPTORS')
    await turns(1)
    await a.send('x', { fds: [file, file, file] })
    await waiting
  })
)

test.serial('a message received ahead and refused to a smaller receive leaves nothing open [D3]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.sendFd(file)
    for (let i = 0; i < 3; i++) await a.send('abcdef', { fds: [file, file, file] })
    ;(await b.messages().next()).value!.close()
    await rejects(b.recvFd({ maxBytes: 2 }), 'ERR_TOO_MANY_DESCRIPTORS')
    ;(await b.recv({ maxBytes: 2 }))!.close()
    ;(await b.recv({ maxBytes: 3 }))!.close()
  })
)

test.serial('a message received ahead and cut leaves nothing open when the socket is closed [D3]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.sendFd(file, 'first')
    await a.sendFd(file, 'abcdef')
    await a.sendFd(file, 'last')
    ;(await b.messages().next()).value!.close()
    ;(await b.recv({ maxBytes: 2 }))!.close()
  })
)

test.serial('sends that fail leave nothing open [D8]', leavesNothing, () =>
  withPair(async (a, b) => {
    await rejects(a.send('', { fds: [file] }), 'ERR_INVALID_ARG_VALUE')
    await rejects(a.send('x', { fds: [file, 999_999] }), 'EBADF')
    await rejects(a.send('x', { fds: Array.from({ length: 254 }, () => file) }), 'ERR_OUT_OF_RANGE')
    b.close()
    await rejects(a.send('x', { fds: [file] }), 'EPIPE')
  })
)

test.serial('a send that has to wait with a number that is not open leaves nothing open [D8]', leavesNothing, () =>
  withPair(async (a) => {
    const filling = rejects(a.send(large), 'ERR_SOCKET_CLOSED')
    await rejects(a.send('x', { fds: [file, file, 999_999] }), 'EBADF')
    a.close()
    await filling
  })
)

test.serial('sends that wait when the peer closes leave nothing open [D12]', leavesNothing, () =>
  withPair(async (a, b) => {
    const sends = [a.send(large, { fds: [file] }), a.send('x', { fds: [file, file] }), a.sendFd(file)]
    await turns(1)
    b.close()
    for (const send of sends) await rejects(send, 'EPIPE')
  })
)

test.serial('sends that wait when this side closes leave nothing open [D12]', leavesNothing, () =>
  withPair(async (a) => {
    const sends = [a.send(large, { fds: [file] }), a.send('x', { fds: [file, file] }), a.sendFd(file)]
    await a[Symbol.asyncDispose]()
    for (const send of sends) await rejects(send, 'ERR_SOCKET_CLOSED')
  })
)

test.serial('sends that wait and are aborted leave nothing open [D6]', leavesNothing, () =>
  withPair(async (a) => {
    const filling = rejects(a.send(large), 'ERR_SOCKET_CLOSED')
    const controller = new AbortController()
    const { signal } = controller
    const sends = [a.send('x', { fds: [file, file], signal }), a.sendFd(file, 'x', { signal })]
    controller.abort()
    for (const send of sends) await rejects(send, 'ABORT_ERR')
    a.close()
    await filling
  })
)

test.serial('sends that wait and then go out leave nothing open [E5]', leavesNothing, () =>
  withPair(async (a, b) => {
    const sends = [a.send(large, { fds: [file] })]
    for (let i = 0; i < 20; i++) sends.push(a.send('x', { fds: [file, file] }))
    void Promise.all(sends).then(() => a.close())
    let fds = 0
    for await (const message of b) {
      fds += message.fds.length
      message.close()
    }
    if (fds !== 41) throw new Error(`${fds} descriptors came`)
  })
)

test.serial('receives that wait and are aborted leave nothing open [D6]', leavesNothing, () =>
  withPair(async (a, b) => {
    const controller = new AbortController()
    const waiting = [b.recv({ signal: controller.signal }), b.recvFd({ signal: controller.signal })]
    await a.sendFd(file)
    controller.abort()
    await Promise.allSettled(waiting)
  })
)

test.serial('an iteration that is aborted leaves nothing open [D6]', leavesNothing, () =>
  withPair(async (a, b) => {
    const controller = new AbortController()
    for (let i = 0; i < 5; i++) await a.sendFd(file)
    const messages = b.messages({ signal: controller.signal })
    ;(await messages.next()).value!.close()
    controller.abort()
    await rejects(messages.next(), 'ABORT_ERR')
  })
)

test.serial('a released descriptor leaves nothing open but its number [D4]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.send('x', { fds: [file, file] })
    const { fds } = (await b.recv())!
    closeSync(fds[0]!.release())
    const again = Descriptor.from(fds[1]!.release())
    const duplicates = [again.duplicate(), again.duplicate()]
    again.closeSync()
    await duplicates[0]!.close()
    duplicates[1]![Symbol.dispose]()
  })
)

test.serial('a released socket leaves nothing open but its number [D9]', leavesNothing, () =>
  withPair(async (a, b) => {
    const waiting = rejects(b.recv(), 'ERR_SOCKET_CLOSED')
    const again = UnixSocket.from(b.release())
    await waiting
    await a.sendFd(file)
    ;(await again.recv())!.close()
    await again[Symbol.asyncDispose]()
  })
)

test.serial('numbers that cannot be taken over leave nothing open [D9]', leavesNothing, () => {
  const plain = Descriptor.from(openFile())
  for (const attempt of [() => UnixSocket.from(plain), () => Descriptor.from(plain.fd), () => UnixSocket.from(file)]) {
    try {
      attempt()
    } catch {
      continue
    }
    throw new Error('Taken over')
  }
  plain.closeSync()
})

test.serial('sockets sent over themselves leave nothing open [D11]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.send('x', { fds: [a, b] })
    await b.send('x', { fds: [a, b] })
    ;(await a.recv())!.close()
  })
)

test.serial('an end with descriptors before it leaves nothing open [E1]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.sendFd(file)
    a.close()
    ;(await b.recv())!.close()
    for (let i = 0; i < 3; i++) await b.recv()
  })
)

test.serial('a reset connection leaves nothing open [E2]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.sendFd(file)
    await b.sendFd(file)
    b.close()
    ;(await a.recv())!.close()
    await rejects(a.recv(), 'ECONNRESET')
  })
)

test.serial('half-closed connections leave nothing open [E11]', leavesNothing, () =>
  withPair(async (a, b) => {
    await a.sendFd(file)
    b.shutdown('read')
    a.shutdown()
  })
)

test.serial('disposal leaves nothing open [D2]', leavesNothing, async () => {
  const [a, b] = socketpair()
  await a.send('x', { fds: [file, file] })
  await a.sendFd(file)
  ;(await b.recv())![Symbol.dispose]()
  ;(await b.recvFd())![Symbol.dispose]()
  a[Symbol.dispose]()
  await b[Symbol.asyncDispose]()
})

test.serial(
  '2,000 descriptors through one pair leave nothing open [D2]',
  leavesNothing,
  () =>
    withPair(async (a, b) => {
      const fds = Array.from({ length: 100 }, () => file)
      const receiving = (async () => {
        let count = 0
        for await (const message of b) {
          count += message.fds.length
          if (count % 200 === 0) await Promise.all(message.fds.map((descriptor) => descriptor.close()))
          else message.close()
        }
        if (count !== 2000) throw new Error(`${count} came`)
      })()
      for (let i = 0; i < 20; i++) await a.send('x', { fds })
      a.close()
      await receiving
    }),
  3
)
