import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync, existsSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { takeover } from 'fdpass/takeover'
import {
  askService,
  begin,
  folderInPackage,
  folderWithWorker,
  installed,
  startServe,
  answerOf,
  dial,
  fdpass,
  workerProgram
} from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { turns } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

/** A module to preload, with which opening services.json waits for the writer of the FIFO 'hang', if it exists, as on a dead file system. */
const hangingOpen = `import fs, { existsSync, writeSync } from 'node:fs'
  import { syncBuiltinESMExports } from 'node:module'
  const { open } = fs
  fs.open = (path, flags, done) => {
    if (!String(path).endsWith('services.json') || !existsSync('hang')) return open(path, flags, done)
    writeSync(2, 'It hangs\\n')
    open('hang', 'r', done)
  }
  syncBuiltinESMExports()`

onLinux(
  'a file that cannot be read again for a while, or is a FIFO then, keeps serve from no signal [S260]',
  async (t) => {
    for (const hangs of [false, true]) {
      const cwd = folderInPackage()
      const file = join(cwd, 'services.json')
      const path = join(cwd, 'x.sock')
      writeFileSync(join(cwd, 'hook.mjs'), hangingOpen)
      writeFileSync(file, JSON.stringify({ listen: `unix:${path}`, command: ['/bin/cat'], mode: 'nowait' }))
      const env = { ...installed, NODE_OPTIONS: `--import=${join(cwd, 'hook.mjs')}` }
      const running = startServe(t, cwd, ['--config', file], { env })
      await running.printed(/Listening on unix:/)
      if (!hangs) rmSync(file)
      execFileSync('mkfifo', [hangs ? join(cwd, 'hang') : file])
      running.child.kill('SIGHUP')
      await running.printed(hangs ? /It hangs/ : /services\.json.* must come from a regular file/)
      t.is(await askService(path, 'hello'), 'hello')
      running.child.kill('SIGTERM')
      t.is((await running.ended).signal, 'SIGTERM')
    }
  }
)

onLinux(
  'a reload of a file system that does not respond ends at its deadline, serve continues, and no second thread waits [S269]',
  async (t) => {
    const cwd = folderInPackage()
    const [file, hang, path, next] = ['services.json', 'hang', 'x.sock', 'y.sock'].map((name) => join(cwd, name)) as [
      string,
      string,
      string,
      string
    ]
    const configure = (listen: string) =>
      writeFileSync(
        file,
        JSON.stringify({ listen: `unix:${listen}`, command: ['/bin/cat'], mode: 'nowait', readTimeout: 200 })
      )
    writeFileSync(join(cwd, 'hook.mjs'), hangingOpen)
    configure(path)
    const env = { ...installed, NODE_OPTIONS: `--import=${join(cwd, 'hook.mjs')}` }
    const running = startServe(t, cwd, ['--config', file], { env })
    await running.printed(/Listening on unix:/)
    execFileSync('mkfifo', [hang])
    const late = 'fdpass: serve: .*services\\.json: Connection timed out\n'
    for (let times = 1; times <= 3; times++) {
      running.child.kill('SIGHUP')
      await running.printed(new RegExp(`(${late}[^]*){${times}}`))
      t.is(await askService(path, 'hello'), 'hello')
    }
    configure(next)
    const writer = await open(hang, 'w') // the first reading goes on
    await writer.close()
    rmSync(hang)
    for (let answer = ''; answer !== 'hello';) {
      running.child.kill('SIGHUP') // again, as a slow machine can exceed the deadline
      await turns(100)
      answer = await askService(next, 'hello').catch((error: NodeJS.ErrnoException) => error.code!)
    }
    running.child.kill('SIGTERM')
    const { stderr } = await running.ended
    t.is(stderr.match(/It hangs/g)!.length, 1, stderr)
  }
)

