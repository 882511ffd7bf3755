import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type SocketType, listen } from 'fdpass'
import { type Ended, type Running, begin, fdpass, sandbox, script } from '../helpers/cli.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'

const python = resolve('__test__/fixtures/descriptors.py')
const isRoot = process.getuid?.() === 0
const [uid, gid] = [process.getuid?.(), process.getgid?.()]
const types: readonly SocketType[] = isLinux ? ['stream', 'seqpacket', 'dgram'] : ['stream', 'dgram']
const onLinux = onlyIf(isLinux, 'needs Linux')

/** A folder with two files. */
function files(): string {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  writeFileSync(join(cwd, 'b'), 'content of b')
  return cwd
}

/** Starts `fdpass recv`. */
function receiver(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Running {
  return begin(t, 'fdpass', ['recv', './x.sock', ...args], { cwd, ...options })
}

/** Sends by `fdpass send`, as soon as somebody listens. */
function send(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Promise<Ended> {
  return fdpass(t, ['send', '--wait', '20', './x.sock', ...args], { cwd, ...options })
}

const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

for (const type of types) {
  onLinux(`recv prints in JSON what send sends, a message for each file, over ${type}`, async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, ['--json', '--count', '2', '--type', type])
    const sending = begin(t, 'fdpass', ['send', '--type', type, '--wait', '20', './x.sock', 'a', './b'], { cwd })
    t.deepEqual(await sending.ended, { code: 0, signal: null, stdout: '', stderr: '' })
    const { code, stdout, stderr } = await running.ended
    t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
    const sender = { pid: sending.child.pid, uid, gid }
    t.deepEqual(linesOf(stdout), [
      { data: 'a', fds: [{ kind: 'file', path: join(cwd, 'a') }], sender },
      { data: './b', fds: [{ kind: 'file', path: join(cwd, 'b') }], sender }
    ])
    t.false(existsSync(join(cwd, 'x.sock')))
  })

  onlyIf(hasPython, 'needs Python 3.9')(
    `A Python that listens gets by recv_fds what send sends over ${type}`,
    async (t) => {
      const cwd = files()
      const peer = begin(t, 'python3', [python, 'recv', type, 'x.sock', '2'], { cwd })
      const sent = await fdpass(t, ['send', '--wait', '20', '--type', type, 'x.sock', 'a', 'b'], { cwd })
      t.deepEqual(sent, { code: 0, signal: null, stdout: '', stderr: '' })
      t.is((await peer.ended).stdout, 'a|content of a\nb|content of b\n')
    }
  )

  onlyIf(hasPython, 'needs Python 3.9')(`recv shows what Python sends by send_fds over ${type}`, async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, ['--type', type])
    const peer = begin(t, 'python3', [python, 'send', type, 'x.sock', 'the data', 'a', '/dev/null'], { cwd })
    t.is((await peer.ended).code, 0)
    const { stdout } = await running.ended
    const from = isLinux ? `pid ${peer.child.pid}, uid ${uid}, gid ${gid}` : 'unknown'
    t.is(stdout, `"the data" from ${from}\n  file "${cwd}/a"\n  character-device "/dev/null"\n`)
  })
}

onlyIf(isLinux && hasPython, 'needs Python 3.9, and abstract addresses')(
  '@name is abstract, and ./@name is a path',
  async (t) => {
    const cwd = files()
    const name = `@fdpass-${process.pid}`
    const peer = begin(t, 'python3', [python, 'recv', 'stream', name, '1'], { cwd })
    t.is((await fdpass(t, ['send', '--wait', '20', name, 'a'], { cwd })).code, 0)
    t.is((await peer.ended).stdout, 'a|content of a\n')
    const running = begin(t, 'fdpass', ['recv', './@name'], { cwd })
    t.is((await fdpass(t, ['send', '--wait', '20', './@name', 'a'], { cwd })).code, 0)
    t.regex((await running.ended).stdout, /^"a" from /)
  }
)

onlyIf(hasPython, 'needs Python 3.9')(
  'send --together sends one message, whose data are the names or --data',
  async (t) => {
    for (const [args, data] of [
      [[], 'a\nb'],
      [['--data', 'both'], 'both']
    ] as const) {
      const cwd = files()
      const peer = begin(t, 'python3', [python, 'recv', 'stream', 'x.sock', '1'], { cwd })
      t.is((await fdpass(t, ['send', '--wait', '20', '--together', ...args, 'x.sock', 'a', 'b'], { cwd })).code, 0)
      t.is((await peer.ended).stdout, `${data}|content of a|content of b\n`)
    }
  }
)

