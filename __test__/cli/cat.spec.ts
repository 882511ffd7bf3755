import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import { begin, fdpass, installed, sandbox, script } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { runs } from '../helpers/processes.ts'

test('fdpass cat prints files to the byte, in their order, as cat does', async (t) => {
  const cwd = sandbox()
  const content = 'läßt\0 sich '.repeat(50_000)
  writeFileSync(join(cwd, 'a'), content)
  writeFileSync(join(cwd, 'b'), '')
  const { code, stdout, stderr } = await fdpass(t, ['cat', 'a', 'b', '-', './a', '--', '-'], {
    cwd,
    input: 'standard input\n'
  })
  t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  t.is(stdout, `${content}standard input\n${content}`)
})

test('fdpass cat complains as cat does, goes on with the next file, and ends with 1', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'before'), 'before\n')
  writeFileSync(join(cwd, 'after'), 'after\n')
  mkdirSync(join(cwd, 'folder'))
  const paths = ['before', 'missing', 'folder', 'after', 'after/x', 'before']
  const { code, stdout, stderr } = await fdpass(t, ['cat', ...paths], { cwd })
  const cat = spawnSync('cat', paths, { cwd, encoding: 'utf8', env: { LC_ALL: 'C', PATH: process.env.PATH } })
  t.deepEqual({ code, stdout }, { code: cat.status, stdout: cat.stdout })
  t.deepEqual(stderr.replaceAll('fdpass: cat: ', ''), cat.stderr.replaceAll('cat: ', ''))
})

const isRoot = process.getuid?.() === 0

onlyIf(isRoot, 'needs root, to be somebody else')(
  'fdpass cat reports a file that may not be opened as cat does',
  async (t) => {
    const cwd = sandbox()
    writeFileSync(join(cwd, 'secret'), 'secret')
    chmodSync(join(cwd, 'secret'), 0)
    const { code, stdout, stderr } = await fdpass(t, ['cat', join(cwd, 'secret')], {
      uid: 65_534,
      gid: 65_534,
      cwd: '/'
    })
    t.is(stdout, '')
    t.regex(stderr, /^fdpass: cat: .*: Permission denied\n$/)
    t.is(code, 1)
  }
)

test('fdpass cat without a FILE, and with -, copies its standard input; with - twice, it has ended the second time', async (t) => {
  for (const args of [[], ['-'], ['-', '-']]) {
    const ended = await fdpass(t, ['cat', ...args], { input: 'from standard input\n' })
    t.deepEqual(ended, { code: 0, signal: null, stdout: 'from standard input\n', stderr: '' }, args.join(' '))
  }
})

onlyIf(isLinux && runs('bash', '--version'), 'needs bash, and /dev/fd')(
  'fdpass cat prints what a shell names by a descriptor',
  async (t) => {
    const { stdout, stderr } = await script(t, 'fdpass cat <(echo one) /dev/stdin <(echo three) <<< two', {}, 'bash')
    t.deepEqual({ stdout, stderr }, { stdout: 'one\ntwo\nthree\n', stderr: '' })
  }
)

test('fdpass cat refuses to copy a file to its own end', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'file'), 'content\n')
  const { code, stderr } = await script(t, 'fdpass cat file - < file >> file', { cwd })
  t.is(stderr, 'fdpass: cat: file: Input file is output file\nfdpass: cat: -: Input file is output file\n')
  t.is(code, 1)
  t.is(readFileSync(join(cwd, 'file'), 'utf8'), 'content\n')
})

test('fdpass cat waits for the writer of a FIFO, and a signal ends it with the process that opens files', async (t) => {
  const cwd = sandbox()
  t.is(spawnSync('mkfifo', ['fifo', 'other'], { cwd }).status, 0)
  const printed = fdpass(t, ['cat', 'fifo'], { cwd })
  const writer = await open(join(cwd, 'fifo'), 'w')
  await writer.writeFile('through a FIFO\n')
  await writer.close()
  t.deepEqual(await printed, { code: 0, signal: null, stdout: 'through a FIFO\n', stderr: '' })

  // Standard error ends when no process has it open any more, the opening process included.
  writeFileSync(join(cwd, 'file'), 'first\n')
  const waiting = begin(t, 'fdpass', ['cat', 'file', 'other'], { cwd })
  await waiting.printed(/first/)
  waiting.child.kill('SIGTERM')
  t.is((await waiting.ended).signal, 'SIGTERM')
})

onlyIf(runs('pgrep', '-V'), 'needs pgrep')(
  'fdpass cat goes on with the next file when the process that opens them was killed',
  async (t) => {
    const cwd = sandbox()
    t.is(spawnSync('mkfifo', ['fifo'], { cwd }).status, 0)
    writeFileSync(join(cwd, 'file'), 'content\n')
    const { child, ended, printed } = begin(t, 'fdpass', ['cat', 'file', 'fifo', 'file'], { cwd })
    await printed(/content/)
    const opener = spawnSync('pgrep', ['-P', `${child.pid}`], { encoding: 'utf8' }).stdout
    process.kill(Number(opener), 'SIGKILL')
    t.deepEqual(await ended, {
      code: 1,
      signal: null,
      stdout: 'content\ncontent\n',
      stderr: 'fdpass: cat: fifo: Connection reset by peer\n'
    })
  }
)

test('fdpass cat copies a file of 1 GiB in constant memory', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'large'), '')
  truncateSync(join(cwd, 'large'), 1024 ** 3)
  const tellMemory = "data:text/javascript,process.on('exit',()=>console.error(process.resourceUsage().maxRSS))"
  const text = 'node --import "$TELL" "$(command -v fdpass)" cat large | wc -c'
  const { stdout, stderr } = await script(t, text, { cwd, env: { ...installed, TELL: tellMemory } })
  t.is(Number(stdout), 1024 ** 3)
  t.true(Number(stderr) < 200 * 1024, `${stderr} KiB`)
})

test('fdpass cat exits silently when its reader is gone', async (t) => {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'file'), 'x'.repeat(4 * 1024 * 1024))
  const { child, ended } = begin(t, 'fdpass', ['cat', 'file'], { cwd })
  await once(child.stdout!, 'data')
  child.stdout!.destroy()
  const { code, stderr } = await ended
  t.deepEqual({ code, stderr }, { code: 141, stderr: '' })
})