onLinux(
  'serve reads standard input and a process substitution once, skips a byte order mark, and reads 1 MiB at most [S260]',
  async (t) => {
    const cwd = folderWithWorker()
    const config = JSON.stringify({ listen: `unix:${join(cwd, 'x.sock')}`, module: 'worker.mjs', workers: 1 })
    writeFileSync(join(cwd, 'bom.json'), `\uFEFF${config}`)
    const ways = ['--config bom.json', '--config - < bom.json', '--config <(cat bom.json)', '--config -']
    for (const way of ways) {
      const running = begin(t, 'bash', ['-c', `exec fdpass serve ${way}`], {
        cwd,
        ...(way === '--config -' && { input: `\uFEFF${config}` }) // the others close the pipe unread
      })
      await running.printed(/Listening on unix:/)
      const first = await askService(join(cwd, 'x.sock'))
      running.child.kill('SIGHUP')
      let next = first
      while (next === first) next = await askService(join(cwd, 'x.sock'))
      running.child.kill('SIGTERM')
      const { signal, stderr } = await running.ended
      t.is(signal, 'SIGTERM')
      t.is(
        stderr.replaceAll(/.*Worker \d+ is ready\n/g, ''),
        `fdpass: serve: Listening on unix:${join(cwd, 'x.sock')}\n`
      )
    }
    for (const [way, name, problem] of [
      ['--config - < <(head -c 1048577 /dev/zero)', '/dev/stdin', 'must have at most 1048576 bytes'],
      ['--config /dev/zero', '/dev/zero', 'must come from a regular file, a pipe, a socket or a terminal']
    ] as const) {
      const { code, stderr } = await begin(t, 'bash', ['-c', `exec fdpass serve ${way}`]).ended
      t.deepEqual({ code, stderr }, { code: 1, stderr: `fdpass: serve: ${name}: its content ${problem}\n` })
    }
  }
)

onLinux('a signal ends serve while it waits for the writer of a pipe [S260]', async (t) => {
  const cwd = folderInPackage()
  execFileSync('mkfifo', [join(cwd, 'pipe')])
  const running = startServe(t, cwd, ['--config', 'pipe'])
  // It has begun to read when the open of a writer succeeds.
  const writer = await open(join(cwd, 'pipe'), 'w')
  running.child.kill('SIGTERM')
  t.deepEqual(await running.ended, { code: null, signal: 'SIGTERM', stdout: '', stderr: '' })
  await writer.close()
})

/** Sends requests until its signal is aborted; resolves to the count of answers by process. */
function keepAsking(to: string | number): { readonly end: () => Promise<ReadonlyMap<string, number>> } {
  const ending = new AbortController()
  const answers = new Map<string, number>()
  const askers = Array.from({ length: 4 }, async () => {
    while (!ending.signal.aborted) {
      const [who = ''] = (await askService(to, 'request')).split(' ')
      answers.set(who, (answers.get(who) ?? 0) + 1)
    }
  })
  return {
    async end() {
      ending.abort()
      await Promise.all(askers)
      return answers
    }
  }
}

const listenerWorker = `
import { createServer } from 'node:net'
import { listeners } from 'fdpass/superserver'
const servers = []
for await (const { fd } of listeners()) {
  const server = await fd.toServer({ allowHalfOpen: true })
  servers.push(server)
  server.on('connection', (socket) => {
    socket.on('error', () => {})
    let asked = ''
    socket.setEncoding('utf8').on('data', (data) => {
      asked += data
      if (data.includes('begin')) socket.write('begun')
    })
    socket.on('end', () => socket.end(process.argv[2] + ' ' + process.pid + ' ' + asked))
  })
}
for (const server of servers) server.close()
`

/** Programs that answer with the version that serves; those that receive 'begin' answer at once, and go on. */
const served: Readonly<Record<string, (cwd: string, version: string) => readonly string[]>> = {
  'a program for each connection': (_cwd, version) => [
    '--',
    'sh',
    '-c',
    `read -r text; case $text in *begin*) printf begun; IFS= read -r rest; text="$text$rest";; esac; echo "${version} $text"`
  ],
  'workers that get connections': (cwd, version) => {
    writeFileSync(join(cwd, 'worker.mjs'), workerProgram.replace("process.pid + ' '", "process.argv[2] + ' '"))
    return ['--workers', '2', '--', 'worker.mjs', version]
  },
  'workers that get the listener': (cwd, version) => {
    writeFileSync(join(cwd, 'listener.mjs'), listenerWorker)
    return ['--workers', '2', '--handoff', 'listener', '--', 'listener.mjs', version]
  }
}