onlyIf(hasPython, 'needs Python 3.9')(
  'send opens files as the shell’s redirections do: --write, --append, --read-write',
  async (t) => {
    for (const [mode, before, after] of [
      ['--write', 'long before', 'new'],
      ['--append', 'before ', 'before new'],
      ['--read-write', 'before', 'newore'],
      ['--write', undefined, 'new'],
      ['--append', undefined, 'new'],
      ['--read-write', undefined, 'new']
    ] as const) {
      const cwd = sandbox()
      if (before !== undefined) writeFileSync(join(cwd, 'file'), before)
      const sending = fdpass(t, ['send', mode, '--listen', './x.sock', 'file'], { cwd })
      const peer = begin(t, 'python3', [python, 'connect', 'x.sock', 'new'], { cwd })
      t.is((await peer.ended).code, 0)
      t.is((await sending).code, 0)
      t.is(readFileSync(join(cwd, 'file'), 'utf8'), after, mode)
    }
  }
)

test('send - sends standard input, and --fd what the shell has opened, under a name of its own', async (t) => {
  const cwd = files()
  const running = receiver(t, cwd, ['--json'])
  const sent = await script(t, 'fdpass send --wait 20 ./x.sock a - --fd 5 < b 5< /dev/null', { cwd })
  t.deepEqual({ code: sent.code, stderr: sent.stderr }, { code: 0, stderr: '' })
  const lines = linesOf((await running.ended).stdout)
  t.deepEqual(
    lines.map(({ data, fds }) => [data, fds[0].kind]),
    [
      ['a', 'file'],
      ['stdin', 'file'],
      ['fd5', 'character-device']
    ]
  )
})

onLinux('send --fd refuses what is open in it, but nobody has given it', async (t) => {
  const cwd = files()
  for (let fd = 3; fd < 20; fd++) {
    const { code, stderr } = await fdpass(t, ['send', './x.sock', '--fd', `${fd}`], { cwd })
    // It may have /dev/null open itself, which is nothing to be afraid of.
    t.regex(
      stderr,
      new RegExp(`^fdpass: send: (?:--fd ${fd}: Bad file descriptor\\. .*|\\./x\\.sock: No such file or directory)\n$`)
    )
    t.is(code, 1)
  }
})

onLinux('recv tells what each descriptor is', async (t) => {
  const cwd = files()
  const running = receiver(t, cwd, ['--json'])
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  const text = 'true | fdpass send --wait 20 ./x.sock --together --data kinds --fd 3 - . /dev/zero'
  await script(t, text, { cwd, stdio: ['ignore', 'pipe', 'pipe', fd] })
  server.close()
  const [{ fds }] = linesOf((await running.ended).stdout)
  t.deepEqual(fds, [
    { kind: 'fifo' },
    { kind: 'directory', path: cwd },
    { kind: 'character-device', path: '/dev/zero' },
    { kind: 'tcp-listener', address: `127.0.0.1:${port}` }
  ])
})

onlyIf(hasPython, 'needs Python 3.9')(
  'recv shows data that are no text, or would do something to a terminal, harmlessly',
  async (t) => {
    const cwd = files()
    for (const [sent, text, json] of [
      ['\u00ff\u00fe', 'base64 //4=', { base64: '//4=' }],
      ['\u001b[31m\u00c2\u009b\n', '"\\u001b[31m\\u009b\\n"', { data: '\u001b[31m\u009b\n' }]
    ] as const) {
      for (const args of [[], ['--json']]) {
        const running = receiver(t, cwd, args)
        await begin(t, 'python3', [python, 'send', 'stream', 'x.sock', sent, 'a'], { cwd }).ended
        const { stdout } = await running.ended
        if (args.length === 0) t.true(stdout.startsWith(`${text} from `), stdout)
        else t.like(JSON.parse(stdout), json)
      }
    }
  }
)

