import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { bindListener, socketpair } from 'fdpass'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { openFile, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { newPort, until } from '../helpers/inetds.ts'
import { type Program, endWith, fixturePath, fixtureSource, runs } from '../helpers/processes.ts'

const folder = temporaryFolder()
const onLinux = onlyIf(isLinux, 'needs Linux')
const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')
const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd')
const canActivate = runs('systemd-socket-activate', '--version')
const withActivation = onlyIf(canActivate, 'needs systemd-socket-activate')
const PIDFS = 0x50494446
const hasPidfs = hasPython && pidfdId('self') !== undefined

type Environment = Readonly<Record<string, string>>

/** The inode number of a process's pidfd, as Python finds it out; undefined where pidfds have none of their own. */
function pidfdId(pid: string): string | undefined {
  const code = `import ctypes, os
pid = os.getpid() if "${pid}" == "self" else int("${pid}")
fd = os.pidfd_open(pid)
buffer = (ctypes.c_long * 64)()
assert ctypes.CDLL(None).fstatfs(fd, buffer) == 0 and buffer[0] == ${PIDFS}
print(os.fstat(fd).st_ino)`
  const { stdout, status } = spawnSync('python3', ['-c', code], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore']
  })
  return status === 0 ? stdout.trim() : undefined
}

const node = [process.execPath, ...process.execArgv, fixturePath('passed')]
/** Replaces itself by the program, whose pid is therefore its own. */
const withOwnPid = ['sh', '-c', 'export LISTEN_PID=$$; exec "$@"', 'sh']

/** Starts a program with descriptors from 3 on, and this environment beside the usual one. */
function start(
  t: ExecutionContext,
  [command, ...args]: readonly string[],
  env: Environment,
  fds: readonly number[],
  input = ''
): Program {
  const child = spawn(command!, args, { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'inherit', ...fds] })
  child.stdin!.end(input)
  return { child, done: endWith(t, child) }
}

const linesOf = (output: string): unknown[] =>
  output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown)

