import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { connect as connectUnix } from 'fdpass'
import {
  answerOf,
  askService,
  begin,
  dial,
  fdpass,
  folderInPackage,
  folderWithWorker,
  installed,
  startServe
} from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const isRoot = process.getuid?.() === 0

/** Serves by a shell program on a Unix domain socket, and returns what the program prints. */
async function printedBy(t: ExecutionContext, options: readonly string[], text: string): Promise<string> {
  const cwd = folderInPackage()
  const running = startServe(t, cwd, ['--listen', 'unix:./x.sock', ...options, '--', 'sh', '-c', text])
  await running.printed(/Listening on unix:/)
  return askService(join(cwd, 'x.sock'))
}

test('serve runs a program of PATH for each connection, prints where it listens, and ends by SIGTERM', async (t) => {
  const cwd = folderInPackage()
  const bin = join(cwd, 'bin')
  mkdirSync(bin)
  writeFileSync(join(bin, 'greet'), '#!/bin/sh\nread name\necho "hello $name, $1"\n', { mode: 0o755 })
  const env = { ...installed, PATH: `${bin}:${installed.PATH}` }
  const running = startServe(t, cwd, ['--listen', 'tcp:127.0.0.1:0', '--listen', 'unix:x.sock', '--', 'greet', '-n'], {
    env
  })
  const [, port] = await running.printed(/^fdpass: serve: Listening on tcp:127\.0\.0\.1:(\d+)\n/m)
  await running.printed(new RegExp(`^fdpass: serve: Listening on unix:${cwd}/x\\.sock\\n`, 'm'))
  t.is(await askService(Number(port), 'world\n'), 'hello world, -n\n')
  t.is(await askService(join(cwd, 'x.sock'), 'socket\n'), 'hello socket, -n\n')
  running.child.kill('SIGTERM')
  const { signal, stdout, stderr } = await running.ended
  t.deepEqual({ signal, stdout }, { signal: 'SIGTERM', stdout: '' })
  t.is(stderr, `fdpass: serve: Listening on tcp:127.0.0.1:${port}\nfdpass: serve: Listening on unix:${cwd}/x.sock\n`)
  t.false(existsSync(join(cwd, 'x.sock')))
})

onLinux('serve passes connections to a Node module, in the given number of workers', async (t) => {
  const cwd = folderWithWorker()
  const running = startServe(t, cwd, [
    '--listen',
    'unix:./x.sock',
    '--workers',
    '3',
    '--',
    'worker.mjs',
    '--an',
    'argument'
  ])
  await running.printed(/Listening/)
  const answers = await Promise.all(
    Array.from({ length: 9 }, (_, index) => askService(join(cwd, 'x.sock'), `${index}`))
  )
  for (const [index, answer] of answers.entries()) t.regex(answer, new RegExp(`^\\d+ --an,argument ${index}$`))
  t.is(new Set(answers.map((answer) => answer.split(' ')[0])).size, 3)
})

onLinux('serve hands workers the listener with --handoff listener', async (t) => {
  const cwd = folderInPackage()
  writeFileSync(
    join(cwd, 'worker.mjs'),
    `import { createServer } from 'node:net'
    import { listeners } from 'fdpass/superserver'
    const servers = []
    for await (const { name, fd } of listeners()) {
      servers.push(await fd.toServer())
      servers.at(-1).on('connection', (socket) => socket.end(name))
    }
    for (const server of servers) server.close()`
  )
  const args = [
    '--listen',
    'unix:@fdpass-serve-' + process.pid,
    '--handoff',
    'listener',
    '--workers',
    '1',
    '--',
    'worker.mjs'
  ]
  const running = startServe(t, cwd, args)
  await running.printed(/Listening on unix:@fdpass-serve-/)
  const name = `\0fdpass-serve-${process.pid}`
  // Not by Node's net, which pads an abstract name with zeros in Node 20.
  using socket = await connectUnix(name)
  using message = await socket.recv()
  t.is(Buffer.from(message!.data).toString(), `unix:${name}`)
})

