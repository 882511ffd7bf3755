import { chmodSync, existsSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test from 'ava'
import { type SocketType, listen } from 'fdpass'
import { begin, fdpass, folderWithFiles, runSend, script, startRecv } from '../helpers/cli.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'

const python = resolve('__test__/fixtures/descriptors.py')

const isRoot = process.getuid?.() === 0

const types: readonly SocketType[] = isLinux ? ['stream', 'seqpacket', 'dgram'] : ['stream', 'dgram']

const onLinux = onlyIf(isLinux, 'needs Linux')

onlyIf(hasPython, 'needs Python 3.9')(
  'recv exits in order when its peer was killed, with what arrived before',
  async (t) => {
    const cwd = folderWithFiles()
    const running = startRecv(t, cwd, [])
    const peer = begin(t, 'python3', [python, 'hang', 'x.sock'], { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    await peer.printed(/sent/)
    await running.printed(/"stdin"/)
    peer.child.kill('SIGKILL')
    const { code, stdout, stderr } = await running.ended
    t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
    t.regex(stdout, /^"stdin" from .*\n {2}.*\n$/)
  }
)

test('send that waits for room reports that its peer is gone', async (t) => {
  const cwd = folderWithFiles()
  await using server = await listen(join(cwd, 'x.sock'))
  const sending = runSend(
    t,
    cwd,
    Array.from({ length: 3000 }, () => 'a')
  )
  using socket = await server.accept()
  ;(await socket.recv())?.close()
  await new Promise((wake) => setTimeout(wake, 200))
  socket.close()
  const { code, stdout, stderr } = await sending
  t.deepEqual({ code, stdout }, { code: 1, stdout: '' })
  t.regex(stderr, /^fdpass: send: \.\/x\.sock: (?:Broken pipe|Connection reset by peer)\n$/)
})

test('send --wait waits for a listener, and no longer than its limit', async (t) => {
  const cwd = folderWithFiles()
  const sending = runSend(t, cwd, ['a'])
  await new Promise((wake) => setTimeout(wake, 1000))
  const running = startRecv(t, cwd, [])
  t.is((await sending).code, 0)
  t.regex((await running.ended).stdout, /^"a" from /)
  const begun = performance.now()
  const { code, stderr } = await fdpass(t, ['send', '--wait', '0.5', './x.sock', 'a'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: send: ./x.sock: No such file or directory\n' })
  t.true(performance.now() - begun >= 500)
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`${signal} ends recv and send by that signal, and their sockets' files are removed`, async (t) => {
    for (const args of [
      ['recv', './x.sock'],
      ['send', '--listen', './x.sock', 'a']
    ]) {
      const cwd = folderWithFiles()
      const running = begin(t, 'fdpass', args, { cwd })
      while (!existsSync(join(cwd, 'x.sock'))) await new Promise((wake) => setTimeout(wake, 10))
      running.child.kill(signal)
      const { stdout, stderr, ...ended } = await running.ended
      t.deepEqual({ ...ended, stdout, stderr }, { code: null, signal, stdout: '', stderr: '' })
      t.false(existsSync(join(cwd, 'x.sock')))
    }
  })
}

test('recv exits silently when its reader is gone, and its socket’s file is removed', async (t) => {
  const cwd = folderWithFiles()
  const running = startRecv(t, cwd, ['--count', '9'])
  running.child.stdout!.destroy()
  const sent = await runSend(t, cwd, ['a'])
  t.is(sent.code, 0)
  const { code, stderr } = await running.ended
  t.deepEqual({ code, stderr }, { code: 141, stderr: '' })
  t.false(existsSync(join(cwd, 'x.sock')))
})

onLinux('recv reports descriptors that it had no room for, and continues', async (t) => {
  const cwd = folderWithFiles()
  const text = 'ulimit -n 60; exec fdpass recv ./x.sock'
  const running = script(t, text, { cwd })
  await runSend(t, cwd, ['--together', ...Array.from({ length: 100 }, () => 'a')])
  const { code, stdout, stderr } = await running
  t.deepEqual({ code, stdout }, { code: 1, stdout: '' })
  t.regex(stderr, /^fdpass: recv: Descriptors were lost: the descriptor table is full.*\n$/)
})

onlyIf(isRoot && isLinux, 'needs root, to be somebody else')(
  '--allow-uid has nothing to do with other users [S10]',
  async (t) => {
    const other = { uid: 65_534, gid: 65_534 }
    const allowed = ['--allow-uid', '65534', '--socket-mode', '666', '--json']
    for (const type of types) {
      const cwd = folderWithFiles()
      chmodSync(cwd, 0o755)
      const running = startRecv(t, cwd, [...allowed, '--count', '1', '--type', type])
      const refused = await runSend(t, cwd, ['--type', type, 'a'])
      t.true(refused.code === 0 || refused.code === 1) // its message may have been sent before the connection was closed
      await running.printed(/Refused/)
      t.is(statSync(join(cwd, 'x.sock')).mode & 0o777, 0o666)
      t.is((await runSend(t, cwd, ['--type', type, 'b'], other)).code, 0)
      const { stdout, stderr } = await running.ended
      t.like(JSON.parse(stdout), { data: 'b', sender: { uid: 65_534 } })
      t.regex(stderr, /^fdpass: Refused: user 0, process \d+\n$/)
    }
    const cwd = folderWithFiles()
    await using server = await listen(join(cwd, 'x.sock'))
    const { code, stderr } = await runSend(t, cwd, ['--allow-uid', '1', 'a'])
    t.is(code, 1)
    t.regex(stderr, /\nfdpass: send: The socket belongs to a user that --allow-uid does not list\n$/)
    using _socket = await server.accept()
  }
)
