import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Channel, listen, memfd } from 'fdpass'
import { connectStore } from 'fdpass/store'
import {
  begin,
  fdpass,
  folderWithFiles,
  folderWithStore,
  installed,
  runSend,
  runStore,
  script,
  startRecv,
  startStore,
  succeeded,
  sandbox
} from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'

const [uid, gid] = [process.getuid?.(), process.getgid?.()]

const onLinux = onlyIf(isLinux, 'needs Linux')

const pause = (milliseconds: number) => new Promise((wake) => setTimeout(wake, milliseconds))

/** The entries, as `list --json` prints them. */
async function listed(t: ExecutionContext, cwd: string): Promise<any[]> {
  const { stdout } = await runStore(t, cwd, 'list', '--json')
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

test('get prints a file from its beginning, as often as it is asked, and moves no offset', async (t) => {
  const cwd = await folderWithStore(t)
  t.deepEqual(await runStore(t, cwd, 'put', 'name of it', 'a'), succeeded)
  const some = await runStore(t, cwd, 'get', 'name of it', '--', 'sh', '-c', 'dd bs=7 count=1 status=none <&3')
  t.is(some.stdout, 'content')
  for (let i = 0; i < 2; i++)
    t.deepEqual(await runStore(t, cwd, 'get', 'name of it'), { ...succeeded, stdout: 'content of a' })
  // The content behind the seven bytes that were read.
  t.is((await runStore(t, cwd, 'get', 'name of it', '--', 'sh', '-c', 'cat <&3')).stdout, ' of a')
})

onlyIf(isLinux, 'needs memfd')('get prints memory, and what is larger than it reads at a time', async (t) => {
  const cwd = await folderWithStore(t)
  const content = Buffer.alloc(3_000_001, 'abcdefg')
  using store = await connectStore(join(cwd, 's.sock'))
  using memory = memfd()
  writeSync(memory.fd, content)
  await store.put('memory', memory)
  const { stdout } = await runStore(t, cwd, 'get', 'memory')
  t.true(Buffer.from(stdout).equals(content))
})

test('get copies a FIFO until its end, whether its reads wait or not', async (t) => {
  const cwd = await folderWithStore(t)
  execFileSync('mkfifo', [join(cwd, 'fifo')])
  const reader = openSync(join(cwd, 'fifo'), constants.O_RDONLY | constants.O_NONBLOCK)
  for (const [how, waits] of [
    ['not', false],
    ['so', true]
  ] as const) {
    const text = waits ? 'fdpass store put ./s.sock so fifo' : 'fdpass store put ./s.sock not --fd 3'
    const writer = begin(
      t,
      'sh',
      ['-c', 'exec > fifo; echo begun >&2; read line; echo "$line"; sleep 0.3; echo more'],
      {
        cwd,
        stdio: ['pipe', 'pipe', 'pipe']
      }
    )
    await writer.printed(/begun/)
    t.is((await script(t, text, { cwd, stdio: ['ignore', 'pipe', 'pipe', reader] })).code, 0)
    const running = runStore(t, cwd, 'get', how)
    await pause(200)
    writer.child.stdin!.end('said\n')
    t.deepEqual(await running, { ...succeeded, stdout: 'said\nmore\n' }, how)
  }
  closeSync(reader)
})

test('put opens files as send does, and takes what the shell has opened', async (t) => {
  const cwd = await folderWithStore(t)
  t.is((await runStore(t, cwd, 'put', '--append', 'log', 'a')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--write', 'new', 'new')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--read-write', 'both', 'b', 'newer')).code, 0)
  t.is((await script(t, 'fdpass store put ./s.sock shell - --fd 5 < a 5< b', { cwd })).code, 0)
  t.is((await runStore(t, cwd, 'get', 'log', '--', 'sh', '-c', 'echo " and more" >&3')).code, 0)
  t.is((await runStore(t, cwd, 'get', 'new', '--', 'sh', '-c', 'echo first >&3')).code, 0)
  t.is((await runStore(t, cwd, 'get', 'both', '--', 'sh', '-c', 'cat <&3; echo there >&4')).stdout, 'content of b')
  t.is((await runStore(t, cwd, 'get', 'shell', '--', 'sh', '-c', 'cat <&4 <&3')).stdout, 'content of a and more\n')
  t.deepEqual(
    ['a', 'new', 'newer'].map((name) => readFileSync(join(cwd, name), 'utf8')),
    ['content of a and more\n', 'first\n', 'there\n']
  )
  t.deepEqual(
    (await listed(t, cwd)).map(({ name, kinds }) => [name, kinds]),
    [
      ['log', ['file']],
      ['new', ['file']],
      ['both', ['file', 'file']],
      ['shell', ['file', 'file']]
    ]
  )
})