/** What systemd and others write, garbage, and what is meant for somebody else; PID is the reader's own. */
const counts = [
  '1',
  '2',
  '0',
  '-1',
  'x',
  '',
  '2147483648',
  '2147483645',
  '2147483644',
  '99999999999999999999',
  '1x',
  '1.5',
  '3'
]
const plain = ['web:api', 'web:web', 'web', 'a:b:c', '', ':', 'a:', ':b', 'a b:c d', 'é:ü', '"a":\'b\'', '=:%']
/** libsystemd takes what follows a backslash as it is. */
const escapes = ['a\\:b:c', 'a\\b:c', 'a\\\\:b', 'a:b\\', '\\:\\:', 'a:\\', '\\\\:\\\\', 'a\\\\\\:b:c\\\\']
const nameLists = [...plain, ...escapes]
const environments: Environment[] = [
  {},
  ...counts.map((LISTEN_FDS) => ({ LISTEN_PID: 'PID', LISTEN_FDS })),
  ...nameLists.map((LISTEN_FDNAMES) => ({ LISTEN_PID: 'PID', LISTEN_FDS: '2', LISTEN_FDNAMES })),
  ...['', 'a', 'a:b'].map((LISTEN_FDNAMES) => ({ LISTEN_PID: 'PID', LISTEN_FDS: '1', LISTEN_FDNAMES })),
  { LISTEN_PID: 'PID' },
  { LISTEN_FDS: '2' },
  { LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' },
  ...['1', 'x', '', '0', '-1', '99999999999999999999'].map((LISTEN_PID) => ({ LISTEN_PID, LISTEN_FDS: '2' })),
  { LISTEN_PID: '1', LISTEN_FDS: 'x', LISTEN_FDNAMES: 'a' }
]

withLibsystemd('listenFds and sd_listen_fds_with_names agree on environments, garbage included', async (t) => {
  const file = openFile('passed')
  const input = `${environments.map((environment) => JSON.stringify(environment)).join('\n')}\n`
  const ours = start(t, [...node, 'listen'], {}, [file, file], input)
  const theirs = start(t, ['python3', fixtureSource('systemd.py'), 'listen'], {}, [file, file], input)
  const [got, expected] = [linesOf(await ours.done), linesOf(await theirs.done)] as [Result[], Result[]]
  closeSync(file)
  t.is(got.length, environments.length)
  type Result = [error: string | null, names: string[] | string, left: string[], open?: boolean[]]
  for (const [index, environment] of environments.entries()) {
    const title = JSON.stringify(environment)
    const [error, names, left, open] = got[index]!
    const [theirError, theirNames] = expected[index]!
    t.is(error !== null, theirError !== null, `${title}: ${error}, ${theirError}`)
    if (error === null) {
      t.deepEqual(names, theirNames, title)
      t.deepEqual(left, [], title)
    } else {
      // Nothing is taken: it can be tried again.
      t.deepEqual(left, Object.keys(environment), title)
      t.deepEqual(open, [true, true], title)
      t.regex(names as string, new RegExp(`^${error}: .*LISTEN_(PID|FDS|FDNAMES)`), title)
    }
  }
  const taken = got.filter(([error, names]) => error === null && names.length > 0)
  t.true(taken.length > 15 && taken.length < environments.length - 15)
})

onLinux('listenFds takes no numbers but those that systemd writes: decimal, and nothing before them', async (t) => {
  const file = openFile('passed')
  const spellings = ['0x1', ' 1', '+1', '01', '0b1', '1 ']
  const input = spellings.map((LISTEN_FDS) => `${JSON.stringify({ LISTEN_PID: 'PID', LISTEN_FDS })}\n`).join('')
  const results = linesOf(await start(t, [...node, 'listen'], {}, [file, file], input).done) as [string | null][]
  closeSync(file)
  t.deepEqual(
    results.map(([error]) => error),
    spellings.map(() => 'EINVAL')
  )
})

onlyIf(hasPidfs, 'needs Python 3.9, and pidfds with inode numbers of their own (Linux 6.9)')(
  'LISTEN_PIDFDID distinguishes this process from an earlier one with its pid',
  async (t) => {
    const file = openFile('passed')
    t.teardown(() => closeSync(file))
    const exact =
      'export LISTEN_PID=$$ LISTEN_PIDFDID=$(python3 -c "import os; print(os.fstat(os.pidfd_open($$)).st_ino + $OFFSET)"); exec "$@"'
    const run = async (OFFSET: string) =>
      linesOf(await start(t, ['sh', '-c', exact, 'sh', ...node, 'once'], { OFFSET, LISTEN_FDS: '1' }, [file]).done)
    t.deepEqual(await run('0'), [[[['unknown', [['file', null]]]], 0, []]])
    t.deepEqual(await run('1'), [[[], 0, []]])
    const garbage = JSON.stringify({ LISTEN_PID: 'PID', LISTEN_FDS: '1', LISTEN_PIDFDID: 'x' })
    const [[error]] = linesOf(await start(t, [...node, 'listen'], {}, [file, file], `${garbage}\n`).done) as [[string]]
    t.is(error, 'EINVAL')
    // What is passed to another process is not taken because this one cannot find its own number out.
    const short = ['sh', '-c', `ulimit -n 256; ${exact}`, 'sh', ...node, 'full']
    const [full] = linesOf(await start(t, short, { OFFSET: '1', LISTEN_FDS: '1' }, [file]).done)
    t.deepEqual(full, ['EMFILE', ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_PIDFDID'], 0])
  }
)

onLinux('what was passed comes by name and in order, once, through a program that executes another', async (t) => {
  const tcp = bindListener({ port: 0, host: '127.0.0.1' })
  const path = join(folder, 'listener.sock')
  const unix = bindListener({ path })
  const [one, other] = socketpair({ type: 'seqpacket' })
  const file = openFile('a file')
  const numbers = [tcp.fd, unix.fd, file, tcp.fd]
  const env = { LISTEN_FDS: '4', LISTEN_FDNAMES: 'web:api:file:web' }
  const wrapped = [...withOwnPid, 'env', 'MARK=1', 'sh', '-c', 'exec "$@"', 'sh', ...node, 'once']
  const [told] = linesOf(await start(t, wrapped, env, numbers).done)
  const web = ['tcp-listener', tcp.address]
  const passed = [
    ['web', [web, web]],
    ['api', [['unix-listener', path]]],
    ['file', [['file', null]]]
  ]
  t.deepEqual(told, [passed, 0, []])
  for (const descriptor of [tcp, unix]) descriptor.closeSync()
  for (const socket of [one, other]) socket.close()
  closeSync(file)
})

onLinux('where one number is not open nothing is taken, and it can be tried again', async (t) => {
  const file = openFile('still there')
  // 2 descriptors are announced, and one is there: the other number is the runtime's.
  const { done } = start(t, [...withOwnPid, ...node, 'again'], { LISTEN_FDS: '2' }, [file])
  t.deepEqual(linesOf(await done), [['EBADF', 'file', true]])
  closeSync(file)
})

onLinux('where a number is owned by fdpass already, it stays with its owner, and nothing is taken', async (t) => {
  const file = openFile('taken')
  const { done } = start(t, [...withOwnPid, ...node, 'owned'], { LISTEN_FDS: '1' }, [file])
  t.deepEqual(linesOf(await done), [
    [
      'EEXIST: 3, one of the 1 descriptors that LISTEN_FDS announces, is owned by fdpass already, fcntl',
      'file',
      ['LISTEN_PID', 'LISTEN_FDS']
    ]
  ])
  closeSync(file)
})

onLinux("where nothing is open the runtime's own descriptors are not taken", async (t) => {
  const { done } = start(t, [...withOwnPid, ...node, 'nothing'], { LISTEN_FDS: '1' }, [])
  t.deepEqual(linesOf(await done), [
    [
      'EBADF',
      'EBADF: 3, one of the 1 descriptors that LISTEN_FDS announces, is not open, fcntl',
      ['LISTEN_PID', 'LISTEN_FDS']
    ],
    ['the loop goes on']
  ])
})

onLinux(
  'a Worker is refused what was passed to its process, and sees nothing once the main thread has taken it',
  async (t) => {
    const file = openFile('for the main thread')
    const { done } = start(t, [...withOwnPid, ...node, 'worker'], { LISTEN_FDS: '1' }, [file])
    const refused = ['ERR_INVALID_STATE', ['LISTEN_PID', 'LISTEN_FDS']]
    t.deepEqual(linesOf(await done), [[refused, ['unknown'], []], [[]]])
    closeSync(file)
  }
)

/** Starts `systemd-socket-activate`, and waits until it listens. */
async function activate(t: ExecutionContext, args: readonly string[], program: readonly string[]): Promise<Program> {
  const child = spawn('systemd-socket-activate', [...args, ...program], { stdio: ['ignore', 'pipe', 'pipe'] })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const done = endWith(t, child)
  const sockets = args.filter((arg) => arg.startsWith('--listen=')).length
  await until(() => log.split('Listening on ').length > sockets)
  return { child, done }
}

withActivation('systemd-socket-activate passes several sockets with their names', async (t) => {
  const port = newPort()
  const [path, name] = [join(folder, 'activated.sock'), `fdpass-activated-${process.pid}`]
  const listen = [`--listen=127.0.0.1:${port}`, `--listen=${path}`, `--listen=@${name}`, '--fdname=web:local:local']
  const { done } = await activate(t, listen, [...node, 'once'])
  const client = connect(path).on('error', () => {})
  const address = { address: '127.0.0.1', family: 'IPv4', port }
  const passed = [
    ['web', [['tcp-listener', address]]],
    [
      'local',
      [
        ['unix-listener', path],
        ['unix-listener', `\0${name}`]
      ]
    ]
  ]
  t.deepEqual(linesOf(await done), [[passed, 0, []]])
  client.destroy()
})

withActivation('systemd-socket-activate passes sockets of datagrams, without names as `unknown`', async (t) => {
  const port = newPort()
  const path = join(folder, 'datagrams.sock')
  const { done } = await activate(
    t,
    ['--datagram', `--listen=127.0.0.1:${port}`, `--listen=${path}`],
    [...node, 'once']
  )
  const client = createSocket('udp4')
  client.send('begin', port, '127.0.0.1')
  const passed = [
    [
      'unknown',
      [
        ['udp', { address: '127.0.0.1', family: 'IPv4', port }],
        ['unix-dgram', path]
      ]
    ]
  ]
  t.deepEqual(linesOf(await done), [[passed, 0, []]])
  client.close()
})

withActivation('systemd-socket-activate --accept passes each connection', async (t) => {
  const path = join(folder, 'accepted.sock')
  const output = temporaryFile()
  const program = ['sh', '-c', `exec "$@" > ${output}`, 'sh', ...node, 'once']
  const { child, done } = await activate(t, ['--accept', `--listen=${path}`], program)
  const client = connect(path)
    .resume()
    .on('error', () => {})
  await once(client, 'close') // it holds the connection, and closes it at its end
  child.kill('SIGTERM')
  await t.throwsAsync(done)
  t.deepEqual(linesOf(readFileSync(output, 'utf8')), [[[['unknown', [['unix-stream', path]]]], 0, []]])
})

test('without variables nothing is passed', async (t) => {
  const { listenFds } = await import('fdpass/systemd')
  const passed = listenFds()
  t.true(passed instanceof Map)
  t.is(passed.size, 0)
})
