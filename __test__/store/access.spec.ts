import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { Channel, type UnixSocket, connect } from 'fdpass'
import { connectStore } from 'fdpass/store'
import { CLOSE, receiveFrame } from '../helpers/channels.ts'
import { startRecv } from '../helpers/cli.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, openPipe, temporaryFolder } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { endWith, finish, fixturePath, runs, startProgram } from '../helpers/processes.ts'
import { begin, put } from '../helpers/stores.ts'

const asRoot = onlyIf(process.getuid?.() === 0, 'needs to begin as root')

/** Runs a client of another user; resolves to its output. */
function clientOf(path: string, uid: number, gid: number, groups: number[], ...calls: string[]): Promise<string> {
  const args = [fixturePath('services'), 'call', path, `${uid}`, `${gid}`, groups.join(','), ...calls]
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

test.serial('what allow throws is a warning here, and the client is refused without it [S7] [S161]', async (t) => {
  const mistakes: [() => never, RegExp][] = [
    [() => Promise.reject(new TypeError('a secret mistake')) as never, /store: a secret mistake/],
    [() => 1 as never, /store: Expected a boolean/]
  ]
  for (const [allow, message] of mistakes) {
    const warned = once(process, 'warning') as Promise<[Error]>
    const [store] = await begin(t, { allow })
    await t.throwsAsync(store.list(), { code: 'EACCES', message: /^EACCES: .* does not allow user \d+/ })
    t.regex((await warned)[0].message, message)
    await t.throwsAsync(store.list(), { code: 'EACCES' })
  }
})

test('a client that is refused gets the reason and is disconnected, and nothing of it is received [S56] [S162]', async (t) => {
  const [, path] = await begin(t, { allow: () => false })
  const socket = await connect(path)
  const { kind, data } = (await receiveFrame(socket))!
  t.is(kind, CLOSE)
  t.is((JSON.parse(String(data)) as { code: string }).code, 'EACCES')
  t.is(await socket.recv(), null)
  socket.close()
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

/** Sends a directory of procfs, whose fstat(2) the kernel refuses to other users than root. */
const sendHidden = `
import os, socket, sys
socket.send_fds(socket.socket(fileno=3), [b"x"], [os.open(sys.argv[1] + "/1", os.O_RDONLY | os.O_DIRECTORY)])
`
const mountHidden = ['--mount', 'sh', '-c', 'mount -t proc -o hidepid=2 none "$1"']

onlyIf(
  hasPython && process.getuid?.() === 0 && runs('unshare', ...mountHidden, 'sh', temporaryFolder()),
  'needs root on Linux, Python, and mount namespaces'
)('a descriptor whose fstat is refused is listed as other, [S216]', async (t) => {
  const [unshare, shell, option, mount] = mountHidden as [string, string, string, string]
  const args = [unshare, shell, option, `${mount} && exec python3 -c "$2" "$1"`, 'sh', temporaryFolder(), sendHidden]
  const { socket, done } = startProgram('unshare', args)
  const [hidden] = (await socket.recv())!.fds
  await done
  socket.close()
  const folder = temporaryFolder()
  chmodSync(folder, 0o777)
  const user = { uid: 65_534, gid: 65_534 }
  const path = join(folder, 'store')
  const service = spawn(process.execPath, [...process.execArgv, fixturePath('services'), 'serve', path], {
    ...user,
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const ended = endWith(t, service).catch(() => {})
  await once(service.stdout, 'data')
  const store = await connectStore(path)
  await store.put('hidden', hidden!)
  await put(store, 'file', 'kept')
  t.deepEqual(
    (await store.list()).map(({ name, kinds }) => [name, kinds]),
    [
      ['hidden', ['other']],
      ['file', ['file']]
    ]
  )
  store.close()
  service.kill()
  await ended
  const receiving = startRecv(t, folder, ['--json', '--count', '1'], user)
  const connecting = async (): Promise<UnixSocket> => {
    try {
      return await connect(join(folder, 'x.sock'))
    } catch {
      await setTimeout(20) // it does not listen yet
      return connecting()
    }
  }
  using client = await connecting()
  await client.sendFd(hidden!)
  hidden!.closeSync()
  const { code, stdout } = await receiving.ended
  t.is(code, 0)
  t.like(JSON.parse(stdout), { fds: [{ kind: 'other' }] })
})