test('put keeps an existing entry, unless --replace is given', async (t) => {
  const cwd = await folderWithStore(t)
  t.is((await runStore(t, cwd, 'put', 'x', 'a')).code, 0)
  const stderr = 'fdpass: store put: x: An entry of this name exists\n'
  t.deepEqual(await runStore(t, cwd, 'put', 'x', 'b'), { ...succeeded, code: 1, stderr })
  t.is((await runStore(t, cwd, 'get', 'x')).stdout, 'content of a')
  t.deepEqual(await runStore(t, cwd, 'put', '--replace', 'x', 'b'), succeeded)
  t.is((await runStore(t, cwd, 'get', 'x')).stdout, 'content of b')
})

test('A name or a group that cannot be is an error of the command line', async (t) => {
  const cwd = await folderWithStore(t)
  const badName = `NAME must have 1 to 255 printable ASCII characters without ':' and '\\'. Received "a:b"`
  for (const [verb, args, message] of [
    ['put', ['a:b', 'a'], badName],
    ['get', ['a:b'], badName],
    ['delete', ['a:b'], badName],
    ['put', ['--group', 'no such group', 'x', 'a'], '--group is not known. Received "no such group"']
  ] as const) {
    t.deepEqual(await runStore(t, cwd, verb, ...args), {
      ...succeeded,
      code: 2,
      stderr: `fdpass: store ${verb}: ${message}\n`
    })
  }
})

onLinux('get reports why an entry cannot be printed, and --remove loses nothing then', async (t) => {
  const cwd = await folderWithStore(t)
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  const put = 'fdpass store put ./s.sock listener --fd 3; fdpass store put ./s.sock folder .'
  t.is((await script(t, put, { cwd, stdio: ['ignore', 'pipe', 'pipe', fd] })).code, 0)
  server.close()
  t.is((await runStore(t, cwd, 'put', '--append', 'log', 'a')).code, 0)
  t.is((await runStore(t, cwd, 'put', 'two', 'a', 'b')).code, 0)
  const entries = await listed(t, cwd)
  for (const [name, reason] of [
    ['listener', 'This is a tcp-listener, which cannot be printed: pass it to a program, after --'],
    ['folder', 'This is a directory, which cannot be printed: pass it to a program, after --'],
    ['log', 'This is not open for reading: pass it to a program, after --'],
    ['two', 'These are 2 descriptors: pass them to a program, after --']
  ] as const) {
    for (const args of [[], ['--remove']]) {
      const ended = await runStore(t, cwd, 'get', ...args, name)
      t.deepEqual(ended, { ...succeeded, code: 1, stderr: `fdpass: store get: ${name}: ${reason}\n` })
    }
  }
  t.is((await runStore(t, cwd, 'get', '--remove', 'two', '--', 'no-such-program')).code, 127)
  t.deepEqual(await listed(t, cwd), entries)
  t.deepEqual(await script(t, 'fdpass store put ./s.sock b b; fdpass store get ./s.sock b >> b', { cwd }), {
    ...succeeded,
    code: 1,
    stderr: 'fdpass: store get: Input file is output file\n'
  })
})

