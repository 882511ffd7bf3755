import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import test from 'ava'
import { Channel, connect } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openPipe } from '../helpers/descriptors.ts'
import { finish, fixturePath } from '../helpers/processes.ts'
import { begin, put } from '../helpers/stores.ts'
import { until } from '../helpers/superservers.ts'

const asRoot = onlyIf(process.getuid?.() === 0, 'needs to begin as root')

/** Runs a client of another user; resolves to its output. */
function clientOf(path: string, uid: number, gid: number, groups: number[], ...calls: string[]): Promise<string> {
  const args = [fixturePath('store-client'), path, `${uid}`, `${gid}`, groups.join(','), ...calls]
  const child = spawn(process.execPath, [...process.execArgv, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  return finish(child)
}

asRoot('entries are for their owner, group and others as files are [S55] [S91]', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666 })
  const [owner, member, other] = [
    (...calls: string[]) => clientOf(path, 1001, 1001, [2000], ...calls),
    (...calls: string[]) => clientOf(path, 1002, 1002, [2000], ...calls),
    (...calls: string[]) => clientOf(path, 1003, 1003, [], ...calls)
  ]
  t.is(
    await owner(
      'put private',
      'put shared {"mode":416,"group":2000}',
      'put common {"mode":438}',
      'put foreign {"group":3000}'
    ),
    'put\nput\nput\nEPERM\n'
  )
  t.is(await member('list x'), 'shared,common\nlist\n')
  t.is(
    await member('get private', 'get shared', 'delete shared', 'put shared {"replace":true}'),
    'EACCES\nthe file\nget\nEACCES\nEACCES\n'
  )
  t.is(
    await other('list x', 'get shared', 'delete private', 'put common {"replace":true}'),
    'common\nlist\nEACCES\nEACCES\nput\n'
  )
  t.is(await other('get common {"remove":true}', 'get common'), 'the file\nget\nENOENT\n')
  t.is((await store.list()).length, 2, 'root sees all')
  await store.delete('private')
})

asRoot('a user cannot have more kept than is allowed, and root can [S58]', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666, maxPerUser: 2 })
  t.is(
    await clientOf(path, 1001, 1001, [], 'put a', 'put b', 'put c', 'delete a', 'put c'),
    'put\nput\nEDQUOT\ndelete\nput\n'
  )
  for (const name of ['d', 'e', 'f']) await put(store, name, '')
})

asRoot('a client that is not allowed gets nothing [S56]', async (t) => {
  const [store, path] = await begin(t, { mode: 0o666, allow: ({ uid }) => uid !== 1001 })
  await put(store, 'common', '', { mode: 0o666 })
  t.is(await clientOf(path, 1001, 1001, [], 'list x', 'get common', 'put mine'), 'EACCES\nEACCES\nEACCES\n')
  t.is(await clientOf(path, 1002, 1002, [], 'list x'), 'common\nlist\n')
  const [, own] = await begin(t)
  t.is(await clientOf(own, 1002, 1002, [], 'list x'), 'EACCES\n', 'only its own user may connect')
})

test("what allow throws is the client's error", async (t) => {
  const [store] = await begin(t, { allow: () => Promise.reject(new TypeError('a mistake')) })
  await t.throwsAsync(store.list(), { message: 'a mistake' })
  const [other] = await begin(t, { allow: (() => 1) as never })
  await t.throwsAsync(other.list(), { code: 'ERR_INVALID_RETURN_VALUE' })
})

const questions: Record<string, [unknown, string]> = {
  'something unknown': ['put', 'EPROTO'],
  'nothing that it knows': [{ ask: 'steal', name: 'x' }, 'EPROTO'],
  'a name that is none': [{ ask: 'get', name: 'a:b' }, 'EPROTO'],
  'to put without descriptors': [{ ask: 'put', name: 'x', expires: null, mode: 0o600, group: null }, 'EPROTO'],
  'more permissions than there are': [
    { ask: 'put', name: 'x', expires: null, mode: 0o7777, group: null },
    'ERR_OUT_OF_RANGE'
  ],
  'a time that is none': [{ ask: 'put', name: 'x', expires: -1, mode: 0o600, group: null }, 'ERR_OUT_OF_RANGE'],
  'a time of another type': [{ ask: 'put', name: 'x', expires: '1', mode: 0o600, group: null }, 'ERR_INVALID_ARG_TYPE']
}

for (const [what, [value, code]] of Object.entries(questions)) {
  test(`a client that asks for ${what} is refused, and its descriptors are closed [S59]`, async (t) => {
    const [store, path] = await begin(t)
    const channel = new Channel(await connect(path))
    const { read, write } = openPipe()
    const fds = what.includes('without') ? [] : [write]
    await t.throwsAsync(channel.request(value, fds), { code })
    closeSync(write)
    await until(() => !hasWriter(read))
    closeSync(read)
    channel.close()
    t.deepEqual(await store.list(), [])
  })
}
