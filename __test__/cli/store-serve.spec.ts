import { chmodSync, existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { bind } from 'fdpass'
import { connectStore } from 'fdpass/store'
import { begin, fdpass, folderWithStore, installed, runStore, sandbox, startStore, succeeded } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'

const isRoot = process.getuid?.() === 0

const onLinux = onlyIf(isLinux, 'needs Linux')

const asRoot = onlyIf(isRoot && isLinux, 'needs root, to be somebody else')

test('serve keeps no more than its limits', async (t) => {
  const cwd = await folderWithStore(t, '--max-fds', '3')
  t.is((await runStore(t, cwd, 'put', 'x', 'a', 'a')).code, 0)
  const { code, stderr } = await runStore(t, cwd, 'put', 'y', 'a', 'a')
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: store put: y: The store keeps at most 3 descriptors\n' })
  t.is((await runStore(t, cwd, 'put', '--replace', 'x', 'a', 'a', 'a')).code, 0)
})

const refusal = (verb: string, name: string) => ({
  ...succeeded,
  code: 1,
  stderr: `fdpass: store ${verb}: ${name}: The permissions of the entry deny this\n`
})

asRoot('What others may do is what --mode says, and --max-per-user is a limit to them', async (t) => {
  const cwd = await folderWithStore(t, '--socket-mode', '666', '--max-per-user', '2')
  chmodSync(cwd, 0o755)
  t.is(statSync(join(cwd, 's.sock')).mode & 0o777, 0o666)
  const other = (verb: string, ...args: string[]) =>
    fdpass(t, ['store', verb, './s.sock', ...args], { cwd, uid: 65_534, gid: 65_534 })
  t.is((await runStore(t, cwd, 'put', 'mine', 'a')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--mode', '644', 'readable', 'a')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--mode', '660', '--group', '65534', 'group', 'a')).code, 0)
  t.deepEqual(await other('get', 'mine'), refusal('get', 'mine'))
  t.is((await other('get', 'readable')).stdout, 'content of a')
  t.deepEqual(await other('get', '--remove', 'readable'), refusal('get', 'readable'))
  t.deepEqual(await other('delete', 'readable'), refusal('delete', 'readable'))
  t.is((await other('list', '--json')).stdout.split('\n').length, 3)
  t.is((await other('put', '--replace', 'group', 'b')).code, 0)
  t.is((await runStore(t, cwd, 'get', 'group')).stdout, 'content of b')
  t.is((await other('put', 'theirs', 'a')).code, 0)
  const limit = 'fdpass: store put: more: The store keeps at most 2 descriptors for one user\n'
  t.deepEqual(await other('put', 'more', 'a'), { ...succeeded, code: 1, stderr: limit })
})

asRoot('serve --allow-uid refuses others, and continues when its output has no reader [S10]', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  chmodSync(cwd, 0o755)
  const running = await startStore(t, cwd, ['--socket-mode', '666', '--allow-uid', '0'])
  const refused = () => fdpass(t, ['store', 'list', './s.sock'], { cwd, uid: 65_534, gid: 65_534 })
  const { code, stderr } = await refused()
  t.is(code, 1)
  t.regex(stderr, /^fdpass: store list: \/.*\/s\.sock: Permission denied\n$/)
  await running.printed(/^fdpass: Refused: user 65534, process \d+\n/m)
  running.child.stderr!.destroy()
  for (let i = 0; i < 3; i++) t.is((await refused()).code, 1)
  t.is((await runStore(t, cwd, 'put', 'x', 'a')).code, 0)
})

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  test(`${signal} ends serve by that signal, and its sockets' files are removed`, async (t) => {
    const cwd = sandbox()
    const running = await startStore(t, cwd)
    t.is(statSync(join(cwd, 's.sock')).mode & 0o777, 0o600)
    t.true(existsSync(join(cwd, 's.sock.takeover')))
    running.child.kill(signal)
    const ended = await running.ended
    t.deepEqual([ended.code, ended.signal, ended.stdout], [null, signal, ''])
    t.is(ended.stderr.split('\n').length, 2)
    t.false(existsSync(join(cwd, 's.sock')))
    t.false(existsSync(join(cwd, 's.sock.takeover')))
  })
}

for (const [title, args] of [
  ['', []],
  [' at --takeover', ['--takeover', './place']]
] as const) {
  test(`A second store takes over${title}: no client notices, and the first one exits with 0`, async (t) => {
    const cwd = sandbox()
    writeFileSync(join(cwd, 'a'), 'content of a')
    let running = await startStore(t, cwd, args)
    t.is((await runStore(t, cwd, 'put', 'old', 'a')).code, 0)
    const ending = new AbortController()
    let answers = 0
    using store = await connectStore(join(cwd, 's.sock'))
    const asking = (async () => {
      while (!ending.signal.aborted) {
        for (const descriptor of await store.get('old')) descriptor.closeSync()
        using fresh = await connectStore(join(cwd, 's.sock'))
        t.is((await fresh.list())[0]!.name, 'old')
        answers++
      }
    })()
    for (let round = 0; round < 3; round++) {
      const next = await startStore(t, cwd, args)
      const ended = await running.ended
      t.deepEqual([ended.code, ended.signal], [0, null])
      t.regex(ended.stderr, /^.*Listening.*\nfdpass: store serve: Another process has taken over\n$/)
      running = next
    }
    ending.abort()
    await asking
    t.true(answers > 3, `${answers}`)
    t.is((await runStore(t, cwd, 'get', 'old')).stdout, 'content of a')
    running.child.kill('SIGTERM')
    await running.ended
    t.false(existsSync(join(cwd, 's.sock')))
  })
}

onLinux('A store at an abstract address serves, and takes over', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  const name = `@fdpass-store-${process.pid}`
  const start = () => begin(t, 'fdpass', ['store', 'serve', name], { cwd })
  const first = start()
  await first.printed(new RegExp(`^fdpass: store serve: Listening on unix:${name}\\n`))
  t.is((await fdpass(t, ['store', 'put', name, 'x', 'a'], { cwd })).code, 0)
  const second = start()
  t.is((await first.ended).code, 0)
  t.is((await fdpass(t, ['store', 'get', name, 'x'], { cwd })).stdout, 'content of a')
  second.child.kill('SIGTERM')
  t.is((await second.ended).signal, 'SIGTERM')
})

onLinux('serve notifies a service manager when it is ready, and when it ends', async (t) => {
  const cwd = sandbox()
  using manager = bind(join(cwd, 'notify'))
  const running = await startStore(t, cwd, [], { env: { ...installed, NOTIFY_SOCKET: join(cwd, 'notify') } })
  const told = async () =>
    Buffer.from((await manager.recv())!.data)
      .toString()
      .trim()
  t.is(await told(), 'READY=1')
  running.child.kill('SIGTERM')
  t.is(await told(), 'STOPPING=1')
  await running.ended
})