test('A program that get runs has the descriptors, and their name, and its exit status is that of get', async (t) => {
  const cwd = await folderWithStore(t)
  t.is((await runStore(t, cwd, 'put', 'pair', 'a', 'b')).code, 0)
  const text = 'echo "$LISTEN_FDS $LISTEN_FDNAMES"; test "$LISTEN_PID" = $$ && cat <&3 && cat <&4; exit 7'
  t.deepEqual(await runStore(t, cwd, 'get', '--remove', 'pair', '--', 'sh', '-c', text), {
    ...succeeded,
    code: 7,
    stdout: '2 pair:pair\ncontent of acontent of b'
  })
  t.deepEqual(await runStore(t, cwd, 'get', 'pair', '--', 'cat'), {
    ...succeeded,
    code: 1,
    stderr: 'fdpass: store get: pair: There is no entry of this name\n'
  })
})

test('Of several that get something with --remove at the same time, one gets it', async (t) => {
  const cwd = await folderWithStore(t)
  for (const program of [[], ['--', 'sh', '-c', 'cat <&3']]) {
    t.is((await runStore(t, cwd, 'put', 'job', 'a')).code, 0)
    const all = await Promise.all(
      Array.from({ length: 4 }, () => runStore(t, cwd, 'get', '--remove', 'job', ...program))
    )
    t.is(all.filter(({ code, stdout }) => code === 0 && stdout === 'content of a').length, 1)
    const missing = all.filter(({ stderr }) => stderr === 'fdpass: store get: job: There is no entry of this name\n')
    t.is(missing.length, 3)
    t.deepEqual(await listed(t, cwd), [])
  }
})

