import { join } from 'node:path'
import { inspect } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { type Credentials, UnixServer, UnixSocket, connect } from 'fdpass'
import { CLOSED, looseListen, unchanged } from '../helpers/arguments.ts'
import { newFolder } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { closeAtLast, takesConnections, openFirstSockets } from '../helpers/sockets.ts'

const RETURN = 'ERR_INVALID_RETURN_VALUE'

test.before('what the first socket opens stays open', openFirstSockets)

/** That a connection was closed by the other side, which sent nothing. */
async function isRefused(t: ExecutionContext, client: UnixSocket, what: string): Promise<void> {
  t.is(await client.recv({ signal: AbortSignal.timeout(30_000) }), null, what)
  client.close()
}

const verdicts = [
  undefined,
  null,
  0,
  1,
  NaN,
  '',
  'yes',
  1n,
  Symbol('yes'),
  {},
  [],
  () => true,
  new Boolean(true),
  new Map(),
  Object.create(null)
]

/** Opens a server whose `allow` returns the given verdict, at once or later. */
async function deciding(
  folder: string,
  later: boolean
): Promise<{ server: UnixServer; decide: (verdict: () => unknown) => void; asked: Credentials[] }> {
  let next: (() => unknown) | undefined
  const asked: Credentials[] = []
  const decideLater = async () => {
    await undefined
    return next!()
  }
  const allow = (credentials: Credentials): unknown => {
    asked.push(credentials)
    return later ? decideLater() : next!()
  }
  const server = (await looseListen(join(folder, 'server'), { allow })) as UnixServer
  return { server, asked, decide: (verdict) => (next = verdict) }
}

for (const [when, later] of [
  ['at once', false],
  ['in a promise', true]
] as const) {
  test.serial(`allow that returns no boolean, ${when}: the connection is closed, and the server goes on`, async (t) => {
    const folder = newFolder()
    const { server, decide, asked } = await deciding(folder, later)
    await unchanged(t, folder, async () => {
      for (const verdict of verdicts) {
        decide(() => verdict)
        const message = /^Expected a boolean to be returned from the "options\.allow" function\. Received /
        const expected = { code: RETURN, instanceOf: TypeError, message }
        // For a connection that already waits, for one that comes later, and for an iteration.
        const waits = await connect(server.address)
        await t.throwsAsync(server.accept(), expected, inspect(verdict))
        const accept = t.throwsAsync(server.accept(), expected, inspect(verdict))
        t.true(await isPending(accept))
        const comes = await connect(server.address)
        await accept
        const iteration = t.throwsAsync(server[Symbol.asyncIterator]().next(), expected, inspect(verdict))
        const iterated = await connect(server.address)
        await iteration
        for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(verdict))
      }
    })
    t.is(asked.length, 3 * verdicts.length)
    t.deepEqual([asked[0]!.pid, asked[0]!.uid, asked[0]!.gid], [process.pid, process.getuid!(), process.getgid!()])
    decide(() => true)
    await takesConnections(t, server)
    server.close()
  })

  test.serial(
    `allow that fails, ${when}: with its error, the connection is closed, and the server goes on`,
    async (t) => {
      const folder = newFolder()
      const { server, decide } = await deciding(folder, later)
      await unchanged(t, folder, async () => {
        for (const thrown of [new Error('from allow'), new RangeError('also'), undefined, null, 'text', 5]) {
          decide(() => {
            throw thrown
          })
          const fails = async (promise: Promise<unknown>) => {
            const result = await promise.then(
              () => ['no error'],
              (error: unknown) => [error]
            )
            t.is(result[0], thrown)
          }
          const waits = await connect(server.address)
          await fails(server.accept())
          const accept = fails(server.accept())
          t.true(await isPending(accept))
          const comes = await connect(server.address)
          await accept
          const iteration = fails(server[Symbol.asyncIterator]().next())
          const iterated = await connect(server.address)
          await iteration
          for (const client of [waits, comes, iterated]) await isRefused(t, client, inspect(thrown))
        }
      })
      decide(() => true)
      await takesConnections(t, server)
      server.close()
    }
  )

  for (const waiting of [true, false]) {
    const whom = waiting ? 'while an accept waits' : 'while a connection waits'
    test.serial(`allow that closes the server, ${when}, ${whom}, leaves nothing open`, async (t) => {
      const folder = newFolder()
      for (const verdict of [true, false, undefined]) {
        await unchanged(t, folder, async () => {
          const { server, decide } = await deciding(folder, later)
          decide(() => {
            server.close()
            return verdict
          })
          const expected = { code: CLOSED }
          let accept = waiting ? t.throwsAsync(server.accept(), expected, `${verdict}`) : undefined
          const client = await connect(server.address)
          closeAtLast(t, client, server)
          accept ??= t.throwsAsync(server.accept(), expected, `${verdict}`)
          await accept
          t.true(server.closed)
          await isRefused(t, client, `${verdict}`)
        })
      }
    })
  }
}
