import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { memfd } from 'fdpass'
import { connectStore } from 'fdpass/store'
import { ask, done, serve, withStore } from '../helpers/cli-store.ts'
import { begin, fdpass, sandbox, script } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'

const [uid, gid] = [process.getuid?.(), process.getgid?.()]

const onLinux = onlyIf(isLinux, 'needs Linux')

const pause = (milliseconds: number) => new Promise((wake) => setTimeout(wake, milliseconds))

/** The entries, as `list --json` prints them. */
async function listed(t: ExecutionContext, cwd: string): Promise<any[]> {
  const { stdout } = await ask(t, cwd, 'list', '--json')
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

test('get prints a file from its beginning, as often as it is asked, and moves no offset', async (t) => {
  const cwd = await withStore(t)
  t.deepEqual(await ask(t, cwd, 'put', 'name of it', 'a'), done)
  const some = await ask(t, cwd, 'get', 'name of it', '--', 'sh', '-c', 'dd bs=7 count=1 status=none <&3')
  t.is(some.stdout, 'content')
  for (let i = 0; i < 2; i++) t.deepEqual(await ask(t, cwd, 'get', 'name of it'), { ...done, stdout: 'content of a' })
  // The content behind the seven bytes that were read.
  t.is((await ask(t, cwd, 'get', 'name of it', '--', 'sh', '-c', 'cat <&3')).stdout, ' of a')
})

onlyIf(isLinux, 'needs memfd')('get prints memory, and what is larger than it reads at a time', async (t) => {
  const cwd = await withStore(t)
  const content = Buffer.alloc(3_000_001, 'abcdefg')
  using store = await connectStore(join(cwd, 's.sock'))
  using memory = memfd()
  writeSync(memory.fd, content)
  await store.put('memory', memory)
  const { stdout } = await ask(t, cwd, 'get', 'memory')
  t.true(Buffer.from(stdout).equals(content))
})

test('get copies a FIFO until its end, whether its reads wait or not', async (t) => {
  const cwd = await withStore(t)
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
    const running = ask(t, cwd, 'get', how)
    await pause(200)
    writer.child.stdin!.end('said\n')
    t.deepEqual(await running, { ...done, stdout: 'said\nmore\n' }, how)
  }
  closeSync(reader)
})

test('put opens files as send does, and takes what the shell has opened', async (t) => {
  const cwd = await withStore(t)
  t.is((await ask(t, cwd, 'put', '--append', 'log', 'a')).code, 0)
  t.is((await ask(t, cwd, 'put', '--write', 'new', 'new')).code, 0)
  t.is((await ask(t, cwd, 'put', '--read-write', 'both', 'b', 'newer')).code, 0)
  t.is((await script(t, 'fdpass store put ./s.sock shell - --fd 5 < a 5< b', { cwd })).code, 0)
  t.is((await ask(t, cwd, 'get', 'log', '--', 'sh', '-c', 'echo " and more" >&3')).code, 0)
  t.is((await ask(t, cwd, 'get', 'new', '--', 'sh', '-c', 'echo first >&3')).code, 0)
  t.is((await ask(t, cwd, 'get', 'both', '--', 'sh', '-c', 'cat <&3; echo there >&4')).stdout, 'content of b')
  t.is((await ask(t, cwd, 'get', 'shell', '--', 'sh', '-c', 'cat <&4 <&3')).stdout, 'content of a and more\n')
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
  const cwd = await withStore(t)
  t.is((await ask(t, cwd, 'put', 'x', 'a')).code, 0)
  const stderr = 'fdpass: store put: x: An entry of this name exists\n'
  t.deepEqual(await ask(t, cwd, 'put', 'x', 'b'), { ...done, code: 1, stderr })
  t.is((await ask(t, cwd, 'get', 'x')).stdout, 'content of a')
  t.deepEqual(await ask(t, cwd, 'put', '--replace', 'x', 'b'), done)
  t.is((await ask(t, cwd, 'get', 'x')).stdout, 'content of b')
})

test('A name or a group that cannot be is an error of the command line', async (t) => {
  const cwd = await withStore(t)
  const badName = `NAME must have 1 to 255 printable ASCII characters without ':' and '\\'. Received "a:b"`
  for (const [verb, args, message] of [
    ['put', ['a:b', 'a'], badName],
    ['get', ['a:b'], badName],
    ['delete', ['a:b'], badName],
    ['put', ['--group', 'no such group', 'x', 'a'], '--group is not known. Received "no such group"']
  ] as const) {
    t.deepEqual(await ask(t, cwd, verb, ...args), {
      ...done,
      code: 2,
      stderr: `fdpass: store ${verb}: ${message}\n`
    })
  }
})

onLinux('get reports why an entry cannot be printed, and --remove loses nothing then', async (t) => {
  const cwd = await withStore(t)
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  const put = 'fdpass store put ./s.sock listener --fd 3; fdpass store put ./s.sock folder .'
  t.is((await script(t, put, { cwd, stdio: ['ignore', 'pipe', 'pipe', fd] })).code, 0)
  server.close()
  t.is((await ask(t, cwd, 'put', '--append', 'log', 'a')).code, 0)
  t.is((await ask(t, cwd, 'put', 'two', 'a', 'b')).code, 0)
  const entries = await listed(t, cwd)
  for (const [name, reason] of [
    ['listener', 'This is a tcp-listener, which cannot be printed: pass it to a program, after --'],
    ['folder', 'This is a directory, which cannot be printed: pass it to a program, after --'],
    ['log', 'This is not open for reading: pass it to a program, after --'],
    ['two', 'These are 2 descriptors: pass them to a program, after --']
  ] as const) {
    for (const args of [[], ['--remove']]) {
      const ended = await ask(t, cwd, 'get', ...args, name)
      t.deepEqual(ended, { ...done, code: 1, stderr: `fdpass: store get: ${name}: ${reason}\n` })
    }
  }
  t.is((await ask(t, cwd, 'get', '--remove', 'two', '--', 'no-such-program')).code, 127)
  t.deepEqual(await listed(t, cwd), entries)
  t.deepEqual(await script(t, 'fdpass store put ./s.sock b b; fdpass store get ./s.sock b >> b', { cwd }), {
    ...done,
    code: 1,
    stderr: 'fdpass: store get: Input file is output file\n'
  })
})