test('What expires is listed with the time that it has, and goes', async (t) => {
  const cwd = await folderWithStore(t)
  t.is((await runStore(t, cwd, 'put', '--expires', '3600', 'long', 'a')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--expires', '0.5', 'short', 'a')).code, 0)
  const long = (await listed(t, cwd))[0]
  t.true(long.expires > 3500 && long.expires <= 3600, JSON.stringify(long))
  t.regex((await runStore(t, cwd, 'list')).stdout, /^rw------- +\d+ +\d+ +3[56]\d\d {2}file {3}long$/m)
  await pause(600)
  t.deepEqual(
    (await listed(t, cwd)).map(({ name }) => name),
    ['long']
  )
})

test('list shows a table, or lines of JSON with what the options of put take', async (t) => {
  const cwd = await folderWithStore(t)
  t.deepEqual(await runStore(t, cwd, 'list'), { ...succeeded, stdout: 'MODE  UID  GID  EXPIRES  KINDS  NAME\n' })
  t.deepEqual(await runStore(t, cwd, 'list', '--json'), succeeded)
  t.is((await runStore(t, cwd, 'put', '--mode', '640', 'first one', 'a', '/dev/null')).code, 0)
  t.is((await runStore(t, cwd, 'put', '--mode', '006', 'second', 'b')).code, 0)
  t.deepEqual(await listed(t, cwd), [
    { name: 'first one', kinds: ['file', 'character-device'], uid, gid, mode: '640', expires: null },
    { name: 'second', kinds: ['file'], uid, gid, mode: '006', expires: null }
  ])
  const { stdout } = await runStore(t, cwd, 'list')
  const rows = stdout.split('\n').map((line) => line.split(/ {2,}/))
  t.deepEqual(rows, [
    ['MODE', 'UID', 'GID', 'EXPIRES', 'KINDS', 'NAME'],
    ['rw-r-----', `${uid}`, `${gid}`, 'never', 'file,character-device', 'first one'],
    ['------rw-', `${uid}`, `${gid}`, 'never', 'file', 'second'],
    ['']
  ])
})

test('delete deletes what it can, and reports the rest', async (t) => {
  const cwd = await folderWithStore(t)
  for (const name of ['x', 'y', 'z']) t.is((await runStore(t, cwd, 'put', name, 'a')).code, 0)
  const stderr = 'fdpass: store delete: no: There is no entry of this name\n'
  t.deepEqual(await runStore(t, cwd, 'delete', 'x', 'no', 'z'), { ...succeeded, code: 1, stderr })
  t.deepEqual(
    (await listed(t, cwd)).map(({ name }) => name),
    ['y']
  )
  t.deepEqual(await runStore(t, cwd, 'delete', 'y'), succeeded)
})

test('--wait waits for the store, and no longer than its limit', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  const waiting = runStore(t, cwd, 'put', '--wait', '20', 'x', 'a')
  await pause(700)
  await startStore(t, cwd)
  t.deepEqual(await waiting, succeeded)
  const begun = performance.now()
  const { code, stderr } = await fdpass(t, ['store', 'list', '--wait', '0.5', './no.sock'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: store list: ./no.sock: No such file or directory\n' })
  t.true(performance.now() - begun >= 500)
})

test('a hostile store or sender affects no terminal: not by errors, lists, messages and JSON [S219]', async (t) => {
  const cwd = folderWithFiles()
  const evil = 'x\u001b[2J\u0007\u007f\u009b1m\u061c\u200b\u202e\u2066\u2028\u{e0041}y'
  const printable = /^[ -~\n]*$/
  using server = await listen(join(cwd, 's.sock'))
  const entry = { name: evil, kinds: [evil], uid: 1, gid: 1, mode: 0o600, expires: null }
  const answers: (() => unknown)[] = [
    () => {
      throw Object.assign(new Error(`${evil}\nfdpass: all is well`), { path: evil, errno: -1, code: 'EPERM' })
    },
    () => {
      throw new Error(`${evil}\nfdpass: all is well`)
    },
    () => [entry],
    () => [entry],
    () => [{ ...entry, mode: evil }],
    () => [null]
  ]
  const channels: Channel[] = []
  t.teardown(() => channels.forEach((channel) => channel.close()))
  void (async () => {
    for await (const socket of server) {
      const channel = new Channel(socket)
      channels.push(channel)
      channel.onRequest(() => ({ value: answers.shift()!() }))
    }
  })()
  for (const debug of [{}, { FDPASS_DEBUG: '1' }]) {
    const { code, stdout, stderr } = await fdpass(t, ['store', 'list', './s.sock'], {
      cwd,
      env: { ...installed, ...debug }
    })
    t.is(code, 1)
    t.regex(stdout + stderr, printable)
    t.notRegex(stderr, /^fdpass: all is well/m)
  }
  const table = await fdpass(t, ['store', 'list', './s.sock'], { cwd })
  t.regex(table.stdout, printable)
  const { stdout } = await fdpass(t, ['store', 'list', '--json', './s.sock'], { cwd })
  t.regex(stdout, printable)
  t.like(JSON.parse(stdout), { name: evil, kinds: [evil] })
  for (const options of [['--json'], []]) {
    const unknown = await fdpass(t, ['store', 'list', ...options, './s.sock'], { cwd })
    t.is(unknown.code, 1)
    t.regex(unknown.stderr, /Protocol error/i)
  }
  for (const options of [['--json'], []]) {
    const receiving = startRecv(t, cwd, ['--count', '1', ...options])
    await runSend(t, cwd, ['--data', evil, 'a'])
    const received = await receiving.ended
    t.is(received.code, 0)
    t.regex(received.stdout, printable)
    if (options.length > 0) t.is((JSON.parse(received.stdout) as { data: string }).data, evil)
  }
})

test('a name that libsystemd does not read as it is written is unknown to a program [S220]', async (t) => {
  const cwd = folderWithFiles()
  for (const [name, shown] of [
    ['a\\', 'unknown'],
    ['a\\b', 'unknown'],
    ['a:b', 'unknown'],
    ['a b', 'a b']
  ] as const) {
    const receiving = startRecv(t, cwd, ['--', 'sh', '-c', 'echo "$LISTEN_FDNAMES"'])
    await runSend(t, cwd, ['--data', name, 'a'])
    t.is((await receiving.ended).stdout, `${shown}\n`)
  }
})