test('serve sets the environment of programs, and their, directory, umask and limits', async (t) => {
  const cwd = folderInPackage()
  const options = [
    '--env',
    'A=1',
    '--env',
    'B=x=y',
    '--cwd',
    '/',
    '--umask',
    '027',
    '--rlimit',
    'nofile=50:60',
    '--rlimit',
    'core=0'
  ]
  t.is(
    await printedBy(t, options, 'echo "$A $B"; pwd; umask; ulimit -n; ulimit -Hn; ulimit -c; test -n "$PATH"; echo $?'),
    '1 x=y\n/\n0027\n50\n60\n0\n0\n'
  )
  t.not(cwd, '/')
})

onlyIf(isRoot && isLinux, 'needs root on Linux')(
  'serve runs programs as another user, which can gain no rights unless allowed',
  async (t) => {
    const text = 'id -u; id -g; id -G; grep NoNewPrivs /proc/self/status'
    t.is(await printedBy(t, ['--user', 'nobody'], text), '65534\n65534\n65534\nNoNewPrivs:\t1\n')
    const options = ['--user', '65534', '--group', 'daemon', '--groups', '2,adm', '--new-privileges']
    t.is(await printedBy(t, options, text), '65534\n1\n1 2 4\nNoNewPrivs:\t0\n')
  }
)

test('serve closes what one client has too many of, and makes the file of its socket with its mode', async (t) => {
  const cwd = folderInPackage()
  const args = ['--listen', 'unix:./x.sock', '--socket-mode', '600', '--max-per-client', '1', '--', 'cat']
  const running = startServe(t, cwd, args)
  await running.printed(/Listening/)
  t.is(statSync(join(cwd, 'x.sock')).mode & 0o777, 0o600)
  const first = dial(join(cwd, 'x.sock'))
  first.write('one')
  await once(first, 'data')
  const second = dial(join(cwd, 'x.sock'))
  second.on('error', () => {}) // it may be reset
  await once(second, 'close')
  first.end('two')
  t.is(await answerOf(first), 'two')
})

onLinux('serve takes one program for all with --mode wait, and receives datagrams so', async (t) => {
  const cwd = folderInPackage()
  const text = 'import socket,sys;s=socket.socket(fileno=0);d,a=s.recvfrom(99);s.sendto(d.upper(),a)'
  const running = startServe(t, cwd, ['--listen', 'udp:127.0.0.1:0', '--mode', 'wait', '--', 'python3', '-c', text])
  const [, port] = await running.printed(/Listening on udp:127\.0\.0\.1:(\d+)/)
  const client = `import socket;s=socket.socket(type=socket.SOCK_DGRAM);s.settimeout(20);s.sendto(b'hello',('127.0.0.1',${port}));print(s.recv(99).decode())`
  t.is((await begin(t, 'python3', ['-c', client]).ended).stdout, 'HELLO\n')
})

test('serve listens on a descriptor that it was started with', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  const running = startServe(t, folderInPackage(), ['--listen', 'fd:3', '--', 'cat'], {
    stdio: ['ignore', 'pipe', 'pipe', fd]
  })
  await running.printed(new RegExp(`Listening on tcp:127\\.0\\.0\\.1:${port}`))
  server.close()
  t.is(await askService(port, 'inherited'), 'inherited')
})

onLinux('SIGTERM lets serve finish what is open, and a second one ends it at once', async (t) => {
  for (const isHurried of [false, true]) {
    const cwd = folderWithWorker()
    const running = startServe(t, cwd, ['--listen', 'unix:./x.sock', '--workers', '1', '--', 'worker.mjs'])
    await running.printed(/Listening/)
    const socket = dial(join(cwd, 'x.sock'))
    socket.on('error', () => {})
    socket.write('begin')
    await once(socket, 'data')
    running.child.kill('SIGTERM')
    while (existsSync(join(cwd, 'x.sock'))) await new Promise((wake) => setTimeout(wake, 10))
    t.is(running.child.exitCode, null)
    if (isHurried) {
      running.child.kill('SIGTERM')
      await once(socket, 'close')
    } else {
      socket.end(' end')
      t.regex(await answerOf(socket), /^\d+ {2}begin end$/)
    }
    t.is((await running.ended).signal, 'SIGTERM')
  }
})

