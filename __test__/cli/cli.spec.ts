import { spawnSync } from 'node:child_process'
import { existsSync, openSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import test from 'ava'
import { begin, commandsBelow, commandsIn, fdpass, helpOf, installed, sandbox } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { runs } from '../helpers/processes.ts'

const { version, man } = createRequire(import.meta.url)('fdpass/package.json') as { version: string; man: string }

test('fdpass --version prints the version of the package', async (t) => {
  for (const flag of ['--version', '-V']) {
    t.deepEqual(await fdpass(t, [flag]), { code: 0, signal: null, stdout: `fdpass ${version}\n`, stderr: '' })
  }
})

test('fdpass --help lists the commands, each of which has a help of its own; help COMMAND prints the same', async (t) => {
  const { stdout, code } = await fdpass(t, ['--help'])
  t.is(code, 0)
  const commands = commandsIn(stdout)
  t.true(commands.includes('send') && commands.includes('recv'))
  for (const words of commandsBelow()) {
    const help = await fdpass(t, [...words, '--help'])
    t.deepEqual({ code: help.code, stderr: help.stderr }, { code: 0, stderr: '' })
    t.true(help.stdout.startsWith(`Usage: fdpass ${words.join(' ')} `))
    t.regex(help.stdout, /^Exit status:\n {2}0 .*\n {2}1 .*\n {2}2 /m)
    t.deepEqual(await fdpass(t, ['help', ...words]), help)
    t.false(help.stdout.includes('\u001b')) // no colours
    for (const line of help.stdout.split('\n')) t.true(line.length <= 80, line)
  }
})

test('fdpass without a command prints the help on standard error, and ends with 2', async (t) => {
  const { code, stdout, stderr } = await fdpass(t, [])
  t.deepEqual({ code, stdout }, { code: 2, stdout: '' })
  t.regex(stderr, /^Usage: fdpass COMMAND/)
  const store = await fdpass(t, ['store'])
  t.deepEqual({ code: store.code, stdout: store.stdout }, { code: 2, stdout: '' })
  t.regex(store.stderr, /^Usage: fdpass store COMMAND/)
})

const misuses: Readonly<Record<string, readonly string[]>> = {
  "fdpass: unknown command 'sned' (Did you mean send?)": ['sned'],
  "fdpass: unknown option '--versoin' (Did you mean --version?)": ['--versoin'],
  "fdpass: recv: unknown option '--jsn' (Did you mean --json?)": ['recv', '--jsn', 'x'],
  "fdpass: serve: unknown option '--max-per-clients' (Did you mean --max-per-client?)": [
    'serve',
    '--max-per-clients',
    '1'
  ],
  "fdpass: send: missing required argument 'SOCKET'": ['send'],
  "fdpass: send: option '--type <TYPE>' argument 'tcp' is invalid. Allowed choices are stream, seqpacket, dgram.": [
    'send',
    '--type',
    'tcp',
    'x'
  ],
  "fdpass: recv: option '--count <N>' argument '0' is invalid. It must be a whole number, at least 1.": [
    'recv',
    '--count',
    '0',
    'x'
  ],
  "fdpass: recv: option '--wait <SECONDS>' argument 'soon' is invalid. It must be a number of seconds, such as 2.5.": [
    'recv',
    '--wait',
    'soon',
    'x'
  ],
  "fdpass: recv: option '--socket-mode <MODE>' argument '888' is invalid. It must be an octal number, such as 660.": [
    'recv',
    '--socket-mode',
    '888',
    'x'
  ],
  "fdpass: send: option '--write' cannot be used with option '--append'": ['send', '--write', '--append', 'x', 'y'],
  'fdpass: send: Nothing to send: specify FILE or --fd N': ['send', 'x'],
  'fdpass: send: --listen does not support --type dgram, which has no connections': [
    'send',
    '--listen',
    '--type=dgram',
    'x',
    'y'
  ],
  'fdpass: send: --socket-mode requires --listen': ['send', '--socket-mode', '660', 'x', 'y'],
  'fdpass: send: --wait cannot be used with --listen': ['send', '--listen', '--wait', '1', 'x', 'y'],
  'fdpass: send: --data must not be empty on a stream: a byte carries the descriptor': ['send', '--data', '', 'x', 'y'],
  "fdpass: recv: Expected -- before the program 'cat'": ['recv', 'x', 'cat'],
  "fdpass: recv: Expected -- before the program 'y'": ['recv', 'x', 'y', '--', 'cat'],
  'fdpass: recv: --json cannot be used with PROGRAM': ['recv', '--json', 'x', '--', 'cat'],
  'fdpass: recv: --wait requires --connect': ['recv', '--wait', '1', 'x'],
  'fdpass: recv: --connect does not support --type dgram, which has no connections': [
    'recv',
    '--connect',
    '--type=dgram',
    'x'
  ],
  'fdpass: recv: --socket-mode cannot be used with --connect': ['recv', '--connect', '--socket-mode', '660', 'x'],
  'fdpass: serve: Nothing to listen on: specify --listen WHERE or --config FILE': ['serve', '--', 'cat'],
  'fdpass: serve: No program to run: specify -- PROGRAM or --config FILE': ['serve', '--listen', 'tcp:0'],
  'fdpass: serve: --config cannot be used with PROGRAM: set it in the file': ['serve', '--config', 'x', '--', 'cat'],
  'fdpass: serve: --listen WHERE=PORT is for a Node server that is a worker': [
    'serve',
    '--listen',
    'tcp:0=3000',
    '--',
    'cat'
  ],
  'fdpass: serve: --listen WHERE=PORT is out of range. It must be >= 1 and <= 65535. Received type number (70000)': [
    'serve',
    '--listen',
    'tcp:0=70000',
    '--',
    'x.mjs'
  ],
  "fdpass: serve: --listen is listed twice: 'tcp:0'": ['serve', '--listen', 'tcp:0', '--listen', 'tcp:0', '--', 'cat'],
  "fdpass: serve: option '--env <NAME=VALUE>' argument 'X' is invalid. It must be NAME=VALUE.": ['serve', '--env', 'X'],
  "fdpass: serve: option '--rlimit <NAME=SOFT[:HARD]>' argument 'core' is invalid. It must be NAME=NUMBER or NAME=SOFT:HARD.":
    ['serve', '--rlimit', 'core'],
  'fdpass: serve: --config cannot be used with --max-connections: set it in the file': [
    'serve',
    '--config',
    'x',
    '--max-connections',
    '1'
  ],
  "fdpass: serve: --max-connections is for mode 'workers' with handoff 'connection', or mode 'nowait'. This service has mode 'wait'":
    ['serve', '--listen', 'tcp:0', '--mode', 'wait', '--max-connections', '1', '--', 'cat'],
  "fdpass: serve: --listen must be 'tcp:HOST:PORT', 'udp:HOST:PORT', 'unix:PATH' or 'fd:N', an IPv6 address in brackets. Received 'http'":
    ['serve', '--listen', 'http', '--', 'cat'],
  'fdpass: serve: --user is not known. Received "nobody else"': [
    'serve',
    '--listen',
    'tcp:0',
    '--user',
    'nobody else',
    '--',
    'cat'
  ],
  'fdpass: serve: --rlimit files is no limit of this system': [
    'serve',
    '--listen',
    'tcp:0',
    '--rlimit',
    'files=1',
    '--',
    'cat'
  ],
  "fdpass: store: unknown command 'gte' (Did you mean get?)": ['store', 'gte'],
  "fdpass: store put: missing required argument 'NAME'": ['store', 'put', 'x'],
  "fdpass: store put: unknown option '--expire' (Did you mean --expires?)": ['store', 'put', '--expire', '1', 'x'],
  'fdpass: store put: Nothing to store: specify FILE or --fd N': ['store', 'put', 'x', 'name'],
  'fdpass: store put: --expires must be more than 0': ['store', 'put', '--expires', '0', 'x', 'name', '/dev/null'],
  "fdpass: store get: Expected -- before the program 'cat'": ['store', 'get', 'x', 'name', 'cat'],
  "fdpass: store delete: missing required argument 'NAME'": ['store', 'delete', 'x'],
  'fdpass: store serve: --max-fds is out of range. It must be >= 1 and <= 4000. Received type number (5000)': [
    'store',
    'serve',
    '--max-fds',
    '5000',
    'x'
  ],
  'fdpass: store serve: SOCKET must not be empty': ['store', 'serve', ''],
  "fdpass: store serve: --takeover must differ from the store's own address": [
    'store',
    'serve',
    '--takeover',
    'x',
    'x'
  ],
  'fdpass: serve: --config cannot be used with --takeover: set it in the file': [
    'serve',
    '--config',
    'y',
    '--takeover',
    'x'
  ],
  "fdpass: completion: command-argument value 'csh' is invalid for argument 'SHELL'. Allowed choices are bash, zsh, fish.":
    ['completion', 'csh']
}

for (const [message, args] of Object.entries(misuses)) {
  test(`A command line that cannot be understood ends with 2: ${args.join(' ')}`, async (t) => {
    const folder = sandbox()
    const { code, stdout, stderr } = await fdpass(t, args, { cwd: folder })
    const [first, ...hints] = stderr.trimEnd().split('\n')
    t.deepEqual({ first, code, stdout }, { first: message, code: 2, stdout: '' })
    for (const hint of hints) t.regex(hint, /^Try 'fdpass (?:\w+ )*--help'\.$/)
    t.false(existsSync(join(folder, 'x')))
  })
}

const failures: Readonly<Record<string, readonly [code: number, ...args: string[]]>> = {
  'fdpass: send: ./x.sock: No such file or directory': [1, 'send', './x.sock', 'file'],
  'fdpass: send: missing: No such file or directory': [1, 'send', './x.sock', 'missing'],
  'fdpass: send: ./file: Connection refused': [1, 'send', './file', 'file'],
  'fdpass: recv: ./no/x.sock: No such file or directory': [1, 'recv', './no/x.sock'],
  'fdpass: recv: ./file: Address already in use': [1, 'recv', './file'],
  'fdpass: recv: ./x.sock: No such file or directory': [1, 'recv', '--connect', './x.sock'],
  [`fdpass: recv: ./${'x'.repeat(200)}: Name too long`]: [1, 'recv', `./${'x'.repeat(200)}`],
  'fdpass: recv: no-such-program: Command not found': [127, 'recv', './x.sock', '--', 'no-such-program'],
  'fdpass: recv: ./file: Permission denied': [126, 'recv', './x.sock', '--', './file'],
  'fdpass: store list: ./x.sock: No such file or directory': [1, 'store', 'list', './x.sock'],
  'fdpass: store put: missing: No such file or directory': [1, 'store', 'put', './x.sock', 'name', 'missing'],
  'fdpass: store get: no-such-program: Command not found': [127, 'store', 'get', 'x', 'y', '--', 'no-such-program'],
  'fdpass: serve: ./missing: No such file': [127, 'serve', '--listen', 'tcp:0', '--', './missing'],
  'fdpass: serve: missing.json: No such file or directory': [1, 'serve', '--config', 'missing.json'],
  [`fdpass: send: --fd 99: Bad file descriptor. Was it redirected, as in '--fd 99 99< FILE'?`]: [
    1,
    'send',
    './x.sock',
    '--fd',
    '99'
  ]
}

for (const [message, [code, ...args]] of Object.entries(failures)) {
  onlyIf(isLinux, 'needs Linux')(
    `A failure is reported in plain words: ${args.join(' ').replace(/x{9,}/, 'x…')}`,
    async (t) => {
      const cwd = sandbox()
      writeFileSync(join(cwd, 'file'), '')
      const ended = await fdpass(t, args, { cwd })
      t.deepEqual(ended, { code, signal: null, stdout: '', stderr: `${message}\n` })
    }
  )
}

test('A configuration file is complained about by its name and the place in it', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a.json'), '{ "services": ')
  writeFileSync(join(cwd, 'b.json'), '{ "services": { "echo": { "listen": "tcp:0", "command": ["cat"] } } }')
  const [a, b] = [
    await fdpass(t, ['serve', '--config', 'a.json'], { cwd }),
    await fdpass(t, ['serve', '--config', 'b.json'], { cwd })
  ]
  t.regex(a.stderr, /^fdpass: serve: a\.json: .*JSON.*\n$/)
  t.regex(b.stderr, /^fdpass: serve: b\.json: services\.echo\.command\[0\] must be the path of an executable: .*\n$/)
  t.deepEqual([a.code, b.code], [1, 1])
})

test('FDPASS_DEBUG=1 shows where an error arose, and nothing else does', async (t) => {
  const args = ['send', './missing.sock', process.execPath]
  const debug = await fdpass(t, args, { env: { ...installed, FDPASS_DEBUG: '1' } })
  t.regex(debug.stderr, /^fdpass: send: .*\nError: .*\n {4}at /)
  const usual = await fdpass(t, args, { env: { ...installed, FDPASS_DEBUG: undefined } })
  t.is(usual.stderr, debug.stderr.slice(0, debug.stderr.indexOf('\n') + 1))
})

onlyIf(isLinux, 'needs /dev/full')(
  'Standard output that takes nothing is an error, and a closed one ends a command quietly',
  async (t) => {
    const full = await fdpass(t, ['--help'], { stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'] })
    t.deepEqual(full, {
      code: 1,
      signal: null,
      stdout: '',
      stderr: 'fdpass: --help: write error: No space left on device\n'
    })
    const { child, ended } = begin(t, 'sh', ['-c', '(sleep 0.2; fdpass completion bash; echo $? >&2) | exec true'])
    t.is((await ended).stderr, '141\n')
    t.is(child.exitCode, 0)
  }
)

onlyIf(runs('groff', '--version'), 'needs groff')('The man page is without a warning of groff’s', (t) => {
  const { stdout, stderr, status } = spawnSync('groff', ['-man', '-ww', '-z', man], { encoding: 'utf8' })
  t.deepEqual({ stdout, stderr, status }, { stdout: '', stderr: '', status: 0 })
})

onlyIf(existsSync('/usr/bin/mandoc'), 'needs mandoc')(
  'The man page is without a warning of mandoc’s, but that it has no date',
  (t) => {
    const { stdout } = spawnSync('mandoc', ['-T', 'lint', man], { encoding: 'utf8' })
    t.deepEqual(
      stdout.split('\n').filter((line) => line !== '' && !line.includes('missing date')),
      []
    )
  }
)

onlyIf(runs('man', '--version'), 'needs man')('man shows every command and option that the help has', (t) => {
  const env = { ...process.env, MANWIDTH: '500', MAN_KEEP_FORMATTING: undefined, LC_ALL: 'C.UTF-8' }
  const page = spawnSync('man', ['-l', man], { encoding: 'utf8', env }).stdout
  for (const words of commandsBelow()) {
    t.true(page.includes(`fdpass ${words.join(' ')}`))
    const stdout = helpOf(words)
    for (const [flag] of stdout.matchAll(/(?<=^ {2})--[\w-]+/gm)) t.true(page.includes(flag), flag)
    for (const [, line] of stdout.matchAll(/^ {2}(fdpass .*)$/gm)) t.true(page.includes(line!), line)
  }
})