test('A program that get runs has the descriptors, and their name, and its exit status is that of get', async (t) => {
  const cwd = await withStore(t)
  t.is((await ask(t, cwd, 'put', 'pair', 'a', 'b')).code, 0)
  const text = 'echo "$LISTEN_FDS $LISTEN_FDNAMES"; test "$LISTEN_PID" = $$ && cat <&3 && cat <&4; exit 7'
  t.deepEqual(await ask(t, cwd, 'get', '--remove', 'pair', '--', 'sh', '-c', text), {
    ...done,
    code: 7,
    stdout: '2 pair:pair\ncontent of acontent of b'
  })
  t.deepEqual(await ask(t, cwd, 'get', 'pair', '--', 'cat'), {
    ...done,
    code: 1,
    stderr: 'fdpass: store get: pair: There is no entry of this name\n'
  })
})

test('Of several that get something with --remove at the same time, one gets it', async (t) => {
  const cwd = await withStore(t)
  for (const program of [[], ['--', 'sh', '-c', 'cat <&3']]) {
    t.is((await ask(t, cwd, 'put', 'job', 'a')).code, 0)
    const all = await Promise.all(Array.from({ length: 4 }, () => ask(t, cwd, 'get', '--remove', 'job', ...program)))
    t.is(all.filter(({ code, stdout }) => code === 0 && stdout === 'content of a').length, 1)
    const missing = all.filter(({ stderr }) => stderr === 'fdpass: store get: job: There is no entry of this name\n')
    t.is(missing.length, 3)
    t.deepEqual(await listed(t, cwd), [])
  }
})

test('What expires is listed with the time that it has, and goes', async (t) => {
  const cwd = await withStore(t)
  t.is((await ask(t, cwd, 'put', '--expires', '3600', 'long', 'a')).code, 0)
  t.is((await ask(t, cwd, 'put', '--expires', '0.5', 'short', 'a')).code, 0)
  const long = (await listed(t, cwd))[0]
  t.true(long.expires > 3500 && long.expires <= 3600, JSON.stringify(long))
  t.regex((await ask(t, cwd, 'list')).stdout, /^rw------- +\d+ +\d+ +3[56]\d\d {2}file {3}long$/m)
  await pause(600)
  t.deepEqual(
    (await listed(t, cwd)).map(({ name }) => name),
    ['long']
  )
})

test('list shows a table, or lines of JSON with what the options of put take', async (t) => {
  const cwd = await withStore(t)
  t.deepEqual(await ask(t, cwd, 'list'), { ...done, stdout: 'MODE  UID  GID  EXPIRES  KINDS  NAME\n' })
  t.deepEqual(await ask(t, cwd, 'list', '--json'), done)
  t.is((await ask(t, cwd, 'put', '--mode', '640', 'first one', 'a', '/dev/null')).code, 0)
  t.is((await ask(t, cwd, 'put', '--mode', '006', 'second', 'b')).code, 0)
  t.deepEqual(await listed(t, cwd), [
    { name: 'first one', kinds: ['file', 'character-device'], uid, gid, mode: '640', expires: null },
    { name: 'second', kinds: ['file'], uid, gid, mode: '006', expires: null }
  ])
  const { stdout } = await ask(t, cwd, 'list')
  const rows = stdout.split('\n').map((line) => line.split(/ {2,}/))
  t.deepEqual(rows, [
    ['MODE', 'UID', 'GID', 'EXPIRES', 'KINDS', 'NAME'],
    ['rw-r-----', `${uid}`, `${gid}`, 'never', 'file,character-device', 'first one'],
    ['------rw-', `${uid}`, `${gid}`, 'never', 'file', 'second'],
    ['']
  ])
})

test('delete deletes what it can, and reports the rest', async (t) => {
  const cwd = await withStore(t)
  for (const name of ['x', 'y', 'z']) t.is((await ask(t, cwd, 'put', name, 'a')).code, 0)
  const stderr = 'fdpass: store delete: no: There is no entry of this name\n'
  t.deepEqual(await ask(t, cwd, 'delete', 'x', 'no', 'z'), { ...done, code: 1, stderr })
  t.deepEqual(
    (await listed(t, cwd)).map(({ name }) => name),
    ['y']
  )
  t.deepEqual(await ask(t, cwd, 'delete', 'y'), done)
})

test('--wait waits for the store, and no longer than its limit', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  const waiting = ask(t, cwd, 'put', '--wait', '20', 'x', 'a')
  await pause(700)
  await serve(t, cwd)
  t.deepEqual(await waiting, done)
  const begun = performance.now()
  const { code, stderr } = await fdpass(t, ['store', 'list', '--wait', '0.5', './no.sock'], { cwd })
  t.deepEqual({ code, stderr }, { code: 1, stderr: 'fdpass: store list: ./no.sock: No such file or directory\n' })
  t.true(performance.now() - begun >= 500)
})