onLinux('serve drains open connections for no longer than --drain-timeout', async (t) => {
  const cwd = folderWithWorker()
  const args = ['--listen', 'unix:./x.sock', '--workers', '1', '--drain-timeout', '0.3', '--', 'worker.mjs']
  const running = startServe(t, cwd, args)
  await running.printed(/Listening/)
  const socket = dial(join(cwd, 'x.sock'))
  socket.on('error', () => {})
  socket.write('begin')
  await once(socket, 'data')
  running.child.kill('SIGTERM')
  const { signal, stderr } = await running.ended
  t.is(signal, 'SIGTERM')
  t.regex(stderr, /\nfdpass: serve: Process \d+ ended by SIGKILL: it exceeded drainTimeout; 1 connections were lost\n$/)
})

onLinux('SIGHUP has serve read its file again, and puts new workers in the place of the old ones', async (t) => {
  const cwd = folderWithWorker()
  const path = join(cwd, 'x.sock')
  const service = (...args: string[]) => ({ listen: `unix:${path}`, module: 'worker.mjs', workers: 1, args })
  writeFileSync(join(cwd, 'services.json'), JSON.stringify(service('first')))
  const running = startServe(t, '/', ['--config', join(cwd, 'services.json')])
  await running.printed(/Listening on unix:/)
  const first = await askService(path)
  t.regex(first, /^\d+ first $/)
  writeFileSync(join(cwd, 'services.json'), JSON.stringify(service('second')))
  running.child.kill('SIGHUP')
  let next = first
  while (next === first) next = await askService(path)
  t.regex(next, /^\d+ second $/)
  writeFileSync(join(cwd, 'services.json'), '{')
  running.child.kill('SIGHUP')
  await running.printed(/^fdpass: serve: .*JSON.*\n/m)
  t.is(await askService(path), next)
})

onLinux('serve prints how a program failed, and that it pauses', async (t) => {
  const cwd = folderInPackage()
  const options = ['--listen', 'unix:./x.sock', '--max-spawns', '1', '--pause', '0.25']
  const running = startServe(t, cwd, [...options, '--', 'sh', '-c', 'echo served; exit 3'])
  await running.printed(/Listening/)
  t.is(await askService(join(cwd, 'x.sock')), 'served\n')
  t.is(await askService(join(cwd, 'x.sock')), 'served\n')
  await running.printed(/^fdpass: serve: Process \d+ ended with code 3\n/m)
  await running.printed(/^fdpass: serve: Too many processes: 'service' pauses for 0\.25 s\n/m)
})

onLinux('serve prints how many connections a worker has lost that exits by itself', async (t) => {
  const cwd = folderInPackage()
  const program = `import { createServer } from 'node:net'
createServer((socket) => socket.on('data', () => process.exit(3)).write('served')).listen(3000)`
  writeFileSync(join(cwd, 'app.mjs'), program)
  const running = startServe(t, cwd, ['--listen', 'tcp:127.0.0.1:0=*', '--workers', '1', '--', 'app.mjs'])
  const [, port] = await running.printed(/Listening on tcp:127\.0\.0\.1:(\d+)/)
  const socket = dial(Number(port))
  socket.on('error', () => {})
  t.deepEqual(await once(socket, 'data'), [Buffer.from('served')])
  socket.write('exit')
  await running.printed(/^fdpass: serve: Process \d+ ended with code 3; 1 connections were lost\n/m)
})

onLinux('SIGHUP while serve starts reloads when the start is complete', async (t) => {
  const cwd = folderWithWorker()
  const module = `import { existsSync, writeFileSync } from 'node:fs'
const isFirst = !existsSync('started')
writeFileSync('started', '')
if (isFirst) process.kill(process.ppid, 'SIGHUP')
await import('./worker.mjs')`
  writeFileSync(join(cwd, 'first.mjs'), module)
  const running = startServe(t, cwd, ['--json', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'first.mjs'])
  await running.printed(/"event":"listening"[^]*"event":"ready"[^]*"event":"exit"/)
  t.regex(await askService(join(cwd, 'x.sock')), /^\d+ /)
  running.child.kill('SIGTERM')
  t.is((await running.ended).signal, 'SIGTERM')
})

