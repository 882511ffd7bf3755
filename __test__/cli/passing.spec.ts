import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import test from 'ava'
import { Channel, type SocketType, connect, listen } from 'fdpass'
import {
  begin,
  fdpass,
  folderWithFiles,
  runSend,
  runStore,
  sandbox,
  script,
  startRecv,
  startStore
} from '../helpers/cli.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'

const python = resolve('__test__/fixtures/descriptors.py')

const [uid, gid] = [process.getuid?.(), process.getgid?.()]

const types: readonly SocketType[] = isLinux ? ['stream', 'seqpacket', 'dgram'] : ['stream', 'dgram']

const onLinux = onlyIf(isLinux, 'needs Linux')

const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

for (const type of types) {
  onLinux(`recv prints in JSON what send sends, a message for each file, over ${type}`, async (t) => {
    const cwd = folderWithFiles()
    const running = startRecv(t, cwd, ['--json', '--count', '2', '--type', type])
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
      const cwd = folderWithFiles()
      const peer = begin(t, 'python3', [python, 'recv', type, 'x.sock', '2'], { cwd })
      const sent = await fdpass(t, ['send', '--wait', '20', '--type', type, 'x.sock', 'a', 'b'], { cwd })
      t.deepEqual(sent, { code: 0, signal: null, stdout: '', stderr: '' })
      t.is((await peer.ended).stdout, 'a|content of a\nb|content of b\n')
    }
  )

  onlyIf(hasPython, 'needs Python 3.9')(`recv shows what Python sends by send_fds over ${type}`, async (t) => {
    const cwd = folderWithFiles()
    const running = startRecv(t, cwd, ['--type', type])
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
    const cwd = folderWithFiles()
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
      const cwd = folderWithFiles()
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
  const cwd = folderWithFiles()
  const running = startRecv(t, cwd, ['--json'])
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

onLinux('send --fd refuses its own descriptors that were not inherited', async (t) => {
  const cwd = folderWithFiles()
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

onLinux('recv prints the kind of each descriptor', async (t) => {
  const cwd = folderWithFiles()
  const running = startRecv(t, cwd, ['--json'])
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
    const cwd = folderWithFiles()
    for (const [sent, text, json] of [
      ['\u00ff\u00fe', 'base64 //4=', { base64: '//4=' }],
      ['\u001b[31m\u00c2\u009b\n', '"\\u001b[31m\\u009b\\n"', { data: '\u001b[31m\u009b\n' }]
    ] as const) {
      for (const args of [[], ['--json']]) {
        const running = startRecv(t, cwd, args)
        await begin(t, 'python3', [python, 'send', 'stream', 'x.sock', sent, 'a'], { cwd }).ended
        const { stdout } = await running.ended
        if (args.length === 0) t.true(stdout.startsWith(`${text} from `), stdout)
        else t.like(JSON.parse(stdout), json)
      }
    }
  }
)

test('recv --count takes messages of several connections, and ends where one connection has not as many', async (t) => {
  const cwd = folderWithFiles()
  const running = startRecv(t, cwd, ['--count', '3', '--json'])
  await runSend(t, cwd, ['a'])
  await runSend(t, cwd, ['b', 'a'])
  t.deepEqual(
    linesOf((await running.ended).stdout).map(({ data }) => data),
    ['a', 'b', 'a']
  )
  const sending = fdpass(t, ['send', '--listen', './x.sock', 'a'], { cwd })
  const { code, stderr } = await fdpass(t, ['recv', '--connect', '--wait', '20', '--count', '2', './x.sock'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: recv: The connection closed after 1 of 2 messages\n' })
  t.is((await sending).code, 0)
})

onlyIf(hasPython, 'needs Python 3.9')(
  'recv --count is not held up by a connection that sends nothing more',
  async (t) => {
    const cwd = folderWithFiles()
    const running = startRecv(t, cwd, ['--count', '2'])
    const peer = begin(t, 'python3', [python, 'hang', 'x.sock'], { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    await peer.printed(/sent/)
    await runSend(t, cwd, ['a'])
    const { code, stdout } = await running.ended
    t.is(code, 0)
    t.regex(stdout, /^"stdin" from .*\n {2}.*\n"a" from/)
  }
)

test('send sends nothing where one of the files cannot be opened', async (t) => {
  const cwd = folderWithFiles()
  await using server = await listen(join(cwd, 'x.sock'))
  const { code, stderr } = await runSend(t, cwd, ['a', 'missing'])
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: send: missing: No such file or directory\n' })
  await t.throwsAsync(server.accept({ signal: AbortSignal.timeout(100) }), { name: 'AbortError' })
})

const hasLibsystemd =
  hasPython && spawnSync('python3', ['-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")']).status === 0

onlyIf(hasLibsystemd, 'needs libsystemd')(
  'A program that recv runs finds the descriptors, and their names, by sd_listen_fds_with_names',
  async (t) => {
    const cwd = folderWithFiles()
    const running = startRecv(t, cwd, ['--', 'python3', python, 'listen_fds'])
    const sent = await runSend(t, cwd, ['a', 'b', '--data', 'config'])
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
      const next = startRecv(t, cwd, ['--', 'python3', python, 'listen_fds'])
      await runSend(t, cwd, args)
      t.is((await next.ended).stdout, printed)
    }
  }
)

test('The exit status of the program is that of recv, and standard input is the program’s [S266]', async (t) => {
  const cwd = folderWithFiles()
  for (const [text, code, stdout] of [
    ['exit 7', 7, ''],
    ['kill -KILL $$', 128 + 9, ''],
    ['kill -TERM $$', 128 + 15, ''],
    ['kill -40 $$', 128 + 40, ''], // a real-time signal
    ['test "$LISTEN_PID" = $$ && cat && cat <&3', 0, 'input\ncontent of a']
  ] as const) {
    // A shell, because Node would report the real-time signal as code 0.
    const args = ['-c', 'fdpass recv ./x.sock -- "$@"; exit $?', 'sh', 'sh', '-c', text]
    const running = begin(t, 'sh', args, { cwd, input: 'input\n' })
    await runSend(t, cwd, ['a'])
    const ended = await running.ended
    t.deepEqual([ended.code, ended.stdout], [code, stdout], text)
  }
  const running = startRecv(t, cwd, ['--', 'cat'])
  ;(await connectWhenThere(join(cwd, 'x.sock'))).close()
  t.deepEqual(await running.ended, {
    code: 1,
    signal: null,
    stdout: '',
    stderr: 'fdpass: recv: No descriptor was received\n'
  })
})

test('A program that cannot be executed is reported, and a script without an interpreter is run by sh', async (t) => {
  const cwd = folderWithFiles()
  for (const [content, code, stdout, stderr] of [
    ['echo "$1 $0"; cat <&3', 0, 'one ./program\ncontent of a', ''],
    ['#!/nowhere/interpreter\n', 127, '', 'fdpass: ./program: No such file or directory\n']
  ] as const) {
    writeFileSync(join(cwd, 'program'), content, { mode: 0o755 })
    const running = startRecv(t, cwd, ['--', './program', 'one'])
    await runSend(t, cwd, ['a'])
    t.deepEqual(await running.ended, { code, signal: null, stdout, stderr }, content)
  }
})

test('The program that recv runs gets the signals that recv gets', async (t) => {
  const cwd = folderWithFiles()
  const text = 'trap "echo TERM; exit 3" TERM; trap "echo USR1" USR1; echo ready; while :; do sleep 0.05; done'
  const running = startRecv(t, cwd, ['--', 'sh', '-c', text])
  await runSend(t, cwd, ['a'])
  await running.printed(/ready/)
  running.child.kill('SIGUSR1')
  await running.printed(/USR1/)
  running.child.kill('SIGTERM')
  const { code, stdout } = await running.ended
  t.deepEqual({ code, stdout }, { code: 3, stdout: 'ready\nUSR1\nTERM\n' })
})

for (const command of ['recv', 'store serve'] as const) {
  onLinux(`strangers that fill the descriptor table of ${command} do not end it [S262]`, async (t) => {
    const isRecv = command === 'recv'
    const cwd = folderWithFiles()
    const running = isRecv ? startRecv(t, cwd, ['--count', '1']) : await startStore(t, cwd)
    const path = join(cwd, isRecv ? 'x.sock' : 's.sock')
    const first = await connectWhenThere(path)
    // Not before: Node opens many of a program's modules at a time.
    t.is(spawnSync('prlimit', ['--pid', `${running.child.pid}`, '--nofile=50']).status, 0)
    const strangers = [first, ...(await Promise.all(Array.from({ length: 60 }, () => connect(path))))]
    await running.printed(/too many open files/i)
    for (const stranger of strangers) stranger.close()
    t.is((await (isRecv ? runSend(t, cwd, ['a']) : runStore(t, cwd, 'list'))).code, 0)
    if (!isRecv) running.child.kill('SIGTERM')
    const { code, stdout, stderr } = await running.ended
    if (isRecv) {
      t.regex(stdout, /^"a" from /)
      t.regex(stderr, /^(fdpass: accept: Too many open files(, 10+ times so far)?\n)+$/)
      t.is(code, 0)
    } else t.is(stderr.split('too many open files').length, 2, stderr)
  })
}

onLinux('recv and store serve report a user that they refuse once, and then how often [S262]', async (t) => {
  for (const command of [
    ['recv', '--count', '1'],
    ['store', 'serve']
  ]) {
    const cwd = sandbox()
    const running = begin(t, 'fdpass', [...command, '--allow-uid', '12345', './x.sock'], { cwd })
    const path = join(cwd, 'x.sock')
    for (let i = 0; i < 25; i++) {
      using client = await connectWhenThere(path)
      if (command[0] === 'store') await t.throwsAsync(new Channel(client).request({ ask: 'list' }))
      else t.is(await client.recv(), null)
    }
    running.child.kill('SIGTERM')
    const refusals = (await running.ended).stderr.split('\n').filter((line) => line.includes('Refused'))
    const lines = [
      `fdpass: Refused: user ${uid}, process ${process.pid}`,
      `fdpass: Refused: user ${uid}, 10 times so far`
    ]
    t.deepEqual(refusals, lines)
  }
})

onlyIf(isLinux && uid === 0 && hasPython, 'needs root and Python 3.9')(
  'recv reports 64 users that it refuses one by one, and then how many others [S262]',
  async (t) => {
    const cwd = sandbox()
    chmodSync(cwd, 0o755)
    const running = begin(t, 'fdpass', ['recv', '--socket-mode', '666', '--allow-uid', '12345', './x.sock'], { cwd })
    const path = join(cwd, 'x.sock')
    const none = await connectWhenThere(path)
    t.is(await none.recv(), null)
    const users = `import os, socket, sys
for user in range(20000, 20000 + 63 + 10):
    os.seteuid(user)
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    os.seteuid(0)
    assert client.recv(1) == b''`
    t.is((await begin(t, 'python3', ['-c', users, path]).ended).code, 0)
    running.child.kill('SIGTERM')
    const refusals = (await running.ended).stderr.split('\n').filter((line) => line.includes('Refused'))
    t.is(refusals.length, 64 + 2)
    t.regex(refusals[64]!, /^fdpass: Refused: user 20063, process \d+$/)
    t.is(refusals[65], 'fdpass: Refused: others, 10 times so far')
  }
)
