import type { ExecutionContext } from 'ava'
import { UnixSocket, socketpair } from 'fdpass'
import type { Loose } from './arguments.ts'
import { countFds } from './descriptors.ts'
import { text } from './messages.ts'

export const looseSocketpair = socketpair as Loose

/** Runs a test on a new pair, over which nothing may go and after which as much must be open as before. */
export async function withPair(
  t: ExecutionContext,
  body: (a: UnixSocket, b: UnixSocket) => void | Promise<void>
): Promise<void> {
  const [a, b] = socketpair()
  const before = countFds()
  await body(a, b)
  t.is(countFds(), before)
  await a.send('nothing before')
  const message = (await b.recv())!
  t.is(text(message), 'nothing before')
  t.deepEqual(message.fds, [])
  a.close()
  b.close()
}