for (const [kind, programOf] of Object.entries(served)) {
  for (const where of ['unix:./x.sock', 'tcp:127.0.0.1:0']) {
    onLinux(`serve --takeover refuses nobody while the next one takes over: ${kind}, ${where}`, async (t) => {
      const cwd = folderInPackage()
      const start = async (version: string) => {
        const args = ['--takeover', './place', '--listen', where, ...programOf(cwd, version)]
        const running = startServe(t, cwd, args)
        const [, port] = await running.printed(/Listening on (?:unix:.*|tcp:127\.0\.0\.1:(\d+))\n/)
        return { running, to: port === undefined ? join(cwd, 'x.sock') : Number(port) }
      }
      let { running, to } = await start('v0')
      const asking = keepAsking(to)
      for (let version = 1; version <= 3; version++) {
        const long = dial(to)
        long.setEncoding('utf8').write('begin\n')
        t.is((await once(long, 'data'))[0], 'begun')
        const next = await start(`v${version}`)
        t.is(next.to, to)
        await running.printed(/^fdpass: serve: Another process has taken over\n/m)
        t.is(running.child.exitCode, null) // it finishes what is open
        let answered = await askService(to, 'now')
        if (kind === 'workers that get the listener') {
          // A worker that accepts itself does so until it is notified.
          const deadline = performance.now() + 10_000
          while (answered.startsWith(`v${version - 1} `)) {
            t.true(performance.now() < deadline)
            answered = await askService(to, 'now')
          }
        }
        t.regex(answered, new RegExp(`^v${version} `))
        long.end(' end\n')
        t.regex(await answerOf(long), new RegExp(`^v${version - 1} .*begin\\s* end\\n$`))
        const { code, signal } = await running.ended
        t.deepEqual({ code, signal }, { code: 0, signal: null })
        running = next.running
      }
      const answers = await asking.end()
      t.deepEqual([...answers.keys()].toSorted(), ['v0', 'v1', 'v2', 'v3'])
      running.child.kill('SIGTERM')
      t.is((await running.ended).signal, 'SIGTERM')
      t.false(existsSync(join(cwd, 'x.sock')))
      t.false(existsSync(join(cwd, 'place')))
    })
  }
}

onLinux('serve --takeover leaves all as it was where the next one does not start', async (t) => {
  const cwd = folderWithWorker()
  writeFileSync(join(cwd, 'broken.mjs'), 'setTimeout(() => process.exit(3), 300)')
  const common = ['--takeover', './place', '--listen', 'unix:./x.sock', '--workers', '1', '--']
  const running = startServe(t, cwd, [...common, 'worker.mjs'])
  await running.printed(/Listening/)
  const asking = keepAsking(join(cwd, 'x.sock'))
  const { code, stderr } = await startServe(t, cwd, [...common, 'broken.mjs']).ended
  t.is(code, 1)
  t.regex(stderr, /^fdpass: serve: A worker ended with code 3 before it was ready: .*\n$/)
  t.is((await fdpass(t, ['serve', ...common.slice(0, 5), '--nonsense'], { cwd })).code, 2)
  t.regex(await askService(join(cwd, 'x.sock'), 'still'), / still$/)
  t.is((await asking.end()).size, 1)
  running.child.kill('SIGTERM')
  t.is((await running.ended).signal, 'SIGTERM')
})

onLinux('serve --takeover takes over from, and is followed by, a process of fdpass/takeover', async (t) => {
  const cwd = folderInPackage()
  const path = join(cwd, 'place')
  const listen = { web: { path: join(cwd, 'x.sock'), mode: 0o600 } }
  using first = await takeover({ path, listen })
  await first.ready()
  const args = ['--json', '--takeover', path, '--listen', 'unix:./x.sock', '--socket-mode', '600', '--backlog', '9']
  const running = startServe(t, cwd, [...args, '--', 'sh', '-c', 'echo superserver'])
  await running.printed(/"event":"listening"/)
  t.is((await first.superseded).credentials.pid, running.child.pid ?? null)
  first.listeners.web!.closeSync()
  t.is(await askService(join(cwd, 'x.sock')), 'superserver\n')
  using last = await takeover({ path, listen })
  await last.ready()
  const { code, stdout, stderr } = await running.ended
  t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  t.true(stdout.endsWith('{"event":"superseded"}\n'), stdout)
  const server = createServer((socket) => socket.end('last'))
  void last.serve(server, 'web')
  t.is(await askService(join(cwd, 'x.sock')), 'last')
  t.is(statSync(join(cwd, 'x.sock')).mode & 0o777, 0o600)
})

onLinux('A signal ends serve at once when the next one has taken over, by that signal', async (t) => {
  const cwd = folderWithWorker()
  const start = async () => {
    const args = ['--takeover', './place', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'worker.mjs']
    const running = startServe(t, cwd, args)
    await running.printed(/Listening/)
    return running
  }
  const first = await start()
  const long = dial(join(cwd, 'x.sock'))
  long.on('error', () => {}).write('begin')
  await once(long, 'data')
  await start()
  await first.printed(/Another process has taken over/)
  first.child.kill('SIGTERM')
  t.is((await first.ended).signal, 'SIGTERM')
  t.regex(await askService(join(cwd, 'x.sock'), 'next'), / next$/)
})