test('recv --count takes messages of several connections, and ends where one connection has not as many', async (t) => {
  const cwd = files()
  const running = receiver(t, cwd, ['--count', '3', '--json'])
  await send(t, cwd, ['a'])
  await send(t, cwd, ['b', 'a'])
  t.deepEqual(
    linesOf((await running.ended).stdout).map(({ data }) => data),
    ['a', 'b', 'a']
  )
  const sending = fdpass(t, ['send', '--listen', './x.sock', 'a'], { cwd })
  const { code, stderr } = await fdpass(t, ['recv', '--connect', '--wait', '20', '--count', '2', './x.sock'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: recv: The connection has ended after 1 of 2 messages\n' })
  t.is((await sending).code, 0)
})

onlyIf(hasPython, 'needs Python 3.9')(
  'recv --count is not held up by a connection that says nothing more',
  async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, ['--count', '2'])
    const peer = begin(t, 'python3', [python, 'hang', 'x.sock'], { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    await peer.printed(/sent/)
    await send(t, cwd, ['a'])
    const { code, stdout } = await running.ended
    t.is(code, 0)
    t.regex(stdout, /^"stdin" from .*\n {2}.*\n"a" from/)
  }
)

onlyIf(hasPython, 'needs Python 3.9')(
  'recv ends in order when its peer was killed, and has what came before',
  async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, [])
    const peer = begin(t, 'python3', [python, 'hang', 'x.sock'], { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    await peer.printed(/sent/)
    await running.printed(/"stdin"/)
    peer.child.kill('SIGKILL')
    const { code, stdout, stderr } = await running.ended
    t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
    t.regex(stdout, /^"stdin" from .*\n {2}.*\n$/)
  }
)

test('send that waits for room tells when its peer is gone', async (t) => {
  const cwd = files()
  await using server = await listen(join(cwd, 'x.sock'))
  const sending = send(
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

test('send --wait waits for whoever listens, and no longer than it is told to', async (t) => {
  const cwd = files()
  const sending = send(t, cwd, ['a'])
  await new Promise((wake) => setTimeout(wake, 1000))
  const running = receiver(t, cwd, [])
  t.is((await sending).code, 0)
  t.regex((await running.ended).stdout, /^"a" from /)
  const begun = performance.now()
  const { code, stderr } = await fdpass(t, ['send', '--wait', '0.5', './x.sock', 'a'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: send: ./x.sock: No such file or directory\n' })
  t.true(performance.now() - begun >= 500)
})

test('send sends nothing where one of the files cannot be opened', async (t) => {
  const cwd = files()
  await using server = await listen(join(cwd, 'x.sock'))
  const { code, stderr } = await send(t, cwd, ['a', 'missing'])
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: send: missing: No such file or directory\n' })
  await t.throwsAsync(server.accept({ signal: AbortSignal.timeout(100) }), { name: 'AbortError' })
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`${signal} ends recv and send by that signal, and their sockets' files are removed`, async (t) => {
    for (const args of [
      ['recv', './x.sock'],
      ['send', '--listen', './x.sock', 'a']
    ]) {
      const cwd = files()
      const running = begin(t, 'fdpass', args, { cwd })
      while (!existsSync(join(cwd, 'x.sock'))) await new Promise((wake) => setTimeout(wake, 10))
      running.child.kill(signal)
      const { stdout, stderr, ...ended } = await running.ended
      t.deepEqual({ ...ended, stdout, stderr }, { code: null, signal, stdout: '', stderr: '' })
      t.false(existsSync(join(cwd, 'x.sock')))
    }
  })
}

test('recv ends quietly where nobody reads what it prints, and its socket’s file is removed', async (t) => {
  const cwd = files()
  const running = receiver(t, cwd, ['--count', '9'])
  running.child.stdout!.destroy()
  const sent = await send(t, cwd, ['a'])
  t.is(sent.code, 0)
  const { code, stderr } = await running.ended
  t.deepEqual({ code, stderr }, { code: 141, stderr: '' })
  t.false(existsSync(join(cwd, 'x.sock')))
})

onLinux('recv tells of descriptors that it had no room for, and goes on', async (t) => {
  const cwd = files()
  const text = 'ulimit -n 60; exec fdpass recv ./x.sock'
  const running = script(t, text, { cwd })
  await send(t, cwd, ['--together', ...Array.from({ length: 100 }, () => 'a')])
  const { code, stdout, stderr } = await running
  t.deepEqual({ code, stdout }, { code: 1, stdout: '' })
  t.regex(stderr, /^fdpass: recv: Descriptors were lost: the descriptor table is full.*\n$/)
})

onlyIf(isRoot && isLinux, 'needs root, to be somebody else')(
  '--allow-uid has nothing to do with other users',
  async (t) => {
    const other = { uid: 65_534, gid: 65_534 }
    const allowed = ['--allow-uid', '65534', '--socket-mode', '666', '--json']
    for (const type of types) {
      const cwd = files()
      chmodSync(cwd, 0o755)
      const running = receiver(t, cwd, [...allowed, '--count', '1', '--type', type])
      const refused = await send(t, cwd, ['--type', type, 'a'])
      t.true(refused.code === 0 || refused.code === 1) // its message may have been sent before the connection was closed
      await running.printed(/Refused/)
      t.is(statSync(join(cwd, 'x.sock')).mode & 0o777, 0o666)
      t.is((await send(t, cwd, ['--type', type, 'b'], other)).code, 0)
      const { stdout, stderr } = await running.ended
      t.like(JSON.parse(stdout), { data: 'b', sender: { uid: 65_534 } })
      t.regex(stderr, /^fdpass: Refused: user 0, process \d+\n$/)
    }
    const cwd = files()
    await using server = await listen(join(cwd, 'x.sock'))
    const { code, stderr } = await send(t, cwd, ['--allow-uid', '1', 'a'])
    t.is(code, 1)
    t.regex(stderr, /\nfdpass: send: The socket is of a user who is not allowed\n$/)
    using _socket = await server.accept()
  }
)

const hasLibsystemd =
  hasPython && spawnSync('python3', ['-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")']).status === 0

onlyIf(hasLibsystemd, 'needs libsystemd')(
  'A program that recv runs finds the descriptors, and their names, by sd_listen_fds_with_names',
  async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, ['--', 'python3', python, 'listen_fds'])
    const sent = await send(t, cwd, ['a', 'b', '--data', 'config'])
    t.is(sent.code, 0)
    t.deepEqual(await running.ended, {
      code: 0,
      signal: null,
      stdout: 'config|content of a\nconfig|content of b\n2 2\n',
      stderr: ''
    })
    for (const [args, printed] of [
      [['--together', 'a', 'b'], 'a|content of a\nb|content of b\n2 2\n'],
      [['--data', 'no:name', 'a'], 'unknown|content of a\n1 1\n'],
      [['--data', 'ä', 'a'], 'unknown|content of a\n1 1\n'],
      [['--together', '--data', 'one\ntwo\nthree', 'a', 'b'], 'unknown|content of a\nunknown|content of b\n2 2\n']
    ] as const) {
      const next = receiver(t, cwd, ['--', 'python3', python, 'listen_fds'])
      await send(t, cwd, args)
      t.is((await next.ended).stdout, printed)
    }
  }
)

test('The exit status of the program is that of recv, and standard input is the program’s', async (t) => {
  const cwd = files()
  for (const [text, code, stdout] of [
    ['exit 7', 7, ''],
    ['kill -KILL $$', 128 + 9, ''],
    ['kill -TERM $$', 128 + 15, ''],
    ['test "$LISTEN_PID" = $$ && cat && cat <&3', 0, 'input\ncontent of a']
  ] as const) {
    const running = receiver(t, cwd, ['--', 'sh', '-c', text], { input: 'input\n' })
    await send(t, cwd, ['a'])
    t.deepEqual(await running.ended, { code, signal: null, stdout, stderr: '' }, text)
  }
  const running = receiver(t, cwd, ['--', 'cat'])
  ;(await connectWhenThere(join(cwd, 'x.sock'))).close()
  t.deepEqual(await running.ended, {
    code: 1,
    signal: null,
    stdout: '',
    stderr: 'fdpass: recv: No descriptor has come\n'
  })
})

test('The program that recv runs gets the signals that recv gets', async (t) => {
  const cwd = files()
  const text = 'trap "echo TERM; exit 3" TERM; trap "echo USR1" USR1; echo ready; while :; do sleep 0.05; done'
  const running = receiver(t, cwd, ['--', 'sh', '-c', text])
  await send(t, cwd, ['a'])
  await running.printed(/ready/)
  running.child.kill('SIGUSR1')
  await running.printed(/USR1/)
  running.child.kill('SIGTERM')
  const { code, stdout } = await running.ended
  t.deepEqual({ code, stdout }, { code: 3, stdout: 'ready\nUSR1\nTERM\n' })
})
