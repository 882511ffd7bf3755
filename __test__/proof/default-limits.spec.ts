import { readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Channel, type FdSource, connect, listen } from 'fdpass'
import { serveBroker } from 'fdpass/broker'
import { connectStore, serveStore } from 'fdpass/store'
import { MESSAGE, frame, openBare, openChannels } from '../helpers/channels.ts'
import { fdLimit, isLinux, onlyIf } from '../helpers/conditions.ts'
import { newPath } from '../helpers/descriptors.ts'
import { isPending, turns } from '../helpers/promises.ts'

const withRoom = onlyIf(fdLimit >= 4096, 'needs ulimit -n 4,096')

const somaxconn = isLinux ? Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')) : 0

const many = (count: number) => Array<FdSource>(count).fill(0)

withRoom(
  'by default a channel takes 16 MiB and 1,024 descriptors with a message, and no more [S81] [S82]',
  async (t) => {
    const [most, mostFds] = [16 * 1024 * 1024, 1024]
    const [a, b] = openChannels<unknown>(t)
    await t.throwsAsync(a.send(new Uint8Array(most + 1)), { code: 'ERR_OUT_OF_RANGE' })
    await t.throwsAsync(a.send('', many(mostFds + 1)), { code: 'ERR_OUT_OF_RANGE' })
    const sending = a.send(new Uint8Array(most), many(mostFds))
    const message = (await b.receive())!
    await sending
    t.is((message.value as Uint8Array).length, most)
    t.is(message.fds.length, mostFds)
    message.close()
    for (const lies of [{ length: most + 1 }, { fds: mostFds + 1 }]) {
      const [channel, peer] = openBare(t)
      await peer.send(frame(MESSAGE, '', lies))
      await t.throwsAsync(channel.receive(), { code: 'EMSGSIZE' })
    }
  }
)

withRoom(
  'by default requests of 16 MiB and 1,024 descriptors together are handled at a time [S144] [S145]',
  async (t) => {
    const parts: [bytes: number, fds: number][] = [
      [4 * 1024 * 1024, 0],
      [0, 256]
    ]
    for (const [bytes, fds] of parts) {
      const [channel, other] = openChannels<Uint8Array>(t)
      const handled: unknown[] = []
      channel.onRequest((request) => {
        handled.push(request)
        request.close()
        return new Promise(() => {})
      })
      for (let i = 0; i < 6; i++) other.request(new Uint8Array(bytes), many(fds)).catch(() => {})
      while (handled.length < 4) await turns(1)
      t.true(await isPending(channel.closed))
      t.is(handled.length, 4)
    }
  }
)

test('by default 65,536 requests wait, and the next one rejects [S83]', async (t) => {
  const [channel] = openBare(t)
  const requests = Array.from({ length: 65_536 }, () => channel.request('x'))
  for (const request of requests) request.catch(() => {})
  await t.throwsAsync(channel.request('x'), { code: 'ERR_TOO_MANY_PENDING', message: /65536/ })
  channel.close()
  await Promise.allSettled(requests)
})

onlyIf(somaxconn >= 511, 'needs somaxconn of 511')(
  'by default 511 connections wait to be accepted, and the next one for room [S79]',
  async (t) => {
    const server = await listen(newPath())
    const clients = await Promise.all(Array.from({ length: 512 }, () => connect(server.address))) // listen(2): one more
    const controller = new AbortController()
    const waiting = connect(server.address, { signal: controller.signal })
    t.true(await isPending(waiting))
    controller.abort()
    await t.throwsAsync(waiting, { code: 'ABORT_ERR' })
    server.close()
    for (const client of clients) client.close()
  }
)

test('by default a store keeps 1,024 descriptors, 253 in an entry, for its own user alone [S56] [S88] [S90]', async (t) => {
  const path = newPath()
  using _service = await serveStore({ path })
  t.is(statSync(path).mode & 0o777, 0o600)
  t.is(statSync(`${path}.takeover`).mode & 0o777, 0o600)
  using store = await connectStore(path)
  await t.throwsAsync(store.put('more', many(254)), { code: 'ERR_OUT_OF_RANGE' })
  if (process.getuid!() !== 0) return // and 256 for one user
  for (let i = 0; i < 4; i++) await store.put(`entry-${i}`, many(253))
  await store.put('last', many(12))
  await t.throwsAsync(store.put('one too many', 0), { code: 'ENOSPC' })
})

test('a request to a broker has 64 KiB and one descriptor at most [S38] [S86]', async (t) => {
  const path = newPath()
  using _service = serveBroker(await listen(path), { allow: () => true })
  for (const [value, fds] of [
    ['x'.repeat(64 * 1024), []],
    ['x', [0, 0]]
  ] as const) {
    using channel = new Channel(await connect(path))
    await t.throwsAsync(channel.request(value, fds), { code: 'EMSGSIZE' })
  }
})

/** The text of an interface in the declarations of the package. */
function declarationOf(name: string): string | undefined {
  const files = readdirSync('dist/lib', { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.d.ts'))
  const texts = files.map((file) => readFileSync(join('dist/lib', file), 'utf8'))
  return texts.flatMap((text) => new RegExp(`interface ${name}\\b[^]*?\\n}`).exec(text) ?? [])[0]
}

test('the default limits of the threat model are those that the declarations document', (t) => {
  const document = readFileSync('docs/proof/threat-model.md', 'utf8')
  const limits = [...document.matchAll(/^\| S\d+ +\| .*? \| (.*?) +\| `(\w+)\.(\w+)` +\|$/gm)]
  t.true(limits.length > 10, `${limits.length}`)
  for (const [row, value, owner, name] of limits) {
    const [, comment] =
      new RegExp(`/\\*\\*((?:(?!\\*/)[^])*)\\*/\\s*(?:readonly )?${name}\\?:`).exec(declarationOf(owner!)!) ?? []
    const described = comment
      ?.replaceAll('`', '')
      .replaceAll(/\s+\*? */g, ' ')
      .replace('default: ', 'default ')
    t.true(described?.includes(`default ${value}`), `${row}: ${described}`)
  }
})