onLinux('serve --json prints a line of JSON for all that happens', async (t) => {
  const cwd = folderWithWorker()
  const running = startServe(t, cwd, ['--json', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'worker.mjs'])
  const [line] = await running.printed(/^\{"event":"listening".*\n/)
  t.deepEqual(JSON.parse(line), {
    event: 'listening',
    service: 'service',
    name: `unix:${cwd}/x.sock`,
    address: `unix:${cwd}/x.sock`
  })
  const pid = Number((await askService(join(cwd, 'x.sock'))).split(' ')[0])
  process.kill(pid, 'SIGKILL')
  await running.printed(/"event":"ready"/)
  running.child.kill('SIGTERM')
  const { stdout, stderr } = await running.ended
  t.is(stderr, '')
  const events = stdout
    .trimEnd()
    .split('\n')
    .map((text) => JSON.parse(text))
  t.deepEqual(events[1], {
    event: 'exit',
    service: 'service',
    pid,
    code: null,
    signal: 'SIGKILL',
    lost: 0,
    reason: null
  })
  t.deepEqual(
    events.map(({ event }) => event),
    ['listening', 'exit', 'spawn', 'ready', 'exit']
  )
})

onLinux('serve --json continues when its output has no reader', async (t) => {
  const cwd = folderWithWorker()
  const running = startServe(t, cwd, ['--json', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'worker.mjs'])
  await running.printed(/listening/)
  running.child.stdout!.destroy()
  for (let round = 0; round < 3; round++) {
    const [pid] = (await askService(join(cwd, 'x.sock'))).split(' ')
    process.kill(Number(pid), 'SIGKILL')
  }
  t.regex(await askService(join(cwd, 'x.sock')), /^\d+/)
  running.child.kill('SIGTERM')
  t.is((await running.ended).signal, 'SIGTERM')
})

test('serve reports a failed listen and a failed start, and exits with 1', async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const taken = await fdpass(t, ['serve', '--listen', `tcp:127.0.0.1:${port}`, '--', 'cat'])
  server.close()
  t.is(taken.code, 1)
  t.regex(taken.stderr, new RegExp(`^fdpass: serve: .*127\\.0\\.0\\.1.*${port}.*: Address already in use\\n$`))
  const cwd = folderInPackage()
  writeFileSync(join(cwd, 'broken.mjs'), 'process.exit(3)')
  const broken = await fdpass(t, ['serve', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'broken.mjs'], { cwd })
  t.is(broken.code, 1)
  t.regex(
    broken.stderr,
    /^fdpass: serve: A worker ended with code 3 before it was ready: .*broken\.mjs\. The program has not listened on unix:.*x\.sock\n$/
  )
  t.false(existsSync(join(cwd, 'x.sock')))
})

test('A signal ends serve in order while workers are being started', async (t) => {
  const cwd = folderInPackage()
  writeFileSync(
    join(cwd, 'slow.mjs'),
    `import { writeFileSync } from 'node:fs'\nwriteFileSync('pid', String(process.pid))\nsetInterval(() => {}, 1000)`
  )
  const running = startServe(t, cwd, ['--listen', 'unix:./x.sock', '--workers', '1', '--', 'slow.mjs'])
  while (!existsSync(join(cwd, 'pid')) || readFileSync(join(cwd, 'pid'), 'utf8') === '')
    await new Promise((wake) => setTimeout(wake, 10))
  running.child.kill('SIGTERM')
  const { signal, stderr } = await running.ended
  t.deepEqual({ signal, stderr }, { signal: 'SIGTERM', stderr: '' })
  t.false(existsSync(join(cwd, 'x.sock')))
  t.throws(() => process.kill(Number(readFileSync(join(cwd, 'pid'), 'utf8')), 0), { code: 'ESRCH' })
})
